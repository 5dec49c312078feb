"""The metrics of training steps, which lie on the device until they are read, many at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.amp import GradScaler

from sat.distributed import all_reduce_sum
from sat.training.objectives.base import Metrics
from sat.training.state import TrainerState

NORM = "gradient_norm"
"""a metric that all ranks have alike; the others are shares, that add up"""


class UnreadSteps:
    """The steps of a run that are made, and not yet counted in its state."""

    def __init__(self, scaler: GradScaler) -> None:
        self._scaler = scaler
        self._steps: list[tuple[Metrics, dict[str, float]]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, metrics: Metrics, **counts: float) -> None:
        """Add a step with the `counts` that `TrainerState.count` takes."""
        self._steps.append((metrics, counts))

    def count(self, state: TrainerState) -> dict[str, float]:
        """Count all of them in the state; the metrics of the latest.

        Raises `FloatingPointError` as `read_metrics`; the steps before that one are counted.
        """
        steps, self._steps = self._steps, []
        latest: dict[str, float] = {}
        for latest, (_, counts) in zip(
            read_metrics([one for one, _ in steps], self._scaler), steps
        ):
            state.count(latest, **counts)
        return latest


def read_metrics(
    steps: Sequence[Metrics], scaler: GradScaler | None = None
) -> Iterator[dict[str, float]]:
    """The metrics of optimizer steps, in turn, over all ranks: the device is waited for once.

    Raises `FloatingPointError` at a step whose loss or gradient is not finite. In float16 a
    gradient may overflow as long as there is a scale to lower: that step has no norm.
    """
    entries = {(i, name): value for i, step in enumerate(steps) for name, value in step.items()}
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    if tensors:
        read = torch.stack([value.float() for value in tensors.values()]).tolist()
        entries |= dict(zip(tensors, read))
    shares = {key: value for key, value in entries.items() if key[1] != NORM}
    entries |= all_reduce_sum(shares)
    may_overflow = scaler is not None and scaler.is_enabled() and scaler.get_scale() >= 1
    for i, step in enumerate(steps):
        metrics = {name: entries[i, name] for name in step}
        if not math.isfinite(loss := metrics.pop("loss", 0.0)):
            raise FloatingPointError(f"the loss is {loss}")
        if not math.isfinite(norm := metrics.get(NORM, 0.0)):
            if not may_overflow:
                raise FloatingPointError(f"the norm of the gradient is {norm}")
            del metrics[NORM]
        yield metrics
