"""Single training steps, as a stage makes them, on a bare model and a batch."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from sat.config.objectives import ScheduledSamplingConfig
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch, microbatches
from sat.training.objectives.cross_entropy import CrossEntropyObjective
from sat.training.objectives.self_critical import SelfCriticalObjective
from sat.training.optim import optimizer_step
from sat.training.step_metrics import read_metrics


def cross_entropy_objective(
    model: Any, config: TrainConfig, *, teacher_forcing_ratio: float = 1.0
) -> CrossEntropyObjective:
    """The objective; its first minibatch has this teacher forcing ratio."""
    schedule = ScheduledSamplingConfig("linear", k=teacher_forcing_ratio, c=1e-9)
    stage = StageConfig(scheduled_sampling=schedule)
    return CrossEntropyObjective(model, config, stage)


def self_critical_objective(
    model: Any, reward: Any, *, samples: int, baseline: str = "leave_one_out"
) -> SelfCriticalObjective:
    """The objective with the rewards that `reward.score` gives."""
    stage = StageConfig(objective="self_critical", samples=samples, baseline=baseline)
    return SelfCriticalObjective(model, TrainConfig(), stage, reward)


def parts_and_loss(objective: Any, batch: Batch, accumulate: int = 1) -> tuple[list[Batch], Any]:
    """The parts of a batch, and the loss of each of them."""
    with objective.step(batch, 0) as loss:
        return microbatches(batch, accumulate), loss


def step(
    objective: Any,
    optimizer: Optimizer,
    batch: Batch,
    config: TrainConfig | None = None,
    *,
    accumulate: int = 1,
    scaler: Any = None,
) -> dict[str, float]:
    """Make one optimizer step; returns the metrics."""
    with objective.step(batch, 0) as loss:
        parts = microbatches(batch, accumulate)
        metrics = optimizer_step(optimizer, parts, loss, config or TrainConfig(), scaler)
    (read,) = read_metrics([objective.after_step(metrics)], scaler)
    return read


def learn(
    model: Any, optimizer: Optimizer, batch: Batch, config: TrainConfig, **how: Any
) -> dict[str, float]:
    """Make one optimizer step by cross-entropy."""
    return step(cross_entropy_objective(model, config), optimizer, batch, config, **how)
