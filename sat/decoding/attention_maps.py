"""Attention maps of a finished caption, replayed by one teacher-forced pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sat.models.show_attend_tell import ShowAttendTell


def attention_maps(model: ShowAttendTell, features: Tensor, words: list[int]) -> Tensor:
    """float[T, h, w]: the maps that stepping saw, from one teacher-forced pass over the caption.

    `features` float[1, P, D] of a square grid.
    """
    caption = torch.tensor([[model.start_id, *words, model.end_id]], device=features.device)
    lengths = torch.tensor([caption.shape[1]], device=features.device)
    alphas = model(features, caption, lengths).alphas[0, : len(words)]
    side = math.isqrt(alphas.shape[1])
    return alphas.unflatten(1, (side, side)).float()
