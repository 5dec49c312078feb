"""The state of the recurrent decoder between two words.

B images, N rows (their beams), P regions, C cells, D features, A attention and H hidden units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sat.ops.ragged_rows import RaggedRows, from_host, is_identity


class State(NamedTuple):
    """B images, and N rows that each attend to one of them."""

    features: Tensor  # float[B, C, D]
    projected: Tensor  # float[B, P, A]: the image's part of f_att
    hidden: Tensor  # float[N, H]
    cell: Tensor  # float[N, H]
    rows: RaggedRows  # the image of each row

    def reorder(self, index: Tensor) -> State:
        """The state whose row i is row index[i] of this one; `index` int[N] is on the host.

        Images without a row are dropped once they are half of all images: copying them is slow.
        """
        features, projected, hidden, cell, rows = self
        if is_identity(index.numpy(), len(hidden)):
            return self
        images, device = rows.image_index[index], features.device
        if len(features) > 1 and len(kept := images.unique()) <= len(features) / 2:
            images, kept = torch.searchsorted(kept, images), from_host(kept.numpy(), device)
            features, projected = features.index_select(0, kept), projected.index_select(0, kept)
        on_device = from_host(index.numpy(), device)
        hidden, cell = hidden.index_select(0, on_device), cell.index_select(0, on_device)
        return State(features, projected, hidden, cell, RaggedRows(images, len(features), device))
