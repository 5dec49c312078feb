"""Layers for a few rows, as every word of a caption needs them. N rows, I inputs, O outputs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

FEW = range(4, 64)
"""rows for which the CPU's library multiplies the other way round up to twice as fast"""
PACKED_FROM = 4
"""rows from which on a packed weight is faster than one as it is"""
LOOKED_AT = 64
"""values, one every so many rows, that tell whether a weight has changed unnoticed"""


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


class Packed:
    """A weight laid out as oneDNN multiplies by it: up to twice as fast, and as exact.

    Made when first needed, and anew when the weight has changed: when torch has counted a change,
    and, as it counts none that a fused optimizer makes, when some of its values are others. Copies
    of a model, and files, do without.
    """

    def __init__(self) -> None:
        self._of: tuple[Tensor, int, Tensor] | None = None  # weight, its version, some values
        self._packed: Tensor | None = None

    def __reduce__(self) -> tuple:
        return Packed, ()

    def linear(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """As the function `linear`."""
        if not _packs(rows, weight):
            return linear(rows, weight, bias)
        some = weight.detach()[:: len(weight) // LOOKED_AT + 1, 0]
        if not self._is_of(weight, some):
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), len(rows))
            self._of = weight, weight._version, some.clone()
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, bias, "none", [], "")

    def _is_of(self, weight: Tensor, some: Tensor) -> bool:
        """Whether what is packed is this weight as it is now, judged by `some` of its values."""
        if self._of is None:
            return False
        packed, version, before = self._of
        return packed is weight and version == weight._version and torch.equal(before, some)


def _packs(rows: Tensor, weight: Tensor) -> bool:
    """Whether these may be multiplied by a packed weight: no gradient can pass through one."""
    return (
        not torch.is_grad_enabled()
        and len(rows) >= PACKED_FROM
        and rows.device.type == "cpu"
        and rows.dtype == weight.dtype == torch.float32
        and not weight.is_inference()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


class Linear(nn.Linear):
    """torch's, with faster products of few rows."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self._packed = Packed()

    def forward(self, input: Tensor) -> Tensor:
        return self._packed.linear(input, self.weight, self.bias)


class LSTMCell(nn.LSTMCell):
    """torch's, with faster products of few rows."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self._packed = Packed(), Packed()

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        hidden, cell = hx
        sums = self._packed[0].linear(input, self.weight_ih, self.bias_ih)
        sums = sums + self._packed[1].linear(hidden, self.weight_hh, self.bias_hh)
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
