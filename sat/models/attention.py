"""Attention: which regions of the photo matter for the next word.

B photos, N rows (their beams), K rows of the photo with most, P regions, C cells, D features, A
attention units, H hidden units.
"""

from __future__ import annotations

import typing

import torch
from torch import Tensor, nn

from sat.config.checks import check_choice
from sat.config.model import AttentionMode
from sat.ops.attention_scores import ACTIVATIONS, hidden_layers, select_locations, weighted_sums
from sat.ops.linear import Linear
from sat.ops.pooled_grid import enlarge, on_cells
from sat.ops.ragged_rows import RaggedRows

ATTENTION_MODES = typing.get_args(AttentionMode)
EXPECTED_SHARE = 0.5  # of the minibatches of hard attention: arctic-captions' semi_sampling_p


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
        seats: RaggedRows,
        look: str,
        room: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The context float[N, D] and the map alpha float[N, P], which sums to one.

        Takes features float[B, C, D], their `project`ion float[B, P, A], hidden float[N, H] of rows
        that look at the photos `seats` says. `look` is one of `ATTENTION_MODES`: the expected
        context, or that of one region drawn or at the peak. `room` is for `hidden_layers`.
        """
        query = seats.table(self.decoder_att(hidden))  # (B, K, A)
        layers = hidden_layers(projected, query, self.activation, room)
        scores = torch.cat([self.full_att(layer).squeeze(2) for layer in layers])  # (B * K, P)
        alpha = seats.rows(scores.unflatten(0, query.shape[:2])).softmax(dim=1)  # (N, P)
        seen = alpha if look == "expected" else select_locations(alpha, look)
        context = weighted_sums(seats.table(on_cells(seen, features)), features)  # (B, K, D)
        return seats.rows(context), alpha
