"""Attention over an upsampled grid of features, computed exactly on the original cells.

Adaptive pooling of a network's 8×8 cells up to 14×14 regions, as the tutorial does, makes each
region the mean of one to four cells. Pooling is linear, so the projection of the regions, their
mean and any weighted sum of them can be computed from the cells with other weights: the same
result with a third of the work and memory.

B images, N rows, C cells, P regions, both of square grids; D and X features of each.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d


def enlarge(values: Tensor, regions: int) -> Tensor:
    """The regions float[B, P, X] of cells float[B, C, X]: each the mean of its cells."""
    pooling = pooling_matrix(values, regions)
    return values if pooling is None else pooling @ values


def mean_of_regions(features: Tensor, regions: int) -> Tensor:
    """The mean float[B, D] over the regions of features float[B, C, D]."""
    pooling = pooling_matrix(features, regions)
    return features.mean(dim=1) if pooling is None else pooling.mean(dim=0) @ features


def on_cells(weights: Tensor, pooling: Tensor | None) -> Tensor:
    """The weights float[N, C] of the cells, from those of the regions.

    A sum over the regions with `weights` float[N, P] is a sum over the cells with the result.
    """
    return weights if pooling is None else weights @ pooling


def from_cells(d_cells: Tensor, pooling: Tensor | None) -> Tensor:
    """The gradient float[N, P] of the argument of `on_cells`, from `d_cells` float[N, C]."""
    return d_cells if pooling is None else d_cells @ pooling.t()


def pooling_matrix(features: Tensor, regions: int) -> Tensor | None:
    """float[P, C]: the weight of each cell of features float[B, C, D] in each region.

    Rows sum to one. None where the cells are the regions. Cached: call it outside what
    torch.compile captures.
    """
    if features.shape[1] == regions:
        return None
    return _pooling_matrix(features.shape[1], regions, features.device, features.dtype)


@lru_cache(maxsize=8)
def _pooling_matrix(cells: int, regions: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    side, larger = math.isqrt(cells), math.isqrt(regions)
    if side * side != cells or larger * larger != regions or side > larger:
        raise ValueError(
            f"features have {cells} regions, attention expects {regions}: give those, or a square "
            "grid of fewer"
        )
    with torch.inference_mode(False):  # cached, and may be needed with a gradient later
        one_each = torch.eye(cells).unflatten(1, (side, side)).unsqueeze(1)  # (C, 1, c, c)
        pooled = adaptive_avg_pool2d(one_each, larger).flatten(1).t()  # (P, C)
        return pooled.contiguous().to(device, dtype)
