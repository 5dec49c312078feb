"""The state of a training run: how far it is, and the sums of the epoch so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sat.config.training import StageConfig

EARLIER_NAMES = {
    "stale": "epochs_without_improvement",
    "scale": "lr_scale",
    "lines": "log_lines",
    "all_steps": "global_step",
}
COUNTS = ("seconds", "waiting", "captions", "batches")


@dataclasses.dataclass
class TrainerState:
    """Counters of a run: with weights, optimizer and random state all that resuming needs."""

    stage: int = 0  # index into the stages to run
    epoch: int = 0  # of the stage, from 0
    batch: int = 0  # batches of the epoch already learned from
    steps: int = 0  # batches of the stage
    best: float = -1.0  # validation BLEU-4 of best/
    best_cross_entropy: float = math.inf  # validation cross-entropy of best/
    epochs_without_improvement: int = 0  # epochs without a better one
    lr_scale: float = 1.0  # of the stage's learning rates
    log_lines: int = 0  # in the log
    global_step: int = 0  # batches learned from, over all stages
    totals: dict[str, float] = dataclasses.field(default_factory=dict)  # of the epoch

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainerState:
        """The state that `dataclasses.asdict` stored, under today's names or earlier ones."""
        return cls(**{EARLIER_NAMES.get(name, name): value for name, value in values.items()})

    def count(
        self, losses: dict[str, float], *, seconds: float, waiting: float, captions: float
    ) -> None:
        """Count one batch: its losses, its seconds, and those spent waiting for it."""
        self.batch += 1
        self.steps += 1
        self.global_step += 1
        counts = {"seconds": seconds, "waiting": waiting, "captions": captions, "batches": 1}
        for key, value in (losses | counts).items():
            self.totals[key] = self.totals.get(key, 0.0) + value

    def after_epoch(self, score: float, cross_entropy: float, stage: StageConfig) -> TrainerState:
        """The state at the beginning of the next epoch, after this one scored BLEU-4 `score`.

        Of equal scores, as 0.0 in the first epochs, the one with the lower validation
        `cross_entropy` is better.
        """
        better = (score, -cross_entropy) > (self.best, -self.best_cross_entropy)
        epochs_without_improvement = 0 if better else self.epochs_without_improvement + 1
        slower = (
            epochs_without_improvement > 0
            and epochs_without_improvement % stage.decay_patience == 0
        )
        return dataclasses.replace(
            self,
            epoch=self.epoch + 1,
            batch=0,
            best=score if better else self.best,
            best_cross_entropy=cross_entropy if better else self.best_cross_entropy,
            epochs_without_improvement=epochs_without_improvement,
            lr_scale=self.lr_scale * stage.decay if slower else self.lr_scale,
            log_lines=self.log_lines + 1,
            totals={},
        )

    def at_stage(self, index: int) -> TrainerState:
        """The state at the beginning of a later stage of the same run."""
        return TrainerState(
            stage=index,
            best=self.best,
            best_cross_entropy=self.best_cross_entropy,
            log_lines=self.log_lines,
            global_step=self.global_step,
        )

    def is_over(self, stage: StageConfig) -> bool:
        """True when the stage has run all its epochs, or too many without a better score."""
        return self.epoch >= stage.epochs or self.epochs_without_improvement >= stage.stop_patience

    def why_over(self, stage: StageConfig) -> str:
        """The reason why `is_over` holds."""
        if self.epoch >= stage.epochs:
            return "all epochs done"
        return f"{self.epochs_without_improvement} without better"

    def means(self, digits: int | None = None) -> dict[str, float]:
        """Mean losses, speed and share of waiting of the epoch so far, for bar and log."""
        seconds = self.totals.get("seconds") or 1.0
        losses = {key: value for key, value in self.totals.items() if key not in COUNTS}
        means = {key: value / self.totals["batches"] for key, value in losses.items()}
        means["captions_per_second"] = self.totals.get("captions", 0.0) / seconds
        means["waiting_share"] = self.totals.get("waiting", 0.0) / seconds
        if digits is None:
            return means
        return {key: round(value, digits) for key, value in means.items()}


@contextmanager
def fits_run(path: Path) -> Iterator[None]:
    """Turn errors of a state of another shape into one `ValueError` with the file's name."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(f"{path} does not fit this run ({reason}): start the run again") from error


def random_state(device: torch.device) -> list[torch.Tensor]:
    """The random state of the CPU and, where the device is a GPU, of that."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


def set_random_state(states: list[torch.Tensor], device: torch.device) -> None:
    """Continue the random draws where `random_state` was taken."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
