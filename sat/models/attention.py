"""Attention: which regions of the image matter for the next word (Xu et al. 2015, section 4).

B images, N rows (their beams), K rows of the image that has most, P regions, C cells (fewer than
regions only where a grid is enlarged, see `ops/pooled_grid.py`), D features, A attention units, H
hidden units.
"""

from __future__ import annotations

import typing

from torch import Tensor, nn

from sat.config.checks import check_choice
from sat.config.model import AttentionMode
from sat.ops.attention_scores import ACTIVATIONS, attention_scores, select_locations
from sat.ops.pooled_grid import enlarge, on_cells, pooling_matrix
from sat.ops.ragged_rows import RaggedRows

ATTENTION_MODES = typing.get_args(AttentionMode)
EXPECTED_SHARE = 0.5  # of the minibatches of hard attention: arctic-captions' semi_sampling_p


class Attention(nn.Module):
    """A distribution alpha over the regions, and the context z that it gives (eq. 4-6, 8-13).

        e_i = f_att(a_i, h)          f_att: a network of one hidden layer
        alpha = softmax(e)
        z = sum_i alpha_i a_i        expected context (soft attention, eq. 13)
        z = a_i, i ~ alpha           one region (hard attention, eq. 8-9)

    At depth 2 the regions pass one more hidden layer before they meet h. With `encoded_image_size`
    larger than the side of the feature grid, attention works on the grid enlarged to that size.
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
        """Raises `ValueError` for an unknown activation or depth."""
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("attention_depth", depth, (1, 2))
        self.encoder_att = nn.Linear(encoder_dim, attention_dim)
        self.photo_att = nn.Linear(attention_dim, attention_dim) if depth == 2 else None
        self.decoder_att = nn.Linear(decoder_dim, attention_dim)
        self.full_att = nn.Linear(attention_dim, 1)
        self.activation = activation
        self.encoded_image_size = encoded_image_size

    def enlarges(self, cells: int) -> bool:
        """True if a grid of so many cells has fewer than `encoded_image_size` ** 2."""
        return cells < (self.encoded_image_size or 0) ** 2

    def regions(self, features: Tensor) -> int:
        """P, the number of regions of features float[B, C, D]."""
        cells = features.shape[1]
        return (self.encoded_image_size or 0) ** 2 if self.enlarges(cells) else cells

    def project(self, features: Tensor) -> Tensor:
        """The image's part of f_att, once an image: float[B, P, A] of features float[B, C, D]."""
        projected = enlarge(self.encoder_att(features), self.regions(features))
        if self.photo_att is not None:
            projected = self.photo_att(ACTIVATIONS[self.activation](projected))
        return projected

    def forward(
        self, features: Tensor, projected: Tensor, hidden: Tensor, rows: RaggedRows, mode: str
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The context float[N, D], alpha float[N, P] and the locations float[N, P].

        Takes features float[B, C, D], their `project`ion float[B, P, A], and hidden float[N, H] of
        the rows that attend to the images. `mode` is one of `ATTENTION_MODES`. The locations are
        one-hot at the region selected; None if the context is "expected".
        """
        query = rows.pad(self.decoder_att(hidden))  # (B, K, A)
        weight = self.full_att.weight.flatten()
        e = attention_scores(projected, query, weight, self.activation)  # eq. 4: (B, K, P)
        alpha = (rows.unpad(e) + self.full_att.bias).softmax(dim=1)  # eq. 5: (N, P)
        locations = None if mode == "expected" else select_locations(alpha, mode)
        attended = alpha if locations is None else locations
        pooling = pooling_matrix(features, projected.shape[1])
        z = rows.pad(on_cells(attended, pooling)) @ features  # eq. 6: (B, K, D)
        return rows.unpad(z), alpha, locations
