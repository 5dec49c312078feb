"""Dropout masks of many steps at once, drawn as if each step drew its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def stepwise_dropout(
    dropout: nn.Dropout, like: Tensor, sizes: list[int], widths: list[int]
) -> list[Tensor]:
    """One mask float[N, W] for each width W, with `sizes` rows at each step, N in all.

    A width of 0 gives a mask of ones float[N, 1]. Drawn step by step, so a seed gives the same
    masks whether the words come one by one or at once. Outside training every mask is float[1]: 1.
    """
    one = like.new_ones(1)
    if not dropout.training:
        return [one] * len(widths)
    steps = [
        [dropout(one.expand(n, width)) if width else one.expand(n, 1) for width in widths]
        for n in sizes
    ]
    return [torch.cat(masks) for masks in zip(*steps)]
