"""Attention: which regions of the photo matter for the next word.

B photos, N rows (photos times beams), P regions, D features, A attention units, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sat.fields import check_choice

CACHED = 2**19
"""numbers of an intermediate result that a CPU's cache holds (2 MB in single precision)"""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh_, "relu": torch.relu_}
"""in place, since what they are given is large and needed no more"""


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
        """The context float[N, D] and the map alpha float[N, P], which sums to one.

        Takes features float[B, P, D], their `project`ion float[B, P, A], hidden float[N, H]: as
        many rows of each photo, its own one after another.
        """
        query = self.decoder_att(hidden).unflatten(0, (len(features), -1))  # (B, K, A)
        alpha = self._scores(projected, query).softmax(dim=2)  # (B, K, P)
        context = torch.bmm(alpha, features)  # (B, K, D)
        return context.flatten(0, 1), alpha.flatten(0, 1)

    def _scores(self, projected: Tensor, query: Tensor) -> Tensor:
        """e_i float[B, K, P] of every region, from float[B, P, A] and float[B, K, A].

        On the CPU a few photos at a time, whose hidden layer stays in the cache: twice as fast.
        """
        size = query.shape[1] * projected[0].numel()  # of a photo's hidden layer
        few = CACHED // size + 1 if projected.device.type == "cpu" else len(query)
        act = ACTIVATIONS[self.activation]
        scores = [
            self.full_att(act(part.unsqueeze(1) + asked.unsqueeze(2))).squeeze(3)
            for part, asked in zip(projected.split(few), query.split(few))
        ]
        return torch.cat(scores)
