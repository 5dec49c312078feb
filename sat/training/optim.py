"""Optimizers, warm-up, clipping and one optimizer step with gradient accumulation."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sat.config.training import StageConfig, TrainConfig
from sat.models.show_attend_tell import ShowAttendTell

if TYPE_CHECKING:
    from sat.models.vit_gpt2 import VitGpt2


Part = TypeVar("Part")


def adam(groups: list[dict]) -> Optimizer:
    """Adam with the betas that torch, the tutorial and the authors' code have in common."""
    return torch.optim.Adam(groups, fused=True)


def rmsprop(groups: list[dict]) -> Optimizer:
    """RMSProp, which Xu et al. name without constants: those of Graves 2013, eq. 38-45.

    His 1e-4 stands inside the root, torch's epsilon outside: 0.01, its root, is the same where the
    variance vanishes, and in between steps are shorter by a factor of sqrt(2) at most.
    """
    return torch.optim.RMSprop(groups, alpha=0.95, momentum=0.9, centered=True, eps=0.01)


OPTIMIZERS = {"adam": adam, "rmsprop": rmsprop}


def build_optimizer(
    model: ShowAttendTell | VitGpt2, stage: StageConfig, *, embeddings: bool
) -> Optimizer:
    """The optimizer of what the stage learns, after freezing the rest; group 0 is the decoder's."""
    if isinstance(model, ShowAttendTell):
        model.encoder.fine_tune(stage.fine_tunes, stage.encoder_from_block)
        model.decoder.fine_tune_embeddings(embeddings)
    else:
        model.choose_trainable(stage.trainable)
    seeing = set(model.encoder.parameters())
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    speaks = [weight for weight in learning if weight not in seeing]
    sees = [weight for weight in learning if weight in seeing]
    groups = [{"params": part} for part in (speaks, sees) if part]
    optimizer = OPTIMIZERS[stage.optimizer](groups)
    warm_up(optimizer, stage.warmup)
    return optimizer


def set_learning_rates(optimizer: Optimizer, stage: StageConfig, scale: float) -> None:
    """Give decoder and encoder the stage's learning rates times `scale`."""
    for group, rate in zip(
        optimizer.param_groups, (stage.learning_rate, stage.encoder_learning_rate)
    ):
        group["lr"] = rate * scale


def build_ema(model: ShowAttendTell, stage: StageConfig) -> AveragedModel | None:
    """The moving average of the model's weights, where the stage takes one."""
    if not stage.ema:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(stage.ema))


def optimizer_step(
    optimizer: Optimizer,
    parts: Iterable[Part],
    loss_of: Callable[[Part], tuple[Tensor, dict[str, float]]],
    config: TrainConfig,
    scaler: GradScaler | None = None,
) -> dict[str, float]:
    """One step down the loss of a batch, worked through part by part; returns figures of the whole.

    Among them the norm of the whole gradient before it was clipped.

    `loss_of` gives a part's share of the loss and of each figure: they are added up, and only one
    part is in memory at a time. The gradient is clipped as the config says. In float16 a step whose
    gradient overflows is left out and the scale lowered, as long as there is one to lower.
    Raises `FloatingPointError`, before any weight is changed, when loss or gradient is no number.
    """
    scaler = scaler or GradScaler("cpu", enabled=False)
    optimizer.zero_grad(set_to_none=True)
    figures: dict[str, float] = {}
    for part in parts:
        loss, found = loss_of(part)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss is {loss.item()}")
        scaler.scale(loss).backward()
        figures |= {name: figures.get(name, 0.0) + value for name, value in found.items()}
    scaler.unscale_(optimizer)
    norm = _clip(optimizer, config)
    if not math.isfinite(norm) and scaler.get_scale() <= 1:
        raise FloatingPointError(f"the norm of the gradient is {norm}")
    scaler.step(optimizer)
    scaler.update()
    return figures | {"gradient_norm": norm}


def _clip(optimizer: Optimizer, config: TrainConfig) -> float:
    """Clip the whole gradient's norm, or each of its elements (0: nothing); the norm before."""
    learning = [weight for group in optimizer.param_groups for weight in group["params"]]
    by_norm = config.grad_clip_by == "norm"
    norm = nn.utils.clip_grad_norm_(learning, (by_norm and config.grad_clip) or math.inf)
    if config.grad_clip and not by_norm:
        nn.utils.clip_grad_value_(learning, config.grad_clip)
    return norm.item()


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


@contextmanager
def defer_keyboard_interrupt() -> Iterator[None]:
    """Ctrl-C waits until the block is done: a batch is learnt from wholly or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
