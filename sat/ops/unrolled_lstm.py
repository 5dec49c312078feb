"""The teacher-forced recurrence of the decoder, with its gradient written by hand.

Autograd works out the gradient of every weight anew at each word and adds it up: as many products
of narrow matrices, and as many passes over a gradient as large as the features. Here each weight's
gradient is one product over all words at the end. The mathematics is that of
`DecoderWithAttention.step`, and a test holds the two equal.

B captions sorted from long to short, N their words in all, P regions, C cells (fewer than regions
only where a grid is enlarged, see `grid.py`), D features, A attention and H hidden units, G units
of the gate (D, 1 or 0). Words are packed: those of step 0 of all captions, then those of step 1 of
the captions that have one, and so on; `rows` counts them at each step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sat.ops.attention_scores import hidden_layers, rows_cached, select_locations, working_memory
from sat.ops.linear import linear, lstm, transposed
from sat.ops.packed_captions import padded
from sat.ops.pooled_grid import from_cells, on_cells

DERIVATIVES = {
    "tanh": lambda slope, value: torch.ops.aten.tanh_backward.grad_input(
        slope, value, grad_input=value
    ),
    "relu": lambda slope, value: torch.ops.aten.threshold_backward.grad_input(
        slope, value, 0, grad_input=value
    ),
}
"""the slope before an activation from that behind it and its value, in whose place it is written"""


class CellWeights(NamedTuple):
    """What the recurrence multiplies by, as `nn.Linear` keeps it: (outputs, inputs)."""

    query: Tensor  # float[A, H]: decoder_att
    query_bias: Tensor  # float[A]
    score: Tensor  # float[A]: full_att
    score_bias: Tensor  # float[1]: no softmax feels it, so its gradient is zero
    context: Tensor  # float[4H, D]: the LSTM's part for the context
    hidden: Tensor  # float[4H, H]: the LSTM's part for the hidden state
    gate: Tensor  # float[G, H]: f_beta
    gate_bias: Tensor  # float[G]


def recurrent_weights(
    attention: nn.Module, cell: nn.LSTMCell, gate: nn.Linear | None, context: Tensor
) -> CellWeights:
    """Those of a decoder's layers; `context` float[4H, D] is a part of the LSTM's weight_ih."""
    none = cell.weight_hh.new_empty(0, cell.hidden_size)
    return CellWeights(
        query=attention.decoder_att.weight,
        query_bias=attention.decoder_att.bias,
        score=attention.full_att.weight.flatten(),
        score_bias=attention.full_att.bias,
        context=context,
        hidden=cell.weight_hh,
        gate=none if gate is None else gate.weight,
        gate_bias=none[:, 0] if gate is None else gate.bias,
    )


class UnrolledSteps(NamedTuple):
    """What the words of all captions saw and left, packed."""

    hiddens: Tensor  # float[N, H], after the word
    contexts: Tensor  # float[N, D], gated
    alphas: Tensor  # float[N, P]
    looks: Tensor | None  # float[N, P], one at the region looked at; None: the expected context


def unroll(
    features: Tensor,
    projected: Tensor,
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    rows: list[int],
    weights: CellWeights,
    activation: str,
    look: str = "expected",
) -> UnrolledSteps:
    """All steps of attention and LSTM over float[N, 4H] `inputs`: W [E y] + b of each word.

    features float[B, C, D], their projection float[B, P, A], hidden and cell float[B, H].
    No gradient passes from a context to the map where `look` took one region by it.
    Products are taken in the features' precision; maps, cell and sums in that of the cell.
    """
    weights = CellWeights(*(weight.to(features.dtype) for weight in weights))
    cell = cell.to(torch.promote_types(cell.dtype, torch.float32))
    with torch.autocast(features.device.type, enabled=False):
        how = (rows, activation, look)
        found = _Unroll.apply(how, features, projected, inputs, hidden, cell, *weights)
    return UnrolledSteps(*found)


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        how: tuple[list[int], str, str],
        features: Tensor,
        projected: Tensor,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        w, dtype = CellWeights(*weights), features.dtype
        rows, activation, look = how
        before, queries, maps, seen, gates, raw, gated, cells, parts = ([] for _ in range(9))
        hidden, room = hidden.to(dtype), working_memory(projected)
        for n, words in zip(rows, inputs.split(rows)):
            hidden, cell = hidden[:n], cell[:n]
            before.append(hidden)
            query = linear(hidden, w.query, w.query_bias)
            layers = hidden_layers(projected[:n], query.unsqueeze(1), activation, room)
            scores = torch.cat([layer @ w.score for layer in layers])  # (n, P)
            alpha = scores.to(cell.dtype).softmax(dim=1)
            seen.append(alpha if look == "expected" else select_locations(alpha, look))
            weighed = on_cells(seen[-1].to(dtype), features).unsqueeze(1)  # (n, 1, C)
            context = torch.bmm(weighed, features[:n]).squeeze(1)  # (n, D)
            raw.append(context)
            if len(w.gate):
                gates.append(linear(hidden, w.gate, w.gate_bias).sigmoid_())
                context = gates[-1] * context
            found = lstm(words + linear(hidden, w.hidden) + linear(context, w.context), cell)
            cells.append(cell)
            cell, hidden = found.cell, found.hidden.to(dtype)
            queries.append(query)
            maps.append(alpha)
            gated.append(context)
            parts.append(found._replace(hidden=hidden))
        hiddens = torch.cat([part.hidden for part in parts])
        contexts, alphas = torch.cat(gated), torch.cat(maps)
        looks = None if look == "expected" else torch.cat(seen)
        if looks is not None:
            ctx.mark_non_differentiable(looks)
        ctx.save_for_backward(features, projected, hiddens, contexts, alphas, looks, *w)
        ctx.steps = (rows, activation, before, queries, gates, raw, cells, parts)
        return hiddens, contexts, alphas, looks

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hiddens: Tensor, d_contexts: Tensor, d_alphas: Tensor, _: Any) -> Any:
        features, projected, _, contexts, alphas, looks, *weights = ctx.saved_tensors
        rows, activation, before, queries, gates, raw, cells, parts = ctx.steps
        w, dtype, exact = CellWeights(*weights), features.dtype, alphas.dtype
        d_projected = torch.zeros_like(projected)
        d_score = torch.zeros_like(w.score, dtype=exact)
        d_hidden = alphas.new_zeros(rows[0], w.hidden.shape[1])
        d_cell, room = torch.zeros_like(d_hidden), working_memory(projected)
        context_back = transposed(w.context)  # once, as every step multiplies by it
        found = []  # from the last step to the first
        steps = zip(
            rows, d_hiddens.split(rows), d_contexts.split(rows), d_alphas.split(rows),
            alphas.split(rows), queries, gates or before, raw, cells, parts,
        )  # fmt: skip
        for n, *ds, alpha, query, gate, context, cell, part in reversed(list(steps)):
            into, kept, new, out, bounded, *_ = part
            d_h, d_c = d_hidden[:n] + ds[0], d_cell[:n]
            d_c += d_h * out * (1 - bounded * bounded)
            d_sums = torch.cat(
                [
                    d_c * new * into * (1 - into),
                    d_c * cell * kept * (1 - kept),
                    d_c * into * (1 - new * new),
                    d_h * bounded * out * (1 - out),
                ],
                dim=1,
            ).to(dtype)  # (n, 4H)
            d_c *= kept
            d_before = d_sums @ w.hidden
            d_context = linear(d_sums, context_back) + ds[1].to(dtype)  # (n, D)
            d_gate = None
            if gates:
                d_gate = d_context * context
                d_gate = d_gate if gate.shape[1] > 1 else d_gate.sum(1, keepdim=True)
                d_gate = d_gate * gate * (1 - gate)
                d_before = torch.addmm(d_before, d_gate, w.gate)
                d_context = d_context * gate
            d_alpha = ds[2]  # (n, P)
            if looks is None:
                d_cells = torch.bmm(features[:n], d_context.unsqueeze(2)).squeeze(2)  # (n, C)
                d_alpha = d_alpha + from_cells(d_cells, features, alpha.shape[1])
            d_scores = (alpha * (d_alpha - (alpha * d_alpha).sum(1, keepdim=True))).to(dtype)
            ours = d_projected[:n], d_score, room
            d_query = _through_layers(projected[:n], query, d_scores, activation, *ours) * w.score
            d_hidden[:n] = torch.addmm(d_before, d_query, w.query)
            found.append((d_sums, d_query, d_gate, d_context))
        d_sums, d_query, d_gate, d_context = (_packed(part) for part in zip(*reversed(found)))
        hiddens = torch.cat(before)
        d_features = None
        if ctx.needs_input_grad[1]:
            seen = on_cells((alphas if looks is None else looks).to(dtype), features)
            seen = padded(seen, rows)
            d_features = torch.bmm(seen.transpose(1, 2), padded(d_context, rows))  # (B, C, D)
        return (
            None, d_features, d_projected * w.score, d_sums, d_hidden.to(dtype), d_cell,
            d_query.t() @ hiddens, d_query.sum(0), d_score.to(dtype), w.score_bias * 0,
            d_sums.t() @ contexts, d_sums.t() @ hiddens,
            None if d_gate is None else d_gate.t() @ hiddens,
            None if d_gate is None else d_gate.sum(0),
        )  # fmt: skip


def _through_layers(
    projected: Tensor,
    query: Tensor,
    d_scores: Tensor,
    activation: str,
    d_projected: Tensor,
    d_score: Tensor,
    room: Tensor | None,
) -> Tensor:
    """The gradient float[n, A] of the queries from that of the scores float[n, P].

    Adds to that of the projections and of the score's weights; all but the last lack its factor.
    """
    few = rows_cached(projected)
    d_queries = []
    for layer, slopes, d_photos in zip(
        hidden_layers(projected, query.unsqueeze(1), activation, room),
        d_scores.split(few),
        d_projected.split(few),
    ):
        # The layer float[<=n, P, A] is made again and kept nowhere.
        d_score += slopes.flatten() @ layer.flatten(0, 1)
        d_layer = DERIVATIVES[activation](slopes.unsqueeze(2), layer)
        d_photos += d_layer
        d_queries.append(d_layer.sum(1))
    return torch.cat(d_queries)


def _packed(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    return None if parts[0] is None else torch.cat(parts)
