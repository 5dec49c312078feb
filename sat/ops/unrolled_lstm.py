"""The decoder's recurrence under teacher forcing, with a gradient written by hand.

Autograd computes the gradient of each weight at every word and adds them up: many products of
narrow matrices, and as many passes over a gradient as large as the features. Here the gradient of a
weight is one product over all words. `DecoderWithAttention.unroll_by_step` is the plain version of
the same mathematics; a test holds the two equal.

B captions sorted from long to short, n of them at a step, N words in all, P regions, C cells (fewer
where a grid is enlarged, see `pooled_grid.py`), D features, A attention and H hidden units, G units
of the gate on the context (D, 1, or 0). Words are packed by step, see `packed_captions.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from sat.ops.attention_scores import ScoreGradients, attention_scores, select_locations
from sat.ops.lstm import LSTMStep, lstm_step, lstm_step_backward
from sat.ops.packed_captions import pad_steps
from sat.ops.pooled_grid import from_cells, on_cells


class UnrollInputs(NamedTuple):
    """The tensors of a batch of sorted captions."""

    features: Tensor  # float[B, C, D]
    projected: Tensor  # float[B, P, A]: the image's part of f_att
    word_gates: Tensor  # float[N, 4H]: the LSTM's part for the words, W E y + b
    hidden: Tensor  # float[B, H]: h_0
    cell: Tensor  # float[B, H]: c_0


class CellWeights(NamedTuple):
    """The weights of the recurrence, as `nn.Linear` stores them: (outputs, inputs)."""

    query: Tensor  # float[A, H]: decoder_att
    query_bias: Tensor  # float[A]
    score: Tensor  # float[A]: full_att
    score_bias: Tensor  # float[1]: softmax cancels it, so its gradient is zero
    context: Tensor  # float[4H, D]: the LSTM's part for the context
    hidden: Tensor  # float[4H, H]: the LSTM's part for the hidden state
    beta: Tensor  # float[G, H]: f_beta, the gate on the context
    beta_bias: Tensor  # float[G]

    @classmethod
    def of_layers(
        cls,
        *,
        query: nn.Linear,
        score: nn.Linear,
        beta: nn.Linear | None,
        context: Tensor,
        hidden: Tensor,
    ) -> CellWeights:
        """The weights of a decoder's layers; without `beta` the context has no gate."""
        none = hidden.new_empty(0, hidden.shape[1])
        return cls(
            query=query.weight,
            query_bias=query.bias,
            score=score.weight.flatten(),
            score_bias=score.bias,
            context=context,
            hidden=hidden,
            beta=none if beta is None else beta.weight,
            beta_bias=none[:, 0] if beta is None else beta.bias,
        )


class UnrollOptions(NamedTuple):
    """How a step computes."""

    activation: str  # inside f_att: "tanh" or "relu"
    mode: str = "expected"  # of attention: "expected", "sampled" or "argmax"
    pooling: Tensor | None = None  # float[P, C], of an enlarged grid
    compiled: bool = False  # by torch.compile: the small operations of a step become few kernels


class UnrolledSteps(NamedTuple):
    """The results of all words, packed."""

    hiddens: Tensor  # float[N, H], after the word
    contexts: Tensor  # float[N, D], gated
    alphas: Tensor  # float[N, P]
    locations: Tensor | None  # float[N, P], one-hot; None for the expected context


def unroll(
    inputs: UnrollInputs, weights: CellWeights, sizes: list[int], options: UnrollOptions
) -> UnrolledSteps:
    """All steps of attention (eq. 4-6 of Xu et al. 2015) and LSTM (eq. 1-3).

    `sizes` counts the captions at each step. Where `options.mode` selects one region, no gradient
    passes from the context to the map. Products are computed in the precision of the features;
    maps, cells and sums in that of the cell, at least single. Differentiable once.
    """
    weights = CellWeights(*(weight.to(inputs.features.dtype) for weight in weights))
    wide = torch.promote_types(inputs.cell.dtype, torch.float32)
    inputs = inputs._replace(cell=inputs.cell.to(wide))
    with torch.autocast(inputs.features.device.type, enabled=False):
        return UnrolledSteps(*_Unroll.apply(sizes, options, *inputs, *weights))


class _Step(NamedTuple):
    """Everything a step computed that its gradient needs."""

    hidden_before: Tensor  # float[n, H]
    cell_before: Tensor  # float[n, H]
    query: Tensor  # float[n, A]
    alpha: Tensor  # float[n, P]
    attended: Tensor  # float[n, P]: alpha, or the one-hot location
    ungated: Tensor  # float[n, D]: the context before its gate
    beta: Tensor  # float[n, G]: the gate on the context
    context: Tensor  # float[n, D]
    lstm: LSTMStep


class _StepGradients(NamedTuple):
    hidden: Tensor  # float[n, H], before the step
    cell: Tensor  # float[n, H], before the step
    query: Tensor  # float[n, A]
    ungated: Tensor  # float[n, D]
    beta: Tensor  # float[n, G], before the sigmoid
    gates: Tensor  # float[n, 4H]: of the LSTM, before their activations


def _forward_step(inputs: UnrollInputs, w: CellWeights, options: UnrollOptions) -> _Step:
    """One word of n captions: `inputs` are their features, state, and the word's part."""
    features, projected, word_gates, hidden, cell = inputs
    query = linear(hidden, w.query, w.query_bias)
    scores = attention_scores(projected, query.unsqueeze(1), w.score, options.activation)
    alpha = scores.squeeze(1).to(cell.dtype).softmax(dim=1)
    attended = alpha if options.mode == "expected" else select_locations(alpha, options.mode)
    on_features = on_cells(attended.to(features.dtype), options.pooling).unsqueeze(1)  # (n, 1, C)
    ungated = context = torch.bmm(on_features, features).squeeze(1)  # (n, D)
    beta = linear(hidden, w.beta, w.beta_bias).sigmoid_()
    if len(w.beta):
        context = beta * ungated
    gates = word_gates + linear(hidden, w.hidden) + linear(context, w.context)
    lstm = lstm_step(gates, cell)
    lstm = lstm._replace(hidden=lstm.hidden.to(features.dtype))
    return _Step(hidden, cell, query, alpha, attended, ungated, beta, context, lstm)


def _backward_step(
    step: _Step,
    d_lstm: tuple[Tensor, Tensor],
    d_context: Tensor,
    d_alpha: Tensor,
    features: Tensor,
    w: CellWeights,
    options: UnrollOptions,
    score_gradients: ScoreGradients,
) -> _StepGradients:
    """The gradients of a step from those of its hidden state and cell, context and map."""
    dtype, alpha = features.dtype, step.alpha
    d_gates, d_cell = lstm_step_backward(step.lstm, step.cell_before, *d_lstm)
    d_gates = d_gates.to(dtype)
    d_hidden = d_gates @ w.hidden
    d_ungated = d_context = d_gates @ w.context + d_context.to(dtype)  # (n, D)
    d_beta = step.beta  # (n, 0) without a gate
    if len(w.beta):
        d_beta = d_context * step.ungated
        d_beta = d_beta if len(w.beta) > 1 else d_beta.sum(1, keepdim=True)
        d_beta = d_beta * step.beta * (1 - step.beta)
        d_hidden = torch.addmm(d_hidden, d_beta, w.beta)
        d_ungated = d_context * step.beta
    if step.attended is alpha:
        d_cells = torch.bmm(features, d_ungated.unsqueeze(2)).squeeze(2)  # (n, C)
        d_alpha = d_alpha + from_cells(d_cells, options.pooling)
    d_scores = alpha * (d_alpha - (alpha * d_alpha).sum(1, keepdim=True))  # through the softmax
    d_query = score_gradients.add_step(d_scores.to(dtype), step.query)
    d_hidden = torch.addmm(d_hidden, d_query, w.query)
    return _StepGradients(d_hidden, d_cell, d_query, d_ungated, d_beta, d_gates)


@cache
def step_functions(compiled: bool) -> tuple[Callable[..., _Step], Callable[..., _StepGradients]]:
    """`_forward_step` and `_backward_step`, compiled for any number of captions or as they are."""
    if not compiled:
        return _forward_step, _backward_step
    return torch.compile(_forward_step, dynamic=True), torch.compile(_backward_step, dynamic=True)


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sizes: list[int], options: UnrollOptions, *tensors: Tensor) -> Any:
        forward_step, _ = step_functions(options.compiled)
        tensors = tuple(tensor.detach() for tensor in tensors)  # one kind of tensor to compile for
        features, projected, word_gates, hidden, cell, *weights = tensors
        w, hidden, steps = CellWeights(*weights), hidden.to(features.dtype), []
        for n, gates in zip(sizes, word_gates.split(sizes)):
            now = UnrollInputs(features[:n], projected[:n], gates, hidden[:n], cell[:n])
            steps.append(forward_step(now, w, options))
            hidden, cell = steps[-1].lstm.hidden, steps[-1].lstm.cell
        locations = None
        if options.mode != "expected":
            locations = torch.cat([step.attended for step in steps])
            ctx.mark_non_differentiable(locations)
        ctx.save_for_backward(features, projected, *w)
        ctx.steps, ctx.sizes, ctx.options = steps, sizes, options
        return (
            torch.cat([step.lstm.hidden for step in steps]),
            torch.cat([step.context for step in steps]),
            torch.cat([step.alpha for step in steps]),
            locations,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hiddens: Tensor, d_contexts: Tensor, d_alphas: Tensor, _: Any) -> Any:
        features, projected, *weights = ctx.saved_tensors
        w, steps, sizes, options = CellWeights(*weights), ctx.steps, ctx.sizes, ctx.options
        _, backward_step = step_functions(options.compiled)
        d_hidden, d_cell = (torch.zeros_like(steps[0].cell_before) for _ in range(2))
        scores = ScoreGradients(projected, w.score, options.activation, d_cell.dtype)
        found = []
        outputs = zip(d_hiddens.split(sizes), d_contexts.split(sizes), d_alphas.split(sizes))
        for step, (d_output, d_context, d_alpha) in reversed(list(zip(steps, outputs))):
            n = len(step.query)
            d_lstm = d_hidden[:n] + d_output, d_cell[:n]
            d = backward_step(step, d_lstm, d_context, d_alpha, features[:n], w, options, scores)
            d_hidden[:n], d_cell[:n] = d.hidden, d.cell
            found.append(d)
        d = _StepGradients(*(torch.cat(parts) for parts in zip(*reversed(found))))
        d_features = None
        if ctx.needs_input_grad[2]:  # features
            attended = torch.cat([step.attended for step in steps]).to(features.dtype)
            attended = pad_steps(on_cells(attended, options.pooling), sizes)  # (B, T, C)
            d_features = torch.bmm(attended.transpose(1, 2), pad_steps(d.ungated, sizes))
        d_projected, d_score = scores.totals()
        hiddens = torch.cat([step.hidden_before for step in steps])
        d_inputs = (d_features, d_projected, d.gates, d_hidden.to(features.dtype), d_cell)
        d_weights = CellWeights(
            query=d.query.t() @ hiddens,
            query_bias=d.query.sum(0),
            score=d_score,
            score_bias=w.score_bias * 0,
            context=d.gates.t() @ torch.cat([step.context for step in steps]),
            hidden=d.gates.t() @ hiddens,
            beta=d.beta.t() @ hiddens,
            beta_bias=d.beta.sum(0),
        )
        return None, None, *d_inputs, *d_weights
