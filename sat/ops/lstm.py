"""One step of an LSTM with forget gate (Gers et al. 2000) and its gradient. N rows, H hidden units.

`torch.nn.LSTMCell` computes the same; here the gates are returned, which the gradient needs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LSTMStep(NamedTuple):
    """The gates of a step and its results, each float[N, H]."""

    input_gate: Tensor
    forget_gate: Tensor
    candidate: Tensor
    output_gate: Tensor
    tanh_cell: Tensor
    hidden: Tensor
    cell: Tensor


def lstm_step(gates: Tensor, cell: Tensor) -> LSTMStep:
    """The step from `cell` float[N, H], in the cell's precision.

    `gates` float[N, 4H] is W x + U h + b in torch's order: input, forget, candidate, output.
    """
    i, f, g, o = gates.to(cell.dtype).chunk(4, dim=1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cell = f * cell + i * g
    tanh_cell = cell.tanh()
    return LSTMStep(i, f, g, o, tanh_cell, o * tanh_cell, cell)


def lstm_step_backward(
    step: LSTMStep, cell_before: Tensor, d_hidden: Tensor, d_cell: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients float[N, 4H] of the gates and float[N, H] of the cell before the step.

    `d_hidden` and `d_cell` float[N, H] are the gradients of the step's hidden state and cell.
    """
    i, f, g, o, tanh_cell, *_ = step
    d_cell = d_cell + d_hidden * o * (1 - tanh_cell * tanh_cell)
    d_gates = torch.cat(
        [
            d_cell * g * i * (1 - i),
            d_cell * cell_before * f * (1 - f),
            d_cell * i * (1 - g * g),
            d_hidden * tanh_cell * o * (1 - o),
        ],
        dim=1,
    )
    return d_gates, d_cell * f
