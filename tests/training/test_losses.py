"""The training losses, worked out word by word in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sat.training.losses import cross_entropy, doubly_stochastic_penalty, topk_accuracy, word_mask

LENGTHS = [3, 1, 4]
RANDOM = np.random.default_rng(5)
LOGITS = 3 * RANDOM.normal(size=(3, 4, 6))
TARGETS = RANDOM.integers(6, size=(3, 4))
WORDS = [(b, t) for b, length in enumerate(LENGTHS) for t in range(length)]


def tensors(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    return torch.tensor(LOGITS, dtype=dtype), torch.tensor(TARGETS), torch.tensor(LENGTHS)


def log_softmax(row: np.ndarray) -> np.ndarray:
    return row - np.log(np.exp(row).sum())


def test_word_mask_by_hand() -> None:
    expected = [[True, True, True, False], [True, False, False, False], [True] * 4]
    assert word_mask(torch.tensor(LENGTHS), 4).tolist() == expected


def test_cross_entropy_by_hand() -> None:
    expected = -np.mean([log_softmax(LOGITS[b, t])[TARGETS[b, t]] for b, t in WORDS])
    assert cross_entropy(*tensors()).item() == pytest.approx(expected, abs=1e-5)


def test_label_smoothing_by_hand() -> None:
    """A tenth of the probability is due to all six words alike, the rest to the right one."""
    total = 0.0
    for b, t in WORDS:
        due = np.full(6, 0.1 / 6)
        due[TARGETS[b, t]] += 0.9
        total -= (due * log_softmax(LOGITS[b, t])).sum()
    found = cross_entropy(*tensors(), label_smoothing=0.1)
    assert found.item() == pytest.approx(total / len(WORDS), abs=1e-5)


def test_what_stands_in_the_padding_does_not_matter() -> None:
    logits, targets, lengths = tensors()
    expected = cross_entropy(logits, targets, lengths)
    past = ~word_mask(lengths, 4)
    logits[past], targets[past] = torch.inf, 5
    assert cross_entropy(logits, targets, lengths).item() == expected.item()


def test_an_end_word_that_is_also_the_padding_is_learnt() -> None:
    """GPT-2 pads with its end word: the first is a word to predict, the others are not."""
    end = 0
    logits = torch.zeros(2, 4, 3, requires_grad=True)
    targets = torch.tensor([[1, end, end, end], [2, 1, end, end]])
    lengths = torch.tensor([2, 3])
    cross_entropy(logits, targets, lengths).backward()
    pulled = logits.grad[..., end] < 0  # made likelier
    expected = [[False, True, False, False], [False, False, True, False]]
    assert pulled.tolist() == expected
    assert not logits.grad[~word_mask(lengths, 4)].any()


def test_cross_entropy_of_low_precision_logits_is_taken_in_float32() -> None:
    logits, targets, lengths = tensors(torch.bfloat16)
    found = cross_entropy(logits, targets, lengths)
    assert found.dtype == torch.float32
    assert found.item() == cross_entropy(logits.float(), targets, lengths).item()


@pytest.mark.parametrize(("scaling", "divide_by"), [("sum", 2 + 1), ("mean", 2 * 3)])
def test_doubly_stochastic_penalty_by_hand(scaling: str, divide_by: int) -> None:
    """Two captions of two and one word, three regions, attention in quarters.

    Sums over words: (1.25, 0.5, 0.25) and (0.5, 0.5, 0); squared distances from one:
    0.0625 + 0.25 + 0.5625 and 0.25 + 0.25 + 1: 2.375 in all.
    """
    alphas = torch.tensor(
        [[[0.75, 0.25, 0.0], [0.5, 0.25, 0.25]], [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]]
    )
    penalty = doubly_stochastic_penalty(alphas, torch.tensor([2, 1]), scaling=scaling)
    assert penalty.item() == pytest.approx(2.375 / divide_by, abs=1e-6)


def test_attention_that_visits_every_region_once_costs_nothing() -> None:
    alphas, lengths = torch.eye(4).unsqueeze(0), torch.tensor([4])
    for scaling in ("sum", "mean"):
        assert doubly_stochastic_penalty(alphas, lengths, scaling=scaling).item() == 0


def test_topk_accuracy_by_hand() -> None:
    for k in (1, 2, 5, 6, 100):
        hits = [TARGETS[b, t] in np.argsort(-LOGITS[b, t])[:k] for b, t in WORDS]
        assert topk_accuracy(*tensors(), k=k).item() == pytest.approx(np.mean(hits), abs=1e-6)
    assert topk_accuracy(*tensors()).item() == topk_accuracy(*tensors(), k=5).item()
