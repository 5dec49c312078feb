"""Learning rates that grow at the beginning of a stage."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer


def warm_up(optimizer: Optimizer, steps: int) -> None:
    """Let step i of the first `steps` (from 1) learn at i / steps of the rates that are set.

    Counted by the optimizer's own state, so that a run that is resumed goes on where it was.
    """
    rates: list[float] = []

    def lower(optimizer: Optimizer, *_: Any) -> None:
        done = max((int(state["step"]) for state in optimizer.state.values()), default=0)
        rates[:] = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] *= min(1.0, (done + 1) / steps)

    def restore(optimizer: Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate

    if steps:
        optimizer.register_step_pre_hook(lower)
        optimizer.register_step_post_hook(restore)
