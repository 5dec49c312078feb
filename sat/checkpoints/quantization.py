"""Weights in few bytes: half precision, and big matrices as int8 rows, each with its scale."""

from __future__ import annotations

import torch
from torch import Tensor

BIG = 500_000
SCALE = ".scale"  # of the rows of the matrix whose name stands before it


def quantize(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in fewer bytes: `dequantize` gives them back to 11 bits, big matrices to 8."""
    packed = {}
    for name, value in weights.items():
        if value.ndim == 2 and value.numel() > BIG:
            scale = value.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            packed[name] = (value / scale).round().to(torch.int8)
            packed[name + SCALE] = scale
        else:
            packed[name] = value.half() if value.is_floating_point() else value
    return packed


def dequantize(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights in single precision; those never packed come back as they are."""
    weights = {}
    for name, value in packed.items():
        if name + SCALE in packed:
            weights[name] = value.float() * packed[name + SCALE]
        elif not name.endswith(SCALE):
            weights[name] = value.float() if value.is_floating_point() else value
    return weights
