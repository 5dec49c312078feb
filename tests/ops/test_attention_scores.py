"""Attention scores in chunks of any size against the plain formula, and their gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sat.ops import attention_scores as ops

any_chunk = pytest.mark.parametrize("elements", [1, 20, 150, ops.SCORE_CACHE_ELEMENTS])
each_activation = pytest.mark.parametrize("activation", ["tanh", "relu"])


def tensors(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Four images of five regions, `rows` rows of each, two units; double precision."""
    random = torch.Generator().manual_seed(1)
    shapes = (4, 5, 2), (4, rows, 2), (2,)
    made = (torch.randn(s, generator=random, dtype=torch.float64) for s in shapes)
    projected, query, weight = (tensor.requires_grad_() for tensor in made)
    return projected, query, weight


def plain_scores(projected: Tensor, query: Tensor, weight: Tensor, activation: str) -> Tensor:
    return getattr(torch, activation)(projected.unsqueeze(1) + query.unsqueeze(2)) @ weight


@any_chunk
@each_activation
@pytest.mark.parametrize("rows", [1, 3])
def test_attention_scores_in_chunks_equal_plain_formula(
    rows: int, activation: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "SCORE_CACHE_ELEMENTS", elements)
    arguments = tensors(rows)
    expected = plain_scores(*arguments, activation)
    torch.testing.assert_close(ops.attention_scores(*arguments, activation), expected)


@any_chunk
@each_activation
def test_score_gradients_over_two_steps_equal_autograd(
    activation: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step has the first three images only."""
    monkeypatch.setattr(ops, "SCORE_CACHE_ELEMENTS", elements)
    projected, query, weight = tensors(1)
    slopes = torch.randn(4, 5, dtype=torch.float64)
    gradients = ops.ScoreGradients(projected.detach(), weight.detach(), activation, weight.dtype)
    d_query = gradients.add_step(slopes, query.detach().squeeze(1))
    d_query[:3] += gradients.add_step(slopes[:3], query.detach()[:3].squeeze(1))
    scores = plain_scores(projected, query, weight, activation).squeeze(1)
    twice = torch.cat([2 * slopes[:3], slopes[3:]])
    expected = torch.autograd.grad(scores, (projected, weight, query), twice)
    torch.testing.assert_close((*gradients.totals(), d_query.unsqueeze(1)), expected)


def test_select_locations_argmax_is_one_hot_at_peak() -> None:
    alpha = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    expected = torch.tensor([[0.0, 1, 0], [1, 0, 0]])
    assert torch.equal(ops.select_locations(alpha, "argmax"), expected)
