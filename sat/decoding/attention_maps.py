"""Attention maps of a finished caption, replayed by one teacher-forced pass."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from sat.models.base import Output


class AttentionModel(Protocol):
    """A captioning model whose teacher-forced pass returns attention maps."""

    @property
    def start_id(self) -> int: ...
    @property
    def end_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    def __call__(self, features: Tensor, captions: Tensor, lengths: Tensor) -> Output: ...


def attention_maps(model: AttentionModel, features: Tensor, words: list[int]) -> Tensor:
    """Attention maps float[T, h, w] of a caption of T words, equal to those of single steps.

    `features` float[1, P, D] come from a square grid; `words` are ids without start and end. Start
    and padding within them, as Hugging Face's rule allows, are no words: they have no map.
    """
    caption = torch.tensor([[model.start_id, *words, model.end_id]], device=features.device)
    lengths = torch.tensor([caption.shape[1]], device=features.device)
    alphas = model(features, caption, lengths).alphas[0, : len(words)]
    special = (model.start_id, model.pad_id)
    alphas = alphas[[i for i, word in enumerate(words) if word not in special]]
    side = math.isqrt(alphas.shape[1])
    return alphas.reshape(-1, side, side).float()


def mean_maps(maps: Tensor, lengths: list[int]) -> Tensor:
    """Mean float[W, h, w] of the maps float[T, h, w] of each word's tokens; `lengths` int[W].

    As in Clark et al. 2019, "What does BERT look at?", section 4.
    """
    if not lengths:
        return maps[:0]
    return torch.stack([part.mean(dim=0) for part in maps.split(lengths)])
