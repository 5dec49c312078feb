"""Attention scores e = f_att(a, h) and their gradient, in chunks that fit a CPU's cache.

Xu et al. 2015, eq. 4, with f_att(a, h) = w · activation(U a + W h). Its hidden layer is the largest
tensor of the model, so it is computed a few rows at a time and never stored.
B images, K rows (beams) of each, N rows, P regions, A attention units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

SCORE_CACHE_ELEMENTS = 2**19
"""elements of the hidden layer that a CPU's cache holds (2 MB in single precision)"""
NO_LIMIT = 2**31
"""rows in a chunk where everything is computed at once"""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh_, "relu": torch.relu_}
"""in place, because their argument is large and not needed afterwards"""
DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda d_out, out: torch.ops.aten.tanh_backward.grad_input(d_out, out, grad_input=out),
    "relu": lambda d_out, out: torch.ops.aten.threshold_backward.grad_input(
        d_out, out, 0, grad_input=out
    ),
}
"""in place: (gradient of the output, output) -> gradient of the input, which overwrites output"""


def select_locations(alpha: Tensor, mode: str) -> Tensor:
    """One-hot float[N, P]: one region of each map float[N, P], its peak ("argmax") or sampled.

    Of a map of NaN any region is drawn, as torch would end the process on CUDA.
    """
    peak = mode == "argmax"
    chosen = alpha.argmax(1, keepdim=True) if peak else alpha.nan_to_num(1.0).multinomial(1)
    return torch.zeros_like(alpha).scatter_(1, chosen, 1)


def rows_per_chunk(projected: Tensor) -> int:
    """Number of rows whose hidden layers, float[P, A] each, a CPU's cache holds; at least one."""
    if projected.device.type != "cpu" or torch.compiler.is_compiling():
        return NO_LIMIT
    return -(-SCORE_CACHE_ELEMENTS // projected[0].numel())


def hidden_layers(projected: Tensor, query: Tensor, activation: str) -> Iterator[Tensor]:
    """Chunks float[n, P, A] of f_att's hidden layer, over the rows of float[B * K, P, A].

    `projected` float[B, P, A] is U a of each image, `query` float[B, K, A] is W h of each row.
    """
    rows = rows_per_chunk(projected)
    images = max(1, rows // query.shape[1])
    for some_projected, some_queries in zip(projected.split(images), query.split(images)):
        for queries in some_queries.split(rows, dim=1):
            layer = some_projected.unsqueeze(1) + queries.unsqueeze(2)  # (b, k, P, A)
            yield ACTIVATIONS[activation](layer).flatten(0, 1)


def attention_scores(projected: Tensor, query: Tensor, weight: Tensor, activation: str) -> Tensor:
    """The scores e float[B, K, P] of eq. 4, without f_att's last bias.

    `projected` float[B, P, A], `query` float[B, K, A], `weight` float[A].
    """
    layers = hidden_layers(projected, query, activation)
    return torch.cat([layer @ weight for layer in layers]).unflatten(0, query.shape[:2])


class ScoreGradients:
    """The gradients of `attention_scores` with one row an image, summed over the steps.

    Every step computes the hidden layer again, chunk by chunk, instead of storing it.
    """

    def __init__(
        self, projected: Tensor, weight: Tensor, activation: str, dtype: torch.dtype
    ) -> None:
        """`projected` float[B, P, A], `weight` float[A]; `dtype` is that of the weight's sum."""
        self._projected, self._weight, self._activation = projected, weight, activation
        self._d_projected = torch.zeros_like(projected)  # not yet multiplied by the weight
        self._d_weight = torch.zeros_like(weight, dtype=dtype)

    def add_step(self, d_scores: Tensor, query: Tensor) -> Tensor:
        """Add a step of the first n images; the gradient float[n, A] of its `query` float[n, A].

        `d_scores` float[n, P] is the gradient of its scores.
        """
        n, rows = len(query), rows_per_chunk(self._projected)
        d_queries = []
        for layer, d_chunk, d_projected in zip(
            hidden_layers(self._projected[:n], query.unsqueeze(1), self._activation),
            d_scores.split(rows),
            self._d_projected[:n].split(rows),
        ):
            self._d_weight += d_chunk.flatten() @ layer.flatten(0, 1)
            d_layer = DERIVATIVES[self._activation](d_chunk.unsqueeze(2), layer)
            d_projected += d_layer
            d_queries.append(d_layer.sum(1))
        return torch.cat(d_queries) * self._weight

    def totals(self) -> tuple[Tensor, Tensor]:
        """The gradients of `projected` and of `weight` over all steps."""
        return self._d_projected * self._weight, self._d_weight.to(self._weight.dtype)
