"""The state of the recurrent decoder between two words.

B images, N rows (their beams), P regions, C cells, D features, A attention and H hidden units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sat.ops.ragged_rows import RaggedRows


class State(NamedTuple):
    """B images, and N rows that each attend to one of them."""

    features: Tensor  # float[B, C, D]
    projected: Tensor  # float[B, P, A]: the image's part of f_att
    hidden: Tensor  # float[N, H]
    cell: Tensor  # float[N, H]
    rows: RaggedRows  # the image of each row

    def reorder(self, index: Tensor) -> State:
        """The state whose row i is row index[i] of this one.

        Images without a row are dropped once they are half of all images: copying them is slow.
        """
        features, projected, hidden, cell, rows = self
        images = rows.image_index[index]
        if len(features) > 1 and len(kept := images.unique()) <= len(features) / 2:
            features, projected = features.index_select(0, kept), projected.index_select(0, kept)
            images = torch.searchsorted(kept, images)
        hidden, cell = hidden.index_select(0, index), cell.index_select(0, index)
        return State(features, projected, hidden, cell, RaggedRows(images, len(features)))
