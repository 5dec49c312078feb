"""Choosing the words: greedy, batched beam search, sampling, over any captioner that can step.

B images, K beams, V vocabulary, N rows of state (beams that search, image by image). Nothing here
knows a model: `StepDecoder` says what is asked of one. Attention maps are not carried along; one
teacher-forced pass over the finished caption gives exactly those that stepping saw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sat.config.decoding import DecodingConfig
from sat.decoding.constraints import apply_constraints
from sat.decoding.hypothesis import (
    NEG_INF,
    Hypothesis,
    StepDecoder,
    collect_finished,
    rank_hypotheses,
)
from sat.ops.ragged_rows import RaggedRows

BLOCK, BLOCKWISE_FROM = 64, 16
"""words that are looked at together for the likeliest; rows from which on that is faster"""


def beam_search(
    model: StepDecoder, features: Tensor, options: DecodingConfig
) -> list[list[Hypothesis]]:
    """The tutorial's beam search, all images stepping together, each living by the rule alone.

    A beam that ends is set aside and its image's width shrinks by one; the best total
    log-probability wins. An image in which no beam ended gives its best unfinished one. Width one
    is greedy decoding.
    """
    device, number = features.device, len(features)
    done: list[list[Hypothesis]] = [[] for _ in range(number)]
    state = model.start(features)
    images = torch.arange(number, device=device)  # of each row: a beam that still searches
    room = torch.full((number,), options.beam_size, device=device)  # beams yet to end
    scores = torch.zeros(number, device=device)
    words = torch.empty(number, 0, dtype=torch.long, device=device)  # (N, t)
    tokens = torch.full((number,), model.start_id, device=device)
    for _ in range(options.max_length):
        logits, state = model.step(tokens, state)
        log_p = apply_constraints(logits.float().log_softmax(dim=-1), words, model, options)
        rows, word, scores = _best_of_each_image(log_p, scores, images, room)  # (B, K)
        kept = (torch.arange(scores.shape[1], device=device) < room.unsqueeze(1)) & (
            scores > NEG_INF
        )
        ended = kept & (word == model.end_id)
        image, place = ended.nonzero(as_tuple=True)
        if len(image):
            collect_finished(done, words[rows[image, place]], scores[image, place], image)
            room = room - ended.sum(1)
        images, place = (kept & ~ended).nonzero(as_tuple=True)
        if len(images) == 0:
            return rank_hypotheses(done, options)
        rows, tokens, scores = (part[images, place] for part in (rows, word, scores))
        words = torch.cat([words[rows], tokens.unsqueeze(1)], dim=1)
        state = model.reorder(state, rows)
    for image, row, score in zip(images.tolist(), words.tolist(), scores.tolist()):
        if len(done[image]) < options.num_return_sequences:
            done[image].append(Hypothesis(row, score, finished=False))
    return rank_hypotheses(done, options)


def _best_of_each_image(
    log_p: Tensor, scores: Tensor, images: Tensor, room: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The beams an image's rows may go on as, best first: row, next word, total score; each [B, K].

    From log_p float[N, V] of the next words after rows of `scores` float[N]. K is the largest room;
    where there are not so many, the score is dead.
    """
    most = int(room.max())
    best, word = _top(log_p, min(most, log_p.shape[1]))  # no image takes more of one row
    seats = RaggedRows(images, len(room))
    table = seats.table(best + scores.unsqueeze(1), free=NEG_INF).flatten(1)
    best, place = table.topk(min(most, table.shape[1]), dim=1)
    here = torch.arange(len(images), device=images.device)
    row = seats.table(here).gather(1, place // word.shape[1])
    return row, seats.table(word).flatten(1).gather(1, place), best


def _top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k greatest of each row of float[N, V], greatest first, and where they stand.

    As torch's topk, which is slow on the CPU for many rows: they can only be in the k blocks with
    the greatest maxima, or behind the last whole block.
    """
    blocks, few = values.shape[1] // BLOCK, len(values) < BLOCKWISE_FROM
    if values.device.type != "cpu" or few or blocks < 4 * k:
        return values.topk(k, dim=1)
    maxima = values[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK)).amax(dim=2)
    first = maxima.topk(k, dim=1).indices.unsqueeze(2) * BLOCK  # (N, k, 1)
    rest = torch.arange(blocks * BLOCK, values.shape[1]).expand(len(values), -1)
    places = torch.cat([(first + torch.arange(BLOCK)).flatten(1), rest], dim=1)
    best, index = values.gather(1, places).topk(k, dim=1)
    return best, places.gather(1, index)
