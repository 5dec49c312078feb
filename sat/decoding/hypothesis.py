"""Hypotheses of a search, their ranking, and the decoder that a search needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from sat.config.decoding import DecodingConfig

NEG_INF = float("-inf")


class StepDecoder(Protocol):
    """What decoding needs of a captioner; only the captioner looks inside its state."""

    start_id: int
    end_id: int
    pad_id: int
    unk_id: int | None

    def start(self, features: Tensor) -> Any:
        """The state before the first word of each of B images."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits float[N, V] of the word after tokens int[N], and the next state."""

    def reorder(self, state: Any, index: Tensor) -> Any:
        """The state whose row i is row index[i] of this one."""


@dataclass(frozen=True)
class Hypothesis:
    """A caption as the search left it."""

    words: list[int]
    """ids, without the start and the end"""
    score: float
    """total log-probability under the model, the end included"""
    finished: bool
    """False when the step limit came before the end word"""

    def rank(self, length_penalty: float) -> float:
        """What the search maximises: score / length ** penalty, the end counted in the length."""
        return self.score / (len(self.words) + self.finished) ** length_penalty


def collect_finished(
    done: list[list[Hypothesis]], words: Tensor, scores: Tensor, images: Tensor
) -> None:
    """Add captions int[N, t] that ended to those of their images."""
    for image, line, score in zip(images.tolist(), words.tolist(), scores.tolist()):
        done[image].append(Hypothesis(line, score, finished=True))


def rank_hypotheses(
    done: list[list[Hypothesis]], options: DecodingConfig
) -> list[list[Hypothesis]]:
    """Each image's captions ranked, finished ones first, cut to the number asked for."""

    def place(caption: Hypothesis) -> tuple[bool, float]:
        return caption.finished, caption.rank(options.length_penalty)

    ranked = [sorted(captions, key=place, reverse=True) for captions in done]
    return [captions[: options.num_return_sequences] for captions in ranked]
