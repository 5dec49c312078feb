"""Training losses. B captions, T words, P regions, V vocabulary.

Padding is told by length, never by id: a decoder whose padding is its end word must still learn
to stop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sat.ops.ragged_rows import from_host


def word_mask(lengths: Tensor, steps: int) -> Tensor:
    """bool[B, T]: True where a caption of `lengths` int[B] still has a word to predict."""
    return torch.arange(steps, device=lengths.device) < lengths.unsqueeze(1)


def word_positions(lengths: Tensor, steps: int, device: torch.device) -> Tensor:
    """int[N]: where in a flat int[B, T] the words are that captions of `lengths` int[B] predict.

    Lengths on the host spare a wait for the device.
    """
    return from_host(np.flatnonzero(word_mask(lengths.cpu(), steps).numpy()), device)


def cross_entropy(
    logits: Tensor, targets: Tensor, lengths: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Mean over the real words of -log p(word): logits float[B, T, V], targets int[B, T].

    `lengths` int[B] counts the words to predict, the end included.
    """
    real = word_positions(lengths, targets.shape[1], logits.device)
    logits, targets = logits.flatten(0, 1), targets.flatten()
    if len(real) < len(logits):  # captions of one length, as most batches have them, need no copy
        logits = logits.index_select(0, real)  # a mask's gradient is slow on the CPU
        targets = targets.index_select(0, real)
    return functional.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def doubly_stochastic_penalty(alphas: Tensor, lengths: Tensor, *, scaling: str = "sum") -> Tensor:
    """How far each region's attention, summed over a caption, is from one (Xu et al. 2015, eq. 14).

    alphas float[B, T, P], zero past a caption's length. "sum" adds over regions and captions and
    divides by the number of words, so that cross-entropy + lambda * penalty is eq. 14 a word;
    "mean" averages over captions and regions, as the tutorial does.
    """
    squares = (1 - alphas.sum(dim=1)).square()  # (B, P)
    return squares.mean() if scaling == "mean" else squares.sum() / lengths.sum()


class BoundTerms(NamedTuple):
    """Terms that hard attention adds to the cross-entropy, a word: Xu et al. 2015, section 4.1."""

    reinforce: Tensor  # its gradient is that of minus the bound, less that of minus log p(y | s)
    entropy: Tensor  # of the maps
    log_p: Tensor  # mean of log p(word): what a moving baseline follows


def variational_terms(
    logits: Tensor,
    targets: Tensor,
    lengths: Tensor,
    alphas: Tensor,
    locations: Tensor,
    baseline: Tensor,
) -> BoundTerms:
    """The rest of an estimate of the bound sum_s p(s) log p(y | s) by one draw of locations s.

    Of each caption (log p(y | s) - b T) log p(s), its first factor held fixed, b the `baseline` a
    word; summed and divided by all words, as cross-entropy is, and negated. locations
    float[B, T, P] are one-hot, drawn from alphas float[B, T, P]; both are zero past the `lengths`.
    """
    mask = word_mask(lengths, targets.shape[1])
    log_p = logits.detach().float().log_softmax(dim=-1).gather(2, targets.unsqueeze(2)).squeeze(2)
    log_p = log_p.masked_fill(~mask, 0).sum(dim=1)  # (B,)
    alphas = alphas.float().clamp(min=torch.finfo(torch.float32).tiny)
    log_s = (locations * alphas.log()).sum(dim=(1, 2))  # (B,)
    words = lengths.sum()
    return BoundTerms(
        reinforce=-((log_p - baseline * lengths) * log_s).sum() / words,
        entropy=-(alphas * alphas.log()).sum() / words,
        log_p=log_p.sum() / words,
    )


def topk_accuracy(logits: Tensor, targets: Tensor, lengths: Tensor, k: int = 5) -> Tensor:
    """Share of the real words that are among the k likeliest (teacher forced, so no BLEU)."""
    real = word_positions(lengths, targets.shape[1], logits.device)
    logits, targets = logits.flatten(0, 1)[real], targets.flatten()[real]
    best = logits.topk(min(k, logits.shape[-1]), dim=-1).indices  # (words, k)
    return (best == targets.unsqueeze(1)).any(dim=1).float().mean()


def policy_gradient(logits: Tensor, drawn: Tensor, lengths: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE: its gradient is, on average, that of minus the expected reward (Williams 1992).

    drawn int[B, T] are captions drawn from the model whose logits float[B, T, V] these are,
    advantages float[B] their rewards less a baseline that does not depend on the caption itself.
    """
    mask = word_mask(lengths.to(logits.device, non_blocking=True), drawn.shape[1])
    log_p = logits.float().log_softmax(dim=-1).gather(2, drawn.unsqueeze(2)).squeeze(2)  # (B, T)
    return -(advantages * log_p.masked_fill(~mask, 0).sum(dim=1)).mean()
