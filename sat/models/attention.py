"""Attention: which regions of the photo matter for the next word.

B photos, N rows (their beams), K rows of the photo with most, P regions, C cells, D features, A
attention units, H hidden units.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sat.config import Look
from sat.fields import check_choice
from sat.models.grid import enlarge, on_cells
from sat.models.products import Linear
from sat.seats import Seats

CACHED = 2**19
"""numbers of an intermediate result that a CPU's cache holds (2 MB in single precision)"""

ALL = 2**31
"""more rows than there are"""
AT_ONCE = 32
"""cells that are summed together for several rows"""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh_, "relu": torch.relu_}
"""in place, since what they are given is large and needed no more"""

LOOKS = typing.get_args(Look)
EXPECTED_SHARE = 0.5  # of the minibatches of hard attention: arctic-captions' semi_sampling_p


def locations(alpha: Tensor, look: str) -> Tensor:
    """One region a row of the map float[B, P], as ones and zeros: drawn from it, or its peak."""
    chosen = alpha.argmax(1, keepdim=True) if look == "argmax" else alpha.multinomial(1)  # (B, 1)
    return torch.zeros_like(alpha).scatter_(1, chosen, 1)


def rows_cached(projected: Tensor) -> int:
    """Queries of photos float[B, P, A] whose hidden layers a CPU's cache holds."""
    if projected.device.type != "cpu":
        return ALL
    return -(-CACHED // projected[0].numel())


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
    (first, cells), *rest = zip(weights.split(AT_ONCE, 2), features.split(AT_ONCE, 1))
    sums = torch.bmm(first, cells)
    for part, cells in rest:
        sums = sums.baddbmm_(part, cells)
    return sums


class Attention(nn.Module):
    """A distribution over regions, and the context: its expectation, or one region by it.

    Xu et al. 2015, eq. 4-6 and sections 4.1 and 4.2: e_i = f_att(a_i, h), alpha = softmax(e),
    z = sum_i alpha_i a_i, with f_att a network of one hidden layer. At depth 2 the regions pass
    one more before they meet h, so that it too runs once a photo. Where `encoded_image_size` says
    more regions a side than features have cells, it looks at the grid enlarged (see `grid.py`).
    """

    def __init__(
        self,
        encoder_dim: int,
        decoder_dim: int,
        attention_dim: int,
        *,
        activation: str = "tanh",
        depth: int = 1,
        encoded_image_size: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("attention_depth", depth, (1, 2))
        self.encoder_att = nn.Linear(encoder_dim, attention_dim)
        self.photo_att = nn.Linear(attention_dim, attention_dim) if depth == 2 else None
        self.decoder_att = Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)
        self.activation = activation
        self.encoded_image_size = encoded_image_size

    def enlarges(self, cells: int) -> bool:
        """Whether a grid of so many cells has fewer than there are regions to look at."""
        return cells < (self.encoded_image_size or 0) ** 2

    def regions(self, features: Tensor) -> int:
        """P of features float[B, C, D]."""
        cells = features.shape[1]
        return self.encoded_image_size**2 if self.enlarges(cells) else cells

    def project(self, features: Tensor) -> Tensor:
        """The part of f_att that no word changes: float[B, C, D] -> float[B, P, A]."""
        projected = enlarge(self.encoder_att(features), self.regions(features))
        if self.photo_att is not None:
            projected = self.photo_att(ACTIVATIONS[self.activation](projected))
        return projected

    def forward(
        self,
        features: Tensor,
        projected: Tensor,
        hidden: Tensor,
        seats: Seats,
        look: str,
        room: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The context float[N, D] and the map alpha float[N, P], which sums to one.

        Takes features float[B, C, D], their `project`ion float[B, P, A], hidden float[N, H] of rows
        that look at the photos `seats` says. `look` is one of `LOOKS`: the expected context, or
        that of one region drawn or at the peak. `room` is for `hidden_layers`.
        """
        query = seats.table(self.decoder_att(hidden))  # (B, K, A)
        layers = hidden_layers(projected, query, self.activation, room)
        scores = torch.cat([self.full_att(layer).squeeze(2) for layer in layers])  # (B * K, P)
        alpha = seats.rows(scores.unflatten(0, query.shape[:2])).softmax(dim=1)  # (N, P)
        seen = alpha if look == "expected" else locations(alpha, look)
        context = weighted_sums(seats.table(on_cells(seen, features)), features)  # (B, K, D)
        return seats.rows(context), alpha
