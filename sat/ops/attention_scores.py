"""Attention scores computed in blocks that fit the processor's cache.

B images, K rows of each, P regions, C cells, D features, A attention units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

SCORE_CACHE_ELEMENTS = 2**19
"""numbers of an intermediate result that a CPU's cache holds (2 MB in single precision)"""

NO_LIMIT = 2**31
"""more rows than there are"""
CELLS_PER_CHUNK = 32
"""cells that are summed together for several rows"""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh_, "relu": torch.relu_}
"""in place, since what they are given is large and needed no more"""


def select_locations(alpha: Tensor, look: str) -> Tensor:
    """One region a row of the map float[B, P], as ones and zeros: drawn from it, or its peak."""
    chosen = alpha.argmax(1, keepdim=True) if look == "argmax" else alpha.multinomial(1)  # (B, 1)
    return torch.zeros_like(alpha).scatter_(1, chosen, 1)


def rows_cached(projected: Tensor) -> int:
    """Queries of photos float[B, P, A] whose hidden layers a CPU's cache holds."""
    if projected.device.type != "cpu":
        return NO_LIMIT
    return -(-SCORE_CACHE_ELEMENTS // projected[0].numel())


def working_memory(projected: Tensor) -> Tensor | None:
    """Where `hidden_layers` can work word after word, float[...]; None where that gains nothing.

    On the CPU asking for new memory at each word takes longer than the work.
    """
    if torch.is_grad_enabled() or projected.device.type != "cpu":
        return None
    return projected.new_empty(rows_cached(projected) * projected[0].numel())


def hidden_layers(
    projected: Tensor, query: Tensor, activation: str, room: Tensor | None
) -> Iterator[Tensor]:
    """f_att's hidden layer of a few rows at a time, float[n, P, A]; the next may overwrite it.

    Row by row of queries float[B, K, A] of photos whose projections are float[B, P, A]. It is the
    largest thing there is: on the CPU so few rows are taken that it stays in the cache, in the
    `room` that `working_memory` gave, unless a gradient is to pass.
    """
    room = None if torch.is_grad_enabled() else room
    few = rows_cached(projected)
    photos_at_once = max(1, few // query.shape[1])
    for photos, asked in zip(projected.split(photos_at_once), query.split(photos_at_once)):
        for queries in asked.split(few, dim=1):
            shape = (*queries.shape[:2], *photos.shape[1:])  # (b, k, P, A)
            here = None if room is None else room[: math.prod(shape)].view(shape)
            layer = torch.add(photos.unsqueeze(1), queries.unsqueeze(2), out=here)
            yield ACTIVATIONS[activation](layer).flatten(0, 1)


def weighted_sums(weights: Tensor, features: Tensor) -> Tensor:
    """float[B, K, D] of weights float[B, K, C] and features float[B, C, D].

    On the CPU the library sums a few cells at a time nearly twice as fast as all for several rows.
    """
    if features.device.type != "cpu" or weights.shape[1] == 1:
        return torch.bmm(weights, features)
    (first, cells), *rest = zip(
        weights.split(CELLS_PER_CHUNK, 2), features.split(CELLS_PER_CHUNK, 1)
    )
    sums = torch.bmm(first, cells)
    for part, cells in rest:
        sums = sums.baddbmm_(part, cells)
    return sums
