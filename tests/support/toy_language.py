"""A language small enough to write down whole: the oracle of searching and sampling.

Every logit is a hash of the image and of *all* words before it, carried in the state, so that a
state that got mixed up between beams or images gives other captions. B images, N rows of state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

PRIME = 2**31 - 1
Caption = tuple[tuple[int, ...], float, bool]  # words, total log-probability, whether it ended


class State(NamedTuple):
    history: Tensor  # int64[N], a hash
    spoken: Tensor  # int64[N], words so far
    deadline: Tensor  # int64[N], words after which the image wants to end


class Toy:
    """`<pad>` 0, words 1 to `words` - 1, `<unk>`, `<start>`, `<end>`; or all specials one word."""

    samples_attention = False

    def __init__(self, words: int = 3, *, one_special: bool = False, loud: float = 0) -> None:
        self.pad_id, self.unk_id, self.start_id, self.end_id = 0, words, words + 1, words + 2
        self.vocabulary = words + 3
        if one_special:  # as GPT-2
            self.pad_id = self.start_id = self.end_id = words
            self.unk_id, self.vocabulary = None, words + 1
        self.loud = loud  # how much louder padding, start and unknown are than the rest
        self.said = sorted(set(range(self.vocabulary)) - {self.pad_id, self.start_id, self.end_id})

    def start(self, features: Tensor) -> State:
        seeds, deadlines = features[:, 0].long().unbind(dim=1)
        return State(seeds * 7919 % PRIME, torch.zeros_like(seeds), deadlines)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        history = (state.history * 48271 + (tokens + 1) * 69621) % PRIME
        words = torch.arange(1, self.vocabulary + 1)
        mixed = (history.unsqueeze(1) * 16807 + words * 1911711) % PRIME  # (N, V)
        for _ in range(2):
            mixed = (mixed * mixed + words) % PRIME
        logits = 4 * mixed.double() / PRIME
        logits[:, self.end_id] += 30.0 * (state.spoken >= state.deadline)
        if self.loud:
            logits[:, [self.pad_id, self.start_id, self.unk_id]] += self.loud
        return logits.float(), State(history, state.spoken + 1, state.deadline)

    def reorder(self, state: State, index: Tensor) -> State:
        return State(*(part[index] for part in state))

    def log_probabilities(self, image: Tensor, prefix: tuple[int, ...]) -> list[float]:
        """Of each word after `prefix`, found by walking from the start; forbidden words -inf."""
        state = self.start(image.unsqueeze(0))
        for token in (self.start_id, *prefix):
            logits, state = self.step(torch.tensor([token]), state)
        values = logits[0].tolist()
        total = math.log(sum(map(math.exp, values)))
        possible = {*self.said, self.end_id}
        return [v - total if i in possible else -math.inf for i, v in enumerate(values)]

    def captions(
        self, image: Tensor, longest: int, prefix: tuple[int, ...] = (), score: float = 0
    ) -> Iterator[Caption]:
        """Everything that can be said of an image in `longest` steps, the end among them."""
        if len(prefix) == longest:
            yield prefix, score, False
            return
        log_p = self.log_probabilities(image, prefix)
        yield prefix, score + log_p[self.end_id], True
        for word in self.said:
            yield from self.captions(image, longest, (*prefix, word), score + log_p[word])


def photos(*deadlines: int) -> Tensor:
    """Features float[B, 1, 2] of images that want to end after so many words."""
    return torch.tensor([[[float(seed), float(end)]] for seed, end in enumerate(deadlines, 1)])


def textbook_beam_search(
    log_probabilities: Callable[[tuple[int, ...]], list[float]], end: int, width: int, longest: int
) -> list[Caption]:
    """One image, lists of words, no state: the width shrinks by one for each beam that ends.

    Finished captions first, then what is still open after `longest` steps; the better first.
    """
    beams, finished = [((), 0.0)], []
    for _ in range(longest):
        grown = [
            ((*words, word), score + log_p)
            for words, score in beams
            for word, log_p in enumerate(log_probabilities(words))
            if log_p > -math.inf
        ]
        best = sorted(grown, key=lambda beam: beam[1], reverse=True)[: width - len(finished)]
        finished += [(words[:-1], score, True) for words, score in best if words[-1] == end]
        beams = [(words, score) for words, score in best if words[-1] != end]
    finished.sort(key=lambda caption: caption[1], reverse=True)
    return finished + [(words, score, False) for words, score in beams]
