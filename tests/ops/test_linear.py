"""Layers that multiply a few rows the other way round compute what torch's do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sat.ops.linear import FEW, Linear, LSTMCell, linear

ROWS = (1, FEW[0] - 1, FEW[0], 7, FEW[-1], FEW[-1] + 1)


def same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("n", ROWS)
def test_products_are_torchs(n: int) -> None:
    rows, weight, bias = torch.randn(n, 5), torch.randn(3, 5), torch.randn(3)
    expected = nn.functional.linear(rows, weight, bias)
    torch.testing.assert_close(linear(rows, weight, bias), expected)
    torch.testing.assert_close(linear(rows, weight) + bias, expected)


@pytest.mark.parametrize("shape", [(9, 5), (2, 9, 5)])
def test_linear_is_torchs_with_its_gradient(shape: tuple[int, ...]) -> None:
    ours, theirs = Linear(5, 3), nn.Linear(5, 3)
    same_weights(ours, theirs)
    rows = torch.randn(shape)
    for layer in (ours, theirs):
        layer(rows).square().sum().backward()
    torch.testing.assert_close(ours(rows), theirs(rows))
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


@pytest.mark.parametrize("n", ROWS)
def test_an_lstm_cell_is_torchs(n: int) -> None:
    ours, theirs = LSTMCell(5, 4), nn.LSTMCell(5, 4)
    same_weights(ours, theirs)
    rows, before = torch.randn(n, 5), (torch.randn(n, 4), torch.randn(n, 4))
    torch.testing.assert_close(ours(rows, before), theirs(rows, before))
    with torch.inference_mode():
        torch.testing.assert_close(ours(rows, before), theirs(rows, before))
