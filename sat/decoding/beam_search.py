"""Beam search over any captioner that can step.

B images, K beams of an image, N rows of state (the beams still searching, image by image), t words
so far, V vocabulary. Attention maps are not carried along: `attention_maps.py` replays them for the
finished caption.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sat.config.decoding import DecodingConfig
from sat.decoding.constraints import apply_constraints, end_ids, next_log_probabilities
from sat.decoding.hypothesis import NEG_INF, Hypothesis, is_settled, rank_hypotheses
from sat.models.base import CaptionModel
from sat.ops.ragged_rows import RaggedRows


def beam_search(
    model: CaptionModel, features: Tensor, options: DecodingConfig
) -> list[list[Hypothesis]]:
    """The best captions of each image, best first, by the rule of the options.

    All images step together, but each is searched alone. The tutorial's rule: a beam that ends is
    set aside, the width of its image shrinks by one, and the best total log-probability wins; an
    image without a finished caption returns its best unfinished one. Hugging Face's rule: the best
    captions that ended or were cut off win, and the width stays until `is_settled`. Beam size one
    is greedy decoding.
    """
    device, num_images = features.device, len(features)
    done: list[list[Hypothesis]] = [[] for _ in range(num_images)]
    state = model.start(features)
    images = torch.arange(num_images, device=device)  # the image of each row
    beams_left = torch.full((num_images,), options.beam_size, device=device)
    scores = torch.zeros(num_images, device=device)
    ends = torch.tensor(end_ids(model, options), device=device)
    words = torch.empty(num_images, 0, dtype=torch.long, device=device)  # (N, t)
    tokens = torch.full((num_images,), model.start_id, device=device)
    for length in range(1, options.max_length + 1):
        logits, state = model.step(tokens, state)
        log_p = next_log_probabilities(logits, words, model, options)
        log_p = apply_constraints(log_p, words, model, options)
        spare = options.keeps_width and length < options.max_length
        wanted = beams_left * (1 + len(ends)) if spare else beams_left  # in case some end
        rows, tokens, scores = _best_of_each_image(log_p, scores, images, wanted)  # (B, K)
        rank = torch.arange(scores.shape[1], device=device)
        alive = (rank < wanted.unsqueeze(1)) & (scores > NEG_INF)
        ended = alive & torch.isin(tokens, ends)
        image, position = (ended & (rank < beams_left.unsqueeze(1))).nonzero(as_tuple=True)
        lines, totals = words[rows[image, position]], scores[image, position]
        for index, line, score in zip(image.tolist(), lines.tolist(), totals.tolist()):
            done[index].append(Hypothesis(line, score, finished=True))
        going = alive & ~ended
        if not options.keeps_width:
            beams_left = beams_left - ended.sum(1)
        elif spare:
            going &= going.cumsum(1) <= options.beam_size
            best = scores.masked_fill(~going, NEG_INF).amax(1).tolist()
            over = [is_settled(*one, length, options) for one in zip(done, best)]
            going &= ~torch.tensor(over, device=device).unsqueeze(1)
        images, position = going.nonzero(as_tuple=True)
        if len(images) == 0:
            return rank_hypotheses(done, options)
        rows, tokens, scores = (part[images, position] for part in (rows, tokens, scores))  # (N,)
        words = torch.cat([words[rows], tokens.unsqueeze(1)], dim=1)
        state = model.reorder(state, rows)
    for index, line, score in zip(images.tolist(), words.tolist(), scores.tolist()):
        done[index].append(Hypothesis(line, score, finished=False))
    return rank_hypotheses(done, options)


def _best_of_each_image(
    log_p: Tensor, scores: Tensor, images: Tensor, beams_left: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The best continuations of each image, best first: row, next word, total score, each [B, K].

    `log_p` float[N, V] of the next words, `scores` float[N] so far. K is the largest number of
    `beams_left` int[B]; missing candidates have the score -inf.
    """
    width = int(beams_left.max())
    best, word = log_p.topk(min(width, log_p.shape[1]), dim=1)  # an image takes no more of one row
    ragged = RaggedRows(images, len(beams_left))
    candidates = ragged.pad(best + scores.unsqueeze(1), fill=NEG_INF).flatten(1)
    best, position = candidates.topk(min(width, candidates.shape[1]), dim=1)
    rows = ragged.pad(torch.arange(len(images), device=images.device))
    row = rows.gather(1, position // word.shape[1])
    return row, ragged.pad(word).flatten(1).gather(1, position), best
