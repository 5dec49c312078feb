"""One step down a loss: which optimizer, how clipped, in how many parts, in which precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sat.models.show_attend_tell import ShowAttendTell
from sat.recipe import StageConfig, TrainConfig
from sat.warm_up import warm_up

if TYPE_CHECKING:
    from sat.models.vit_gpt2 import VitGpt2

Part = TypeVar("Part")

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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


def optimizer_for(
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


def set_rates(optimizer: Optimizer, stage: StageConfig, scale: float) -> None:
    """Give decoder and encoder the stage's learning rates times `scale`."""
    for group, rate in zip(
        optimizer.param_groups, (stage.learning_rate, stage.encoder_learning_rate)
    ):
        group["lr"] = rate * scale


def average_for(model: ShowAttendTell, stage: StageConfig) -> AveragedModel | None:
    """The moving average of the model's weights, where the stage takes one."""
    if not stage.ema:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(stage.ema))


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Matrix products in the precision that the config asks for."""
    dtype = DTYPES.get(config.precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def scaler_for(config: TrainConfig, device: torch.device) -> GradScaler:
    """What keeps small gradients from vanishing in float16; for other precisions it does nothing.

    `ValueError` when float16 is asked for where it does not pay.
    """
    half = config.precision == "float16"
    if half and device.type != "cuda":
        raise ValueError(
            f"precision is 'float16', which is for CUDA, not for {device.type}: choose bfloat16 "
            "or float32"
        )
    return GradScaler(device.type, enabled=half)


def descend(
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
