"""Weights in few bytes: half precision, and large matrices as int8 with one scale per row."""

from __future__ import annotations

import torch
from torch import Tensor

INT8_ABOVE_ELEMENTS = 500_000
SCALE = ".scale"  # suffix to the name of a matrix: the scales of its rows


def quantize(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Store the weights with 11 significant bits, those of large matrices with 8."""
    quantized = {}
    for name, value in weights.items():
        if value.ndim == 2 and value.numel() > INT8_ABOVE_ELEMENTS:
            scale = value.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
            quantized[name] = (value / scale).round().to(torch.int8)
            quantized[name + SCALE] = scale
        else:
            quantized[name] = value.half() if value.is_floating_point() else value
    return quantized


def dequantize(quantized: dict[str, Tensor]) -> dict[str, Tensor]:
    """Restore weights in single precision; weights that were never quantized do not change."""
    weights = {}
    for name, value in quantized.items():
        if name + SCALE in quantized:
            weights[name] = value.float() * quantized[name + SCALE]
        elif not name.endswith(SCALE):
            weights[name] = value.float() if value.is_floating_point() else value
    return weights
