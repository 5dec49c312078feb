"""Optimizers, warm-up, moving average, clipping, and one optimizer step with accumulation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sat.config.training import StageConfig, TrainConfig
from sat.models.base import CaptionModel
from sat.training.objectives.base import Metrics
from sat.training.step_metrics import NORM

Part = TypeVar("Part")


def adam(groups: list[dict[str, Any]]) -> Optimizer:
    """Adam with the betas that torch, the tutorial and the authors' code have in common."""
    return torch.optim.Adam(groups, fused=True)


def rmsprop(groups: list[dict[str, Any]]) -> Optimizer:
    """RMSProp, which Xu et al. name without constants: those of Graves 2013, eq. 38-45.

    His 1e-4 stands inside the root, torch's epsilon outside: 0.01, its root, is the same where the
    variance vanishes, and in between steps are shorter by a factor of sqrt(2) at most.
    """
    return torch.optim.RMSprop(groups, alpha=0.95, momentum=0.9, centered=True, eps=0.01)


OPTIMIZERS = {"adam": adam, "rmsprop": rmsprop}


def build_optimizer(
    model: CaptionModel, stage: StageConfig, *, embeddings: bool, steps_done: int = 0
) -> Optimizer:
    """The optimizer of the parts that the stage trains; the others are frozen.

    Parameter group 0 is the decoder's, group 1 the encoder's. `embeddings`: word vectors learn. A
    stage that is resumed has made `steps_done` steps of its warm-up.
    """
    model.set_trainable(stage, embeddings=embeddings)
    of_encoder = set(model.encoder.parameters())
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    decoder_params = [weight for weight in trainable if weight not in of_encoder]
    encoder_params = [weight for weight in trainable if weight in of_encoder]
    groups = [{"params": params} for params in (decoder_params, encoder_params) if params]
    optimizer = OPTIMIZERS[stage.optimizer](groups)
    warm_up(optimizer, stage.warmup, steps_done)
    return optimizer


def set_learning_rates(optimizer: Optimizer, stage: StageConfig, scale: float) -> None:
    """Give decoder and encoder the stage's learning rates times `scale`."""
    rates = (stage.learning_rate, stage.encoder_learning_rate)
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate * scale


def build_ema(model: CaptionModel, stage: StageConfig) -> AveragedModel | None:
    """The exponential moving average of the model's weights, where the stage takes one."""
    return MovingAverage(cast(nn.Module, model), stage.ema) if stage.ema else None


class MovingAverage(AveragedModel):
    """A moving average whose decay is min(decay, (1 + n) / (10 + n)) after n updates.

    So an average of few steps is one of the latest of them, not of the random weights before: the
    rule of TensorFlow's ExponentialMovingAverage. n is saved with the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self._decay = decay

    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`; the first update copies them.

        (torch's own copies n to the device of the weights, and waits for that.)
        """
        n = int(self.n_averaged)  # on the host, where the average was built
        decay = min(self._decay, (1 + n) / (10 + n)) if n else 0.0
        average = list(self.module.parameters())
        get_ema_multi_avg_fn(decay)(average, list(model.parameters()), self.n_averaged)
        for mine, its in zip(self.module.buffers(), model.buffers()):
            mine.copy_(its)
        self.n_averaged += 1


def optimizer_step(
    optimizer: Optimizer,
    parts: Iterable[Part],
    loss_of: Callable[[Part], tuple[Tensor, Metrics]],
    config: TrainConfig,
    scaler: GradScaler | None = None,
) -> Metrics:
    """Make one optimizer step from the parts of a batch; returns the step's metrics.

    `loss_of` gives a part's share of the loss and of each metric: they are added up, and only one
    part is in memory at a time. The gradient is clipped as the config says; its norm before that is
    the metric `NORM`. A step whose gradient is not finite is left out; in float16 the
    scale is lowered then. Nobody waits for the device here: `read_metrics` does, and tells of such
    a step (but RMSProp, which cannot leave out a step on the device, waits for the norm).
    """
    scaler = scaler or GradScaler("cpu", enabled=False)
    optimizer.zero_grad(set_to_none=True)
    metrics: Metrics = {}
    for part in parts:
        loss, shares = loss_of(part)
        scaler.scale(loss).backward()
        shares = shares | {"loss": loss.detach()}
        metrics |= {name: metrics.get(name, 0.0) + value for name, value in shares.items()}
    scaler.unscale_(optimizer)
    norm = clip_gradient(optimizer, config)
    if scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    elif getattr(optimizer, "_step_supports_amp_scaling", False):  # GradScaler too asks for this
        fused: Any = optimizer
        fused.grad_scale, fused.found_inf = None, (~norm.isfinite()).float()
        optimizer.step()
        del fused.grad_scale, fused.found_inf
    elif norm.isfinite():
        optimizer.step()
    return metrics | {NORM: norm}


def clip_gradient(optimizer: Optimizer, config: TrainConfig) -> Tensor:
    """Clip the whole gradient's norm, or each of its elements (0: nothing); the norm before."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    by_norm = config.grad_clip_by == "norm"
    norm = nn.utils.clip_grad_norm_(weights, (by_norm and config.grad_clip) or math.inf)
    if config.grad_clip and not by_norm:
        nn.utils.clip_grad_value_(weights, config.grad_clip)
    return norm


def warm_up(optimizer: Optimizer, steps: int, done: int = 0) -> None:
    """Make step i of the first `steps` (from 1) use i / steps of the learning rates that are set.

    A step that float16 leaves out is one of them. `done`: the steps that were made before.
    """
    rates: list[float] = []
    numbers = itertools.count(done + 1)

    def lower(optimizer: Optimizer, *_: Any) -> None:
        rates[:] = [group["lr"] for group in optimizer.param_groups]
        share = min(1.0, next(numbers) / steps)
        for group in optimizer.param_groups:
            group["lr"] *= share

    def restore(optimizer: Optimizer, *_: Any) -> None:
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate

    if steps:
        optimizer.register_step_pre_hook(lower)
        optimizer.register_step_post_hook(restore)
