"""Rows that belong to photos, as many of each as there are: beams, and what is searched with them.

N rows, B photos, K seats of each.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RaggedRows:
    """Where each row stands in a table with as many seats for every photo as any of them needs.

    Rows are kept packed, so that a photo with fewer beams, or none, costs nothing more; only what
    must go photo by photo is spread over the table. Rows of one photo need not stand together.
    """

    def __init__(self, photos: Tensor, number: int) -> None:
        """`photos` int[N] is the photo of each row, one of `number`."""
        self.photos, self.number = photos, number
        self._full = number == 1
        if self._full:  # what follows would find as much, after several small steps a word
            self.width = len(photos)
            return
        counts = photos.bincount(minlength=number)  # (B,)
        self.width = int(counts.max())
        order = photos.argsort(stable=True)  # photo by photo; the first row of each comes at
        first = counts.cumsum(0) - counts
        rank = torch.empty_like(photos)
        rank[order] = torch.arange(len(photos), device=photos.device) - first[photos[order]]
        self._places = photos * self.width + rank
        self._full = is_identity(self._places, number * self.width)

    def table(self, rows: Tensor, free: float = 0.0) -> Tensor:
        """[B, K, ...] of the rows [N, ...], with the value `free` in the seats nobody has."""
        if not self._full:
            size = (self.number * self.width, *rows.shape[1:])
            rows = rows.new_full(size, free).index_copy_(0, self._places, rows)
        return rows.unflatten(0, (self.number, self.width))

    def rows(self, table: Tensor) -> Tensor:
        """The rows [N, ...] of a table [B, K, ...]."""
        rows = table.flatten(0, 1)
        return rows if self._full else rows.index_select(0, self._places)


def is_identity(index: Tensor, length: int) -> bool:
    """True for 0, 1, ... length - 1: an index that moves nothing."""
    return torch.equal(index, torch.arange(length, device=index.device))
