"""Attention maps and log-probabilities of finished captions, replayed by one teacher-forced pass.

N captions, T words, P regions, D features, h and w cells of the attention grid.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sat.decoding.hypothesis import Hypothesis
from sat.models.base import CaptionModel, seeded_attention


class Replay(NamedTuple):
    """The attention maps and log-probabilities of one caption."""

    alphas: Tensor
    """float[T, h, w], equal to those of single steps; none of start and padding within a caption"""
    log_probs: list[float]
    """log-probability of each of the T words, then of the end of a finished caption"""
    shown: list[int]
    """positions among the words of those that have a map"""


def replay(
    model: CaptionModel, features: Tensor, captions: Sequence[Hypothesis], seed: int = 0
) -> list[Replay]:
    """The replay of each caption.

    `features` float[N, P, D] of square grids belong to one caption each. Sampled attention is drawn
    anew, from `seed`: maps and log-probabilities are then not those of the search.
    """
    ends = [[] if one.end_id is None else [one.end_id] for one in captions]
    whole = [[model.start_id, *one.words, *end] for one, end in zip(captions, ends)]
    longest = max(map(len, whole))
    padded = [words + [model.pad_id] * (longest - len(words)) for words in whole]
    ids = torch.tensor(padded, device=features.device)
    lengths = torch.tensor([len(words) for words in whole])
    with seeded_attention(model, seed):
        output = model(features, ids, lengths)
    assert output.alphas is not None, "asked for by default"
    side = math.isqrt(output.alphas.shape[-1])
    log_p = output.logits.float().log_softmax(dim=-1)
    log_p = log_p.gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)  # (N, longest - 1)
    replays = []
    for alphas, row, one, line in zip(output.alphas, log_p.tolist(), captions, whole):
        hidden = (model.start_id, model.pad_id)
        shown = [i for i, word in enumerate(one.words) if word not in hidden]
        maps = alphas[shown].unflatten(1, (side, side)).float()
        replays.append(Replay(maps, row[: len(line) - 1], shown))
    return replays


class Replays:
    """The replays of a batch of captions: one pass for all, when one is first asked for.

    Until then the features wait in main memory. The pass is made with dropout on or off as it was
    here, on the device and in the precision of the weights by then.
    """

    def __init__(
        self,
        model: CaptionModel,
        features: Tensor,
        image_of: Sequence[int],
        captions: Sequence[Hypothesis],
        seed: int,
    ) -> None:
        """`image_of` int[N] are the images of N captions, `features` float[B, P, D] of B images."""
        self._model, self._training, self._seed = model, model.training, seed
        self._features, self._image_of, self._captions = features.cpu(), image_of, captions
        self._found: list[Replay] | None = None
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> Replay:
        with self._lock:
            if self._found is None:
                self._found = self._compute()
                self._features = self._features[:0]
            return self._found[number]

    @torch.inference_mode()
    def _compute(self) -> list[Replay]:
        weight, training = next(self._model.parameters()), self._model.training
        features = self._features[self._image_of].to(weight.device, weight.dtype)
        try:
            self._model.train(self._training)
            return replay(self._model, features, self._captions, self._seed)
        finally:
            self._model.train(training)


def join_tokens(replayed: Replay, lengths: list[int]) -> tuple[Tensor, list[float]]:
    """The mean map and the log-probability of each whole word of `lengths` tokens.

    The mean is that of Clark et al. 2019, "What does BERT look at?", section 4.
    """
    log_probs = [replayed.log_probs[i] for i in replayed.shown]
    ends = list(itertools.accumulate(lengths, initial=0))
    parts = list(itertools.pairwise(ends))
    maps = [replayed.alphas[start:end].mean(dim=0) for start, end in parts]
    joined = torch.stack(maps) if maps else replayed.alphas[:0]
    return joined, [sum(log_probs[start:end]) for start, end in parts]
