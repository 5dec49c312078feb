"""Options of the training objectives: hard attention and scheduled sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sat.config.checks import check, check_fields


@dataclass(frozen=True)
class ScheduledSamplingConfig:
    """The probability epsilon_i of feeding the true token, at minibatch i of the stage, from 0."""

    schedule: Literal["none", "linear", "exponential", "inverse_sigmoid"] = "none"
    """none: always; linear: k - c i; exponential: k^i; inverse_sigmoid: k / (k + exp(i / k))"""
    k: float = 1.0
    """linear: the start; exponential: below 1 (0.9995); inverse_sigmoid: 1 or more (500)"""
    c: float = 0.0
    """slope of linear, per minibatch"""
    least: float = 0.0
    """never below this"""

    def __post_init__(self) -> None:
        check_fields(self, {"[0, 1e9]": "k", "[0, 1]": "c least"})
        if self.schedule == "linear":
            check(0 <= self.k <= 1, "k", self.k, "linear begins at a probability")
            check(self.c > 0, "c", self.c, "give linear a slope above 0, as 0.0001")
        elif self.schedule == "exponential":
            check(0 < self.k < 1, "k", self.k, "exponential takes a number below 1, as 0.9995")
        elif self.schedule == "inverse_sigmoid":
            check(self.k >= 1, "k", self.k, "inverse_sigmoid takes 1 or more, as 500")

    def teacher_forcing_ratio(self, minibatch: int) -> float:
        """epsilon_i, the probability that an input token is the true one."""
        if self.schedule == "none":
            return 1.0
        if self.schedule == "linear":
            share = self.k - self.c * minibatch
        elif self.schedule == "exponential":
            share = self.k**minibatch
        else:
            share = self.k / (self.k + math.exp(min(minibatch / self.k, 700)))  # no overflow
        return max(share, self.least)


@dataclass(frozen=True)
class HardAttentionConfig:
    """Objective of `--decoder.attention hard` (Xu et al. 2015, section 4.1)."""

    reward: float = 0.01
    """lambda_r: weight of REINFORCE; 1: the gradient of the variational bound. arctic-captions uses
    a tenth of the mean over the T words of a caption, 1 / (10 T): 0.01 for ten words"""
    entropy: float = 0.002
    """lambda_e: weight of the maps' entropy, against a premature choice of one region"""
    baseline: float = 0.9
    """decay of the moving average of log p(word) that rewards are measured against"""

    def __post_init__(self) -> None:
        check_fields(self, {"[0, 1000]": "reward entropy", "[0, 1)": "baseline"})
