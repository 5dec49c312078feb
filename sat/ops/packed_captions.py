"""Captions of several lengths, packed step by step: what the unrolled decoder works on.

B captions, T words to predict of the longest, N words in all.
"""

from __future__ import annotations

import torch
from torch import Tensor


class PackedCaptions:
    """Where each word stands when those of step 0 come first, then those of step 1, and so on.

    Captions are sorted from long to short, so that a step has the first so many of them, and a
    caption that has ended costs nothing more. `order` int[B] sorts them; `rows` counts the captions
    stepped through at each step, `spoken` those that have a word there.
    """

    def __init__(self, lengths: Tensor, steps: int, dtype: torch.dtype) -> None:
        """`lengths` int[B] counts the words to predict, `steps` is the width of the batch."""
        sorted_lengths, self.order = lengths.sort(descending=True, stable=True)
        self.steps, device = steps, lengths.device
        speaking = torch.arange(steps, device=device).unsqueeze(1) < sorted_lengths  # (T, B)
        self.spoken = [n for n in speaking.sum(1).tolist() if n]
        self.rows = _rounded(self.spoken, len(lengths), dtype)
        stepping = torch.zeros_like(speaking)
        for step, n in enumerate(self.rows):
            stepping[step, :n] = True
        self._stepping = stepping
        self._kept = None
        if self.rows != self.spoken:
            self._kept = speaking[stepping].nonzero().flatten()
        places = self.order * steps + torch.arange(steps, device=device).unsqueeze(1)
        self._places = places[speaking]

    def pack(self, words: Tensor) -> Tensor:
        """int[N] of words int[B, T] in the order of the batch, those stepped through."""
        return words.index_select(0, self.order).t()[self._stepping]

    def only_spoken(self, packed: Tensor) -> Tensor:
        """The rows float[N, X] without those of captions that had ended."""
        return packed if self._kept is None else packed.index_select(0, self._kept)

    def unpack(self, packed: Tensor) -> Tensor:
        """float[B, T, X] in the order of the batch, zero past a caption, of spoken float[N, X]."""
        everywhere = packed.new_zeros(len(self.order) * self.steps, packed.shape[1])
        return everywhere.index_copy_(0, self._places, packed).unflatten(0, (-1, self.steps))


def padded(packed: Tensor, rows: list[int]) -> Tensor:
    """float[B, T, X] of the words float[N, X] of sorted captions, zero where one is over."""
    table = packed.new_zeros(len(rows), rows[0], packed.shape[1])
    for step, part in enumerate(packed.split(rows)):
        table[step, : len(part)] = part
    return table.transpose(0, 1)


def _rounded(rows: list[int], batch: int, dtype: torch.dtype) -> list[int]:
    """Captions to step through: a few that have ended too, so that few different sizes occur.

    In half precision oneDNN compiles a product for every size it meets, which takes far longer than
    the product; in single precision it does not.
    """
    grain = 16 if dtype in (torch.bfloat16, torch.float16) else 1
    return [min(batch, -(-n // grain) * grain) for n in rows]
