"""Layers for a few rows, as every word of a caption needs them. N rows, I inputs, O outputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FEW = range(4, 64)
"""rows for which the CPU's library multiplies the other way round up to twice as fast"""


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows W^T + b float[N, O] of rows float[N, I]: as (W rows^T + b)^T where that is quicker."""
    if rows.dim() != 2 or rows.device.type != "cpu" or len(rows) not in FEW:
        return functional.linear(rows, weight, bias)
    turned = rows.t()
    product = weight @ turned if bias is None else torch.addmm(bias.unsqueeze(1), weight, turned)
    return product.t().contiguous()


def transposed(weight: Tensor) -> Tensor:
    """W^T float[I, O] laid out by rows, for `linear`; by blocks, which is three times as fast."""
    return torch.cat([block.t() for block in weight.split(64)], dim=1)


class Linear(nn.Linear):
    """torch's, with faster products of few rows."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class LSTMCell(nn.LSTMCell):
    """torch's, with faster products of few rows."""

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        hidden, cell = hx
        sums = linear(input, self.weight_ih, self.bias_ih)
        sums = sums + linear(hidden, self.weight_hh, self.bias_hh)
        found = lstm(sums, cell)
        return found.hidden, found.cell


class Found(NamedTuple):
    """What an LSTM works out of the sums of its inputs; every part float[N, H]."""

    into: Tensor
    kept: Tensor
    new: Tensor
    out: Tensor
    bounded: Tensor  # tanh of the cell
    hidden: Tensor
    cell: Tensor


def lstm(sums: Tensor, cell: Tensor) -> Found:
    """One step of an LSTM with forget gate (Gers et al. 2000), in its cell's precision.

    sums float[N, 4H] are W x + U h + b, in torch's order of the gates.
    """
    into, kept, new, out = sums.to(cell.dtype).chunk(4, dim=1)
    into, kept, new, out = into.sigmoid(), kept.sigmoid(), new.tanh(), out.sigmoid()
    cell = kept * cell + into * new
    bounded = cell.tanh()
    return Found(into, kept, new, out, bounded, out * bounded, cell)
