"""Hypotheses of a search, and their ranking."""

from __future__ import annotations

from dataclasses import dataclass

from sat.config.decoding import DecodingConfig
from sat.decoding.errors import no_token_error

NEG_INF = float("-inf")


@dataclass(frozen=True)
class Hypothesis:
    words: list[int]
    """ids, without start and end"""
    score: float
    """total log-probability under the model, the end included"""
    finished: bool
    """False when the step limit cut the caption off"""
    end_id: int | None = None
    """the token that ended it; none where it was cut off"""

    def rank(self, length_penalty: float) -> float:
        """The ranking score: score / length ** penalty, the end counted in the length."""
        divisor: float = (len(self.words) + self.finished) ** length_penalty
        return self.score / divisor


def is_settled(done: list[Hypothesis], best: float, length: int, options: DecodingConfig) -> bool:
    """True when the search of an image ends with these finished captions, by Hugging Face's rule.

    `best` is the highest total log-probability of the open beams of `length` tokens: no longer
    caption is expected to score more (https://github.com/huggingface/transformers/pull/20901).
    """
    if len(done) < options.beam_size or options.early_stopping is True:
        return len(done) >= options.beam_size
    penalty = options.length_penalty
    if options.early_stopping == "never" and penalty > 0:
        length = options.max_length
    worst = sorted(caption.rank(penalty) for caption in done)[-options.beam_size]
    return bool(best / length**penalty <= worst)


def rank_hypotheses(
    done: list[list[Hypothesis]], options: DecodingConfig
) -> list[list[Hypothesis]]:
    """Sort the captions of each image, best first, and keep `num_return_sequences`.

    Finished captions come before those cut off, except where the width stays. Raises `ValueError`
    where an image has none: the rules forbade all words of its captions.
    """
    if not all(done):
        raise no_token_error(options)

    def key(caption: Hypothesis) -> tuple[bool, float]:
        first = caption.finished and not options.keeps_width
        return first, caption.rank(options.length_penalty)

    ranked = [sorted(captions, key=key, reverse=True) for captions in done]
    return [captions[: options.num_return_sequences] for captions in ranked]
