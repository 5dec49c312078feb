"""The LSTM step against torch's cell, and its gradient against autograd's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sat.ops.lstm import lstm_step, lstm_step_backward


def gates_and_cell() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    gates = torch.randn(5, 12, generator=random, dtype=torch.float64, requires_grad=True)
    cell = torch.randn(5, 3, generator=random, dtype=torch.float64, requires_grad=True)
    return gates, cell


def test_lstm_step_equals_torch_cell() -> None:
    torch.manual_seed(2)
    theirs, words = nn.LSTMCell(4, 3).double(), torch.randn(5, 4).double()
    hidden, cell = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    gates = words @ theirs.weight_ih.t() + theirs.bias_ih
    gates = gates + hidden @ theirs.weight_hh.t() + theirs.bias_hh
    step = lstm_step(gates, cell)
    torch.testing.assert_close((step.hidden, step.cell), theirs(words, (hidden, cell)))


def test_lstm_step_backward_equals_autograd() -> None:
    gates, cell = gates_and_cell()
    step = lstm_step(gates, cell)
    d_hidden, d_cell = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    expected = torch.autograd.grad((step.hidden, step.cell), (gates, cell), (d_hidden, d_cell))
    torch.testing.assert_close(lstm_step_backward(step, cell, d_hidden, d_cell), expected)
