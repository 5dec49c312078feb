"""Attention: which regions of the photo matter for the next word.

B images (or beams), P regions, D features, A attention units, H hidden units.
"""

from __future__ import annotations

import typing
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sat.config import Look
from sat.fields import check_choice

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}
LOOKS = typing.get_args(Look)


def locations(alpha: Tensor, look: str) -> Tensor:
    """One region a row of the map float[B, P], as ones and zeros: drawn from it, or its peak."""
    chosen = alpha.argmax(1, keepdim=True) if look == "argmax" else alpha.multinomial(1)  # (B, 1)
    return torch.zeros_like(alpha).scatter_(1, chosen, 1)


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
        self.decoder_att = nn.Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)
        self.activation = activation

    def project(self, features: Tensor) -> Tensor:
        """The part of f_att that no word changes: float[B, P, D] -> float[B, P, A]."""
        projected = self.encoder_att(features)
        if self.photo_att is not None:
            projected = self.photo_att(ACTIVATIONS[self.activation](projected))
        return projected

    def forward(
        self, features: Tensor, projected: Tensor, hidden: Tensor, look: str = "expected"
    ) -> tuple[Tensor, Tensor]:
        """The context float[B, D] and the map alpha float[B, P], which sums to one.

        Takes features float[B, P, D], their `project`ion float[B, P, A], hidden float[B, H].
        `look` is one of `LOOKS`: the expected context, or that of one region drawn or at the peak.
        """
        query = self.decoder_att(hidden).unsqueeze(1)  # (B, 1, A)
        scores = self.full_att(ACTIVATIONS[self.activation](projected + query)).squeeze(2)  # (B, P)
        alpha = scores.softmax(dim=1)
        seen = alpha if look == "expected" else locations(alpha, look)
        context = torch.bmm(seen.unsqueeze(1), features).squeeze(1)  # (B, D)
        return context, alpha
