"""Hypotheses of a search, their ranking, and the decoder interface that a search drives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from sat.config.decoding import DecodingConfig

NEG_INF = float("-inf")


class StepDecoder(Protocol):
    """A captioning model that decodes one word at a time; its state is opaque to decoding."""

    @property
    def start_id(self) -> int: ...
    @property
    def end_id(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def unk_id(self) -> int | None: ...

    def start(self, features: Tensor) -> Any:
        """The state before the first word, from features float[B, P, D]."""

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits float[N, V] of the word after tokens int[N], and the next state."""

    def reorder(self, state: Any, index: Tensor) -> Any:
        """A state whose row i is row index[i] of the given one."""


@dataclass(frozen=True)
class Hypothesis:
    """A generated caption."""

    words: list[int]
    """ids, without start and end"""
    score: float
    """total log-probability under the model, the end included"""
    finished: bool
    """False when the step limit cut the caption off"""

    def rank(self, length_penalty: float) -> float:
        """The ranking score: score / length ** penalty, the end counted in the length."""
        divisor: float = (len(self.words) + self.finished) ** length_penalty
        return self.score / divisor


def collect_finished(
    done: list[list[Hypothesis]], words: Tensor, scores: Tensor, images: Tensor
) -> None:
    """Append finished captions int[N, t] to the lists of their images."""
    for image, line, score in zip(images.tolist(), words.tolist(), scores.tolist()):
        done[image].append(Hypothesis(line, score, finished=True))


def rank_hypotheses(
    done: list[list[Hypothesis]], options: DecodingConfig
) -> list[list[Hypothesis]]:
    """Sort the captions of each image, finished ones first, and keep `num_return_sequences`."""

    def key(caption: Hypothesis) -> tuple[bool, float]:
        return caption.finished, caption.rank(options.length_penalty)

    ranked = [sorted(captions, key=key, reverse=True) for captions in done]
    return [captions[: options.num_return_sequences] for captions in ranked]
