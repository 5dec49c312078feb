"""Beam search over any captioner that can step.

B images, K beams of an image, N rows of state (the beams still searching, image by image), t words
so far, V vocabulary. Attention maps are not carried along: `attention_maps.py` replays them for the
finished caption.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sat.config.decoding import DecodingConfig
from sat.decoding.constraints import apply_constraints, end_ids, next_log_probabilities
from sat.decoding.errors import nan_error
from sat.decoding.hypothesis import NEG_INF, Hypothesis, is_settled, rank_hypotheses
from sat.models.base import CaptionModel
from sat.ops.ragged_rows import RaggedRows, from_host


def beam_search(
    model: CaptionModel, features: Tensor, options: DecodingConfig
) -> list[list[Hypothesis]]:
    """The best captions of each image, best first, by the rule of the options.

    All images step together, but each is searched alone. The tutorial's rule: a beam that ends is
    set aside, the width of its image shrinks by one, and the best total log-probability wins; an
    image without a finished caption returns its best unfinished one. Hugging Face's rule: the best
    captions that ended or were cut off win, and the width stays until `is_settled`. Beam size one
    is greedy decoding. A beam whose next words are all forbidden is dropped; raises `ValueError`
    where an image has no other.
    """
    device, num_images = features.device, len(features)
    done: list[list[Hypothesis]] = [[] for _ in range(num_images)]
    state = model.start(features)
    # On the host, as all but the state: the device is waited for once a word.
    images = np.arange(num_images)  # the image of each row
    beams_left = np.full(num_images, options.beam_size)
    scores = np.zeros(num_images, np.float32)
    ends = end_ids(model, options)
    words = np.empty((num_images, 0), np.int64)  # (N, t)
    tokens = np.full(num_images, model.start_id)
    for length in range(1, options.max_length + 1):
        logits, state = model.step(from_host(tokens, device), state)
        so_far = torch.from_numpy(words)
        log_p = next_log_probabilities(logits, so_far, model, options)
        log_p = apply_constraints(log_p, so_far, model, options)
        spare = options.keeps_width and length < options.max_length
        wanted = beams_left * (1 + len(ends)) if spare else beams_left  # in case some end
        rows, tokens, totals = _best_of_each_image(log_p, scores, images, wanted)  # (B, K)
        rank = np.arange(totals.shape[1])
        alive = (rank < wanted[:, None]) & (totals > NEG_INF)
        ended = alive & np.isin(tokens, ends)
        at = np.nonzero(ended & (rank < beams_left[:, None]))
        found = (words[rows[at]].tolist(), totals[at].tolist(), tokens[at].tolist())
        for image, line, score, end_id in zip(at[0], *found):
            done[image].append(Hypothesis(line, score, True, end_id))
        going = alive & ~ended
        if not options.keeps_width:
            beams_left = beams_left - ended.sum(axis=1)
        elif spare:
            going &= going.cumsum(axis=1) <= options.beam_size
            best = np.where(going, totals, NEG_INF).max(axis=1).tolist()
            over = [is_settled(*one, length, options) for one in zip(done, best)]
            going &= ~np.array(over)[:, None]
        at = np.nonzero(going)
        images, rows, tokens, scores = at[0], rows[at], tokens[at], totals[at]  # (N,)
        if len(images) == 0:
            return rank_hypotheses(done, options)
        words = np.concatenate([words[rows], tokens[:, None]], axis=1)
        state = model.reorder(state, torch.from_numpy(rows))
    for image, line, score in zip(images, words.tolist(), scores.tolist()):
        done[image].append(Hypothesis(line, score, finished=False))
    return rank_hypotheses(done, options)


def _best_of_each_image(
    log_p: Tensor, scores: np.ndarray, images: np.ndarray, beams_left: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best continuations of each image, best first: row, next word, total score, each [B, K].

    `log_p` float[N, V] of the next words, `scores` float[N] so far. K is the largest number of
    `beams_left` int[B]; missing candidates have the score -inf.
    Raises `FloatingPointError` where a best one is NaN.
    """
    device, width = log_p.device, int(beams_left.max())
    best, word = log_p.topk(min(width, log_p.shape[1]), dim=1)  # an image takes no more of one row
    ragged = RaggedRows(torch.from_numpy(images), len(beams_left), device)
    best = best + from_host(scores, device).unsqueeze(1)
    candidates = ragged.pad(best, fill=NEG_INF).flatten(1)
    best, position = candidates.topk(min(width, candidates.shape[1]), dim=1)
    rows = ragged.pad(torch.arange(len(images), device=device))
    row = rows.gather(1, position // word.shape[1])
    word = ragged.pad(word).flatten(1).gather(1, position)
    found = torch.stack([row.int(), word.int(), best.view(torch.int32)]).cpu().numpy()  # one wait
    totals = found[2].view(np.float32)
    if np.isnan(totals).any():
        raise nan_error()
    return found[0].astype(np.int64), found[1].astype(np.int64), totals
