"""The gradients of all ranks, added up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sat.distributed import ranks

Loss = Callable[[Any], tuple[Tensor, dict[str, Any]]]


class GradientSum:
    """Adds up the gradients of all ranks, those of the last layers while backward is at the others.

    It is torch's DistributedDataParallel, but a sum: the loss of each rank is its share of the
    step's loss, so that the sum is the gradient of one process. `find_unused_parameters` lets
    weights have no gradient (a ViT's pooler); it also keeps the order in which gradients are sent,
    and so their sums, the same from the first step on: a resumed run repeats every bit.
    """

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        self._parallel: DistributedDataParallel | None = None
        if ranks() > 1:
            self._parallel = DistributedDataParallel(
                _Call(weights), find_unused_parameters=True, gradient_as_bucket_view=True
            )
            self._parallel.register_comm_hook(None, lambda _, bucket: _sum(bucket.buffer()))

    def while_backward(self, loss_of: Loss, last: Any) -> Loss:
        """`loss_of`, such that the backward of the part `last` of a step adds up the gradients."""
        parallel = self._parallel
        if parallel is None:
            return loss_of
        return lambda part: parallel(loss_of, part) if part is last else loss_of(part)


class _Call(nn.Module):
    """Calls a function that uses the weights: DistributedDataParallel wraps modules only."""

    def __init__(self, weights: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)

    def forward(self, function: Callable[[Any], Any], argument: Any) -> Any:
        return function(argument)


def _sum(values: Tensor) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(values, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])
