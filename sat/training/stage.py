"""One stage of training: its optimizer, moving average, objective, batches and data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from sat.captioner import Captioner
from sat.checkpoints import native
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch, CaptionBatchSampler, microbatches, training_loader
from sat.data.dataset import CaptionDataset
from sat.device import resolve_device
from sat.distributed import seed_draws, share
from sat.models.base import CaptionModel
from sat.training.attention_boxes import AttentionBoxes
from sat.training.feature_cache import with_features
from sat.training.gradient_sum import GradientSum
from sat.training.objectives.base import Metrics, Objective
from sat.training.objectives.cross_entropy import CrossEntropyObjective
from sat.training.objectives.self_critical import SelfCriticalObjective, reward_of
from sat.training.optim import build_ema, build_optimizer, optimizer_step, set_learning_rates
from sat.training.run_folder import store_decoding
from sat.training.state import TrainerState
from sat.training.validation import choose_decoding


@dataclass(frozen=True)
class Stage:
    """The parts that one stage of a run trains with."""

    number: int
    config: StageConfig
    optimizer: Optimizer
    ema: AveragedModel | None
    objective: Objective
    gradients: GradientSum
    sampler: CaptionBatchSampler
    loader: Iterable[Batch]
    val: CaptionDataset
    """the validation split, as cached features where the stage reads those"""

    def state_dict(self) -> dict[str, Any]:
        """The state of optimizer and moving average."""
        average = None if self.ema is None else self.ema.state_dict()
        return {"optimizer": self.optimizer.state_dict(), "average": average}

    def load_state_dict(self, saved: dict[str, Any], lr_scale: float) -> None:
        """Go on from a `state_dict`, with the learning rates of the config times `lr_scale`.

        A moving average that the saved stage did not take begins here.
        """
        self.optimizer.load_state_dict(saved["optimizer"])
        set_learning_rates(self.optimizer, self.config, lr_scale)
        if self.ema is not None and saved["average"] is not None:
            self.ema.load_state_dict(saved["average"])

    def averaged(self, captioner: Captioner) -> Captioner:
        """The captioner to validate and keep: with average weights, where the stage takes them."""
        if self.ema is None:
            return captioner
        model = cast(CaptionModel, self.ema.module)
        return Captioner(model, captioner.vocabulary, captioner.config)


def build_stage(
    config: TrainConfig,
    number: int,
    captioner: Captioner,
    train: CaptionDataset,
    val: CaptionDataset,
    state: TrainerState,
    *,
    bar: Callable[..., Any],
) -> Stage:
    """Freeze and unfreeze the model as stage `number` says, and build its parts.

    Learning rates and their warm-up go on from `state`. Where the features are cached, images that
    have none yet are encoded first, with a progress bar of `bar`.
    """
    stage, model = config.stage(number), captioner.model
    optimizer = build_optimizer(
        model, stage, embeddings=config.fine_tune_embeddings, steps_done=state.steps
    )
    set_learning_rates(optimizer, stage, state.lr_scale)
    ema = build_ema(model, stage)
    cached = config.cache_features and model.frozen_part() is not None
    source = train
    if cached:
        encoded = partial(with_features, captioner, folder=config.cache_dir, bar=bar)
        source, val = encoded(train, mirror=config.mirror), encoded(val, mirror=False)
    sampler = build_sampler(config, number, train)
    on_cuda = captioner.device.type == "cuda"
    loader = training_loader(
        source,
        sampler,
        workers=config.workers if on_cuda or not cached else 0,
        pin=on_cuda,
    )
    return Stage(
        number=number,
        config=stage,
        optimizer=optimizer,
        ema=ema,
        gradients=GradientSum(weight for weight in model.parameters() if weight.requires_grad),
        objective=build_objective(model, config, stage, train),
        sampler=sampler,
        loader=loader,
        val=val,
    )


def build_objective(
    model: CaptionModel, config: TrainConfig, stage: StageConfig, train: CaptionDataset
) -> Objective:
    """The objective that the stage names, with attention supervision where `box_weight` asks."""
    boxes = AttentionBoxes(train) if config.box_weight else None
    if stage.objective == "self_critical":
        return SelfCriticalObjective(model, config, stage, reward_of(train), boxes)
    return CrossEntropyObjective(model, config, stage, boxes)


def build_sampler(config: TrainConfig, number: int, train: CaptionDataset) -> CaptionBatchSampler:
    """The order in which a stage learns from the captions; seeded by run and stage."""
    stage = config.stage(number)
    draw_one = config.captions == "random"
    learns_words = stage.objective == "likelihood"
    return CaptionBatchSampler(
        train.lengths,
        stage.batch_size,
        kind=config.batches if learns_words else "random",
        mirror=config.mirror,
        stride=train.captions_per_image if draw_one or not learns_words else 1,
        draw_one=draw_one and learns_words,
        group_size=stage.captions_per_sample,
        repeats=_repeats(train, config.repeat),
        seed=config.seed * 10 + number,
        share=share(),
    )


def _repeats(train: CaptionDataset, repeat: dict[str, int]) -> np.ndarray | None:
    """How many times an epoch each caption is shown; `ValueError` for a prefix of no image."""
    if not repeat:
        return None
    names = train.file_names()
    for prefix in repeat:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(
                f"repeat is {repeat}: no training image's name begins with {prefix!r} (the first "
                f"is {names[0]!r})"
            )
    times = [max(n for p, n in {"": 1, **repeat}.items() if name.startswith(p)) for name in names]
    return np.repeat(times, train.captions_per_image)


def training_step(
    stage: Stage, batch: Batch, number: int, config: TrainConfig, scaler: GradScaler
) -> Metrics:
    """Make one step of the optimizer on a batch, the stage's `number`-th from 0, with all ranks.

    Returns the step's metrics: those of the objective, and the gradient's norm. A gradient that is
    not finite changes nothing; `read_metrics` raises for it.
    """
    parts = microbatches(batch, stage.config.accumulate)
    key = (config.seed, stage.number, number)
    seed_draws(*key)  # all ranks draw soft or hard attention alike
    with stage.objective.step(batch, number) as loss:
        seed_draws(*key, apart=True)
        loss = stage.gradients.while_backward(loss, parts[-1])
        metrics = optimizer_step(stage.optimizer, parts, loss, config, scaler)
    return stage.objective.after_step(metrics)


def store_best_decoding(
    folder: Path, stage: Stage, config: TrainConfig, bar: Callable[..., Any]
) -> None:
    """Store with the checkpoint the decoding that scores highest on the validation split."""
    best = Captioner(*native.load(folder)).to(resolve_device(config.device))
    best.model.set_trainable(stage.config, embeddings=True)  # to read the stage's features
    progress = partial(bar, desc="choosing the decoding", unit="batch", leave=False)
    decoding, scores = choose_decoding(best, stage.val, config, progress)
    best.config = replace(best.config, decoding=decoding)
    store_decoding(folder, best, scores)
