"""What a captioner of either family returns. B captions, T words, P regions, V vocabulary."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Teacher-forced predictions; rows past a caption's length are zero maps and void logits."""

    logits: Tensor  # float[B, T-1, V]
    alphas: Tensor  # float[B, T-1, P]
    locations: Tensor | None = None  # float[B, T-1, P], one-hot; None for the expected context
