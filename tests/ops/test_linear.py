"""Layers that multiply a few rows the other way round compute what torch's do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sat.ops.linear import FEW, PACKED_FROM, Linear, LSTMCell, linear

ROWS = (1, FEW[0] - 1, FEW[0], 7, FEW[-1], FEW[-1] + 1)
MANY = PACKED_FROM + 3
packing = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")


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


def packed(layer: Linear) -> bool:
    """Whether the layer multiplies by a packed weight from now on."""
    return layer._packed._packed is not None


@packing
@pytest.mark.parametrize("n", ROWS)
def test_packed_products_are_torchs(n: int) -> None:
    layer, rows = Linear(5, 3), torch.randn(n, 5)
    with torch.no_grad():
        torch.testing.assert_close(
            layer(rows), nn.functional.linear(rows, layer.weight, layer.bias)
        )
    assert packed(layer) == (n >= PACKED_FROM)


@packing
def test_a_weight_is_packed_once_and_anew_after_every_change() -> None:
    layer, rows = Linear(5, 3), torch.randn(MANY, 5)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, fused=True)

    def learns() -> None:
        layer(rows).square().sum().backward()
        optimizer.step()

    def replaced_but_for_a_column() -> None:
        other = torch.randn(3, 5)
        other[:, 0] = layer.weight.detach()[:, 0]
        layer.weight = nn.Parameter(other)

    changes = [
        lambda: None,
        learns,
        lambda: layer.weight.detach()[:, 1:].mul_(2),
        replaced_but_for_a_column,
        replaced_but_for_a_column,
        lambda: layer.double().float(),
        lambda: layer.weight.data.mul_(2),
        lambda: layer.load_state_dict(Linear(5, 3).state_dict()),
        lambda: layer.load_state_dict(Linear(5, 3).state_dict(), assign=True),
        lambda: nn.init.normal_(layer.weight),
        lambda: setattr(layer, "weight", nn.Parameter(torch.randn(3, 5))),
        lambda: setattr(layer, "weight", nn.Parameter(torch.randn(3, 5))),
        lambda: layer.weight.detach().mul_(2),
    ]
    for change in changes:
        change()
        with torch.inference_mode():
            found = layer(rows)
            torch.testing.assert_close(found, nn.functional.linear(rows, layer.weight, layer.bias))
            made = layer._packed._packed
            layer(rows)
        assert layer._packed._packed is made, "packed again for nothing"


@packing
def test_only_what_can_be_packed_is() -> None:
    layer, rows = Linear(5, 3), torch.randn(MANY, 5)
    layer(rows).sum().backward()
    layer.double()
    with torch.no_grad():
        layer(rows.double())
        layer.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(rows).dtype == torch.bfloat16
    assert not packed(layer)
    with torch.inference_mode():
        made_there = Linear(5, 3)
        assert made_there(rows).isfinite().all()
    assert not packed(made_there)


@packing
@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_do_without(again: Callable[[nn.Module], nn.Module]) -> None:
    cell, rows = LSTMCell(5, 4), torch.randn(MANY, 5)
    state = torch.zeros(MANY, 4), torch.zeros(MANY, 4)
    with torch.no_grad():
        expected = cell(rows, state)
        other = again(cell)
        assert [part._packed for part in other._packed] == [None, None]
        torch.testing.assert_close(other(rows, state), expected)
