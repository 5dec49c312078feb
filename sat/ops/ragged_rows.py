"""Rows grouped by image (beams of a search), several or none of each.

N rows, B images, K rows of the image that has most.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class RaggedRows:
    """Pad rows grouped by image to a dense [B, K, ...] table, and back.

    Rows stay packed, so an image with fewer beams, or none, costs nothing more; only operations
    that work image by image need the table. Rows of one image need not be adjacent.
    """

    def __init__(self, image_index: Tensor, num_images: int, device: torch.device | str) -> None:
        """`image_index` int[N] is the image of each row, one of `num_images`.

        It is on the host, so that nobody waits for the `device` of the rows.
        """
        self.image_index, self.num_images = image_index, num_images
        self._is_dense = num_images == 1
        if self._is_dense:  # the general case gives the same, after several small operations
            self.width = image_index.shape[0]
            return
        index = image_index.numpy()
        counts = np.bincount(index, minlength=num_images)  # (B,)
        self.width = int(counts.max())
        order = np.argsort(index, kind="stable")
        first = counts.cumsum() - counts  # position in `order` of each image's first row
        rank = np.empty_like(index)
        rank[order] = np.arange(len(order)) - first[index[order]]
        positions = index * self.width + rank
        self._is_dense = is_identity(positions, num_images * self.width)
        if not self._is_dense:
            self._positions = from_host(positions, device)

    @classmethod
    def one_each(cls, num_images: int, device: torch.device) -> RaggedRows:
        """One row for each image, in order."""
        rows = cls(torch.arange(num_images), 1, device)
        rows.num_images, rows.width = num_images, 1
        return rows

    def pad(self, rows: Tensor, fill: float = 0.0) -> Tensor:
        """The table [B, K, ...] of rows [N, ...], with `fill` where an image has fewer than K."""
        if not self._is_dense:
            size = (self.num_images * self.width, *rows.shape[1:])
            rows = rows.new_full(size, fill).index_copy_(0, self._positions, rows)
        return rows.unflatten(0, (self.num_images, self.width))

    def unpad(self, table: Tensor) -> Tensor:
        """The rows [N, ...] of a table [B, K, ...]."""
        rows = table.flatten(0, 1)
        return rows if self._is_dense else rows.index_select(0, self._positions)


def is_identity(index: np.ndarray, length: int) -> bool:
    """True for 0, 1, ... length - 1: an index that moves nothing."""
    return np.array_equal(index, np.arange(length))


def from_host(values: np.ndarray, device: torch.device | str) -> Tensor:
    """The values on the device; the host does not wait for the copy."""
    return torch.from_numpy(values).to(device, non_blocking=True)
