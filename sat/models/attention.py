"""Attention: which regions of the photo matter for the next word.

B photos, N rows (their beams), K rows of the photo with most, P regions, D features, A attention
units, H hidden units.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sat.config import Look
from sat.fields import check_choice
from sat.models.products import Linear
from sat.seats import Seats

CACHED = 2**18
"""numbers of an intermediate result that a CPU's cache holds (1 MB in single precision)"""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh_, "relu": torch.relu_}
"""in place, since what they are given is large and needed no more"""

LOOKS = typing.get_args(Look)
EXPECTED_SHARE = 0.5  # of the minibatches of hard attention: arctic-captions' semi_sampling_p


def locations(alpha: Tensor, look: str) -> Tensor:
    """One region a row of the map float[B, P], as ones and zeros: drawn from it, or its peak."""
    chosen = alpha.argmax(1, keepdim=True) if look == "argmax" else alpha.multinomial(1)  # (B, 1)
    return torch.zeros_like(alpha).scatter_(1, chosen, 1)


def photos_cached(projected: Tensor, queries: int = 1) -> int:
    """Photos of float[B, P, A] whose hidden layer a CPU's cache holds, for so many queries each."""
    if projected.device.type != "cpu":
        return len(projected)
    return CACHED // (queries * projected[0].numel()) + 1


def hidden_layers(projected: Tensor, query: Tensor, activation: str) -> Iterator[Tensor]:
    """f_att's hidden layer of a few photos at a time, float[<=B, K, P, A]; the next overwrites it.

    From projections float[B, P, A] and queries float[B, K, A]. It is the largest thing there is: on
    the CPU so few photos are taken that it stays in the cache, and without gradients all of them
    use the same memory one after another, which is three times as fast as asking for new.
    """
    few = photos_cached(projected, query.shape[1])
    room = None
    for photos, asked in zip(projected.unsqueeze(1).split(few), query.unsqueeze(2).split(few)):
        here = None if room is None else room[: len(photos)]
        layer = torch.add(photos, asked, out=here)
        room = layer if room is None and not layer.requires_grad else room
        yield ACTIVATIONS[activation](layer)


class Attention(nn.Module):
    """A distribution over regions, and the context: its expectation, or one region by it.

    Xu et al. 2015, eq. 4-6 and sections 4.1 and 4.2: e_i = f_att(a_i, h), alpha = softmax(e),
    z = sum_i alpha_i a_i, with f_att a network of one hidden layer. At depth 2 the regions pass
    one more before they meet h, so that it too runs once a photo.
    """

    def __init__(
        self,
        encoder_dim: int,
        decoder_dim: int,
        attention_dim: int,
        *,
        activation: str = "tanh",
        depth: int = 1,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("attention_depth", depth, (1, 2))
        self.encoder_att = nn.Linear(encoder_dim, attention_dim)
        self.photo_att = nn.Linear(attention_dim, attention_dim) if depth == 2 else None
        self.decoder_att = Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)
        self.activation = activation

    def project(self, features: Tensor) -> Tensor:
        """The part of f_att that no word changes: float[B, P, D] -> float[B, P, A]."""
        projected = self.encoder_att(features)
        if self.photo_att is not None:
            projected = self.photo_att(ACTIVATIONS[self.activation](projected))
        return projected

    def forward(
        self, features: Tensor, projected: Tensor, hidden: Tensor, seats: Seats, look: str
    ) -> tuple[Tensor, Tensor]:
        """The context float[N, D] and the map alpha float[N, P], which sums to one.

        Takes features float[B, P, D], their `project`ion float[B, P, A], hidden float[N, H] of rows
        that look at the photos `seats` says. `look` is one of `LOOKS`: the expected context, or
        that of one region drawn or at the peak.
        """
        query = seats.table(self.decoder_att(hidden))  # (B, K, A)
        layers = hidden_layers(projected, query, self.activation)
        scores = torch.cat([self.full_att(layer).squeeze(3) for layer in layers])  # (B, K, P)
        alpha = seats.rows(scores).softmax(dim=1)  # (N, P)
        seen = alpha if look == "expected" else locations(alpha, look)
        context = torch.bmm(seats.table(seen), features)  # (B, K, D)
        return seats.rows(context), alpha
