"""Attention: which regions of the photo matter for the next word.

B images (or beams), P regions, D features, A attention units, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sat.fields import check_choice

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


class Attention(nn.Module):
    """Soft attention: the expected context under a distribution over regions.

    Xu et al. 2015, eq. 4-6 and section 4.2: e_i = f_att(a_i, h), alpha = softmax(e),
    z = sum_i alpha_i a_i, with f_att a network of one hidden layer.
    """

    def __init__(
        self, encoder_dim: int, decoder_dim: int, attention_dim: int, *, activation: str = "tanh"
    ) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        self.encoder_att = nn.Linear(encoder_dim, attention_dim)
        self.decoder_att = nn.Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)
        self.activation = activation

    def project(self, features: Tensor) -> Tensor:
        """The part of f_att that no word changes: float[B, P, D] -> float[B, P, A]."""
        return self.encoder_att(features)

    def forward(self, features: Tensor, projected: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The context float[B, D] and the map alpha float[B, P], which sums to one.

        Takes features float[B, P, D], their `project`ion float[B, P, A], hidden float[B, H].
        """
        query = self.decoder_att(hidden).unsqueeze(1)  # (B, 1, A)
        scores = self.full_att(ACTIVATIONS[self.activation](projected + query)).squeeze(2)  # (B, P)
        alpha = scores.softmax(dim=1)
        context = torch.bmm(alpha.unsqueeze(1), features).squeeze(1)  # (B, D)
        return context, alpha
