"""Choosing the words: greedy, batched beam search, sampling, over any captioner that can step.

B images, K beams, V vocabulary, N rows of state (beams that search, image by image). Nothing here
knows a model: `Captions` says what is asked of one. Attention maps are not carried along; one
teacher-forced pass over the finished caption gives exactly those that stepping saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sat.config import Decoding
from sat.seats import Seats

DEAD = float("-inf")
BLOCK, BLOCKWISE_FROM = 64, 16
"""words that are looked at together for the likeliest; rows from which on that is faster"""


class Captions(Protocol):
    """What decoding needs of a captioner; only the captioner looks inside its state."""

    start_id: int
    end_id: int
    pad_id: int
    unk_id: int | None

    def start(self, features: Tensor) -> Any:
        """The state before the first word of each of B images."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits float[N, V] of the word after tokens int[N], and the next state."""

    def reorder(self, state: Any, index: Tensor) -> Any:
        """The state whose row i is row index[i] of this one."""


@dataclass(frozen=True)
class Hypothesis:
    """A caption as the search left it."""

    words: list[int]
    """ids, without the start and the end"""
    score: float
    """total log-probability under the model, the end included"""
    finished: bool
    """False when the step limit came before the end word"""

    def rank(self, length_penalty: float) -> float:
        """What the search maximises: score / length ** penalty, the end counted in the length."""
        return self.score / (len(self.words) + self.finished) ** length_penalty


@torch.inference_mode()
def generate(
    model: Captions,
    features: Tensor,
    options: Decoding,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """For each image its `num_return_sequences` captions, best first, from features float[B, P, D].

    `generator` (on the features' device) draws the words when sampling; one is made from
    `options.seed` when there is none.
    """
    if len(features) == 0:
        return []
    if not options.samples:
        return beam_search(model, features, options)
    if generator is None:
        generator = torch.Generator(features.device).manual_seed(options.seed)
    return sample(model, features, options, generator)


def beam_search(model: Captions, features: Tensor, options: Decoding) -> list[list[Hypothesis]]:
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
        log_p = _forbid(logits.float().log_softmax(dim=-1), words, model, options)
        rows, word, scores = _best_of_each_image(log_p, scores, images, room)  # (B, K)
        kept = (torch.arange(scores.shape[1], device=device) < room.unsqueeze(1)) & (scores > DEAD)
        ended = kept & (word == model.end_id)
        image, place = ended.nonzero(as_tuple=True)
        if len(image):
            _set_aside(done, words[rows[image, place]], scores[image, place], image)
            room = room - ended.sum(1)
        images, place = (kept & ~ended).nonzero(as_tuple=True)
        if len(images) == 0:
            return _finish(done, options)
        rows, tokens, scores = (part[images, place] for part in (rows, word, scores))
        words = torch.cat([words[rows], tokens.unsqueeze(1)], dim=1)
        state = model.reorder(state, rows)
    for image, row, score in zip(images.tolist(), words.tolist(), scores.tolist()):
        if len(done[image]) < options.num_return_sequences:
            done[image].append(Hypothesis(row, score, finished=False))
    return _finish(done, options)


def _best_of_each_image(
    log_p: Tensor, scores: Tensor, images: Tensor, room: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The beams an image's rows may go on as, best first: row, next word, total score; each [B, K].

    From log_p float[N, V] of the next words after rows of `scores` float[N]. K is the largest room;
    where there are not so many, the score is dead.
    """
    most = int(room.max())
    best, word = _top(log_p, min(most, log_p.shape[1]))  # no image takes more of one row
    seats = Seats(images, len(room))
    table = seats.table(best + scores.unsqueeze(1), free=DEAD).flatten(1)
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


def sample(
    model: Captions,
    features: Tensor,
    options: Decoding,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """Captions drawn word by word, after temperature, top-k and nucleus filtering, best first.

    Holtzman et al. 2020 for the nucleus. Without a `generator` torch's own one draws. The score is
    the model's own log-probability, not that of the filtered distribution.
    """
    repeats = options.num_return_sequences
    images = torch.arange(len(features), device=features.device).repeat_interleave(repeats)
    state = model.reorder(model.start(features), images)
    words = images.new_full((len(images), options.max_length), model.pad_id)  # (N, T)
    scores = torch.zeros(len(images), device=features.device)
    ended = torch.zeros_like(images, dtype=torch.bool)
    rows = torch.arange(len(images), device=features.device)  # those that state still holds
    tokens = torch.full_like(rows, model.start_id)
    for t in range(options.max_length):
        logits, state = model.step(tokens, state)
        log_p = logits.float().log_softmax(dim=-1)
        allowed = _forbid(log_p.clone(), words[rows, :t], model, options)
        drawn = torch.multinomial(filtered(allowed, options), 1, generator=generator).squeeze(1)
        tokens = torch.where(ended[rows], model.pad_id, drawn)
        scores[rows] += log_p.gather(1, drawn.unsqueeze(1)).squeeze(1).masked_fill(ended[rows], 0)
        words[rows, t] = tokens
        ended[rows] |= tokens == model.end_id
        speaking = (~ended[rows]).nonzero().flatten()
        if len(speaking) == 0:
            break
        if len(speaking) <= len(rows) / 2:  # seldom, since it copies the state
            rows, tokens = rows[speaking], tokens[speaking]
            state = model.reorder(state, speaking)
    done: list[list[Hypothesis]] = [[] for _ in range(len(features))]
    for row, (image, score, finished) in enumerate(
        zip(images.tolist(), scores.tolist(), ended.tolist())
    ):
        line = words[row].tolist()
        line = line[: line.index(model.end_id)] if finished else line
        done[image].append(Hypothesis(line, score, finished))
    return _finish(done, options)


def filtered(log_p: Tensor, options: Decoding) -> Tensor:
    """Probabilities float[N, V] after temperature, then top-k, then nucleus filtering."""
    logits = log_p / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        least = logits.topk(options.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, DEAD)
    p = logits.softmax(dim=-1)
    if options.top_p < 1:
        ordered, index = p.sort(dim=-1, descending=True)
        before = ordered.cumsum(dim=-1) - ordered  # a word stays while those above it fall short
        p = torch.zeros_like(p).scatter(1, index, ordered.masked_fill(before >= options.top_p, 0))
    return p / p.sum(dim=-1, keepdim=True)


def _forbid(log_p: Tensor, words: Tensor, model: Captions, options: Decoding) -> Tensor:
    """log_p float[N, V], its impossible next words now dead, given words int[N, t] so far.

    Probabilities are not shared out anew: a caption's score stays the model's own.
    """
    banned = {model.pad_id, model.start_id} - {model.end_id}
    if options.forbid_unknown and model.unk_id is not None:
        banned.add(model.unk_id)
    early = words.shape[1] < options.min_length
    if early:
        banned.add(model.end_id)
        ending = log_p[:, model.end_id].clone()
    ids = torch.tensor(sorted(banned), dtype=torch.long, device=log_p.device)
    log_p.index_fill_(1, ids, DEAD)
    size = options.no_repeat_ngram_size
    if size and words.shape[1] >= size:
        for row, line in enumerate(words.tolist()):
            tail = line[len(line) - size + 1 :]
            starts = range(len(line) - size + 1)
            repeats = [line[i + size - 1] for i in starts if line[i : i + size - 1] == tail]
            log_p[row, repeats] = DEAD
    if early:  # where nothing may be said the caption may end
        stuck = log_p.amax(dim=1) == DEAD
        log_p[stuck, model.end_id] = ending[stuck]
    return log_p


def _set_aside(done: list[list[Hypothesis]], words: Tensor, scores: Tensor, images: Tensor) -> None:
    """Add captions int[N, t] that ended to those of their images."""
    for image, line, score in zip(images.tolist(), words.tolist(), scores.tolist()):
        done[image].append(Hypothesis(line, score, finished=True))


def _finish(done: list[list[Hypothesis]], options: Decoding) -> list[list[Hypothesis]]:
    """Each image's captions ranked, finished ones first, cut to the number asked for."""

    def place(caption: Hypothesis) -> tuple[bool, float]:
        return caption.finished, caption.rank(options.length_penalty)

    ranked = [sorted(captions, key=place, reverse=True) for captions in done]
    return [captions[: options.num_return_sequences] for captions in ranked]
