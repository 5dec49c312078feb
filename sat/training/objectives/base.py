"""The interface of a training objective: a loss for the batches of a stage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from sat.data.dataloader import Batch

Metrics = dict[str, Any]
"""float, or float[] on the device, which `read_metrics` reads"""
Loss = Callable[[Batch], tuple[Tensor, Metrics]]
"""from a part of a batch to its share of the step's loss and metrics, which add up over parts"""


class Objective(Protocol):
    """A loss to minimize, and the metrics it reports."""

    def step(self, batch: Batch, number: int) -> AbstractContextManager[Loss]:
        """A block with the loss of the parts of `batch`, the stage's minibatch `number` from 0."""

    def after_step(self, metrics: Metrics) -> Metrics:
        """Metrics of the whole batch to be logged, once the optimizer has made its step."""
