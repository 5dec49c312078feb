"""Training in stages: the decoder on a frozen encoder, then both, stopping early on BLEU-4.

What a run leaves in its folder: best/ (the checkpoint that captioned the validation images best),
last/ (the newest, from which a killed run goes on exactly) and log.jsonl, one line an epoch; where
TensorBoard is installed, events/ for it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from sat.checkpoints import native
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch, training_loader
from sat.device import grad_scaler, resolve_device
from sat.evaluation import check_preprocessing
from sat.models.show_attend_tell import ShowAttendTell
from sat.tracking.backends import tracker_kind
from sat.tracking.logger import RunLogger
from sat.training.feature_cache import frozen_part, with_features
from sat.training.initialization import initial_model, open_data
from sat.training.objectives.cross_entropy import learn
from sat.training.objectives.self_critical import learn_self_critical, reward_of
from sat.training.optim import (
    build_ema,
    build_optimizer,
    defer_keyboard_interrupt,
    set_learning_rates,
)
from sat.training.run_folder import (
    add_line,
    check_folder,
    initial_state,
    load_resume_state,
    prepare_run_folder,
    resume_fingerprint,
)
from sat.training.stage import batches_for
from sat.training.state import random_state, set_random_state
from sat.training.validation import validate

logger = logging.getLogger(__name__)

Bar = Callable[..., Any]
quiet: Bar = partial(tqdm, disable=True)


def fit(config: TrainConfig, bar: Bar = quiet) -> Path:
    """Train as the config says and return the folder of the best checkpoint.

    `bar` makes progress bars (`tqdm`); by default none are shown. Raises `FloatingPointError` when
    the loss is no longer a number, and `ValueError` or `OSError` for what cannot work.
    """
    trainer = Trainer(config, bar)
    trainer.run()
    return trainer.folder / "best"


class Trainer:
    """One run: its model, its data and where it stands."""

    def __init__(self, config: TrainConfig, bar: Bar = quiet) -> None:
        self.config, self.bar = config, bar
        self.device = resolve_device(config.device)
        self.scaler = grad_scaler(config, self.device)
        check_folder(config)
        tracker_kind(config.log)  # complains before anything is done
        torch.manual_seed(config.seed)
        self.train, self.val, self.vocabulary = open_data(config)
        self.model, self.model_config = initial_model(config, self.train, self.vocabulary)
        self.preprocessing = self.model_config.preprocessing
        check_preprocessing(self.preprocessing, self.val)
        self.model.to(self.device)
        self.folder = prepare_run_folder(config)
        self.position = initial_state(config, self.folder)

    def run(self) -> None:
        """All stages, from where the run stands."""
        saved = load_resume_state(self.config)
        if saved is not None:
            self.position = saved["state"]
        steps = self.position.global_step
        with RunLogger(self.config, self.folder, self.val, self.vocabulary, steps) as self.journal:
            self._run_stages(saved)

    def _run_stages(self, saved: dict[str, Any] | None) -> None:
        stages = self.config.stages
        for index in range(self.position.stage, len(stages)):
            if index != self.position.stage:
                self._enter(index)
            number = stages[index]
            stage = getattr(self.config, f"stage{number}")
            self._prepare(number, stage)
            if saved is not None:
                self.optimizer.load_state_dict(saved["optimizer"])
                set_learning_rates(self.optimizer, stage, self.position.lr_scale)
                if saved.get("scaler"):  # empty unless the run was in float16
                    self.scaler.load_state_dict(saved["scaler"])
                set_random_state(saved["random"], self.device)
                if self.average is not None:
                    self.average.load_state_dict(saved["average"])
                saved = None
            elif index:
                self._save("last")  # from here best/ may be of this stage, and no way back
            self._run_stage(number, stage)

    def _run_stage(self, number: int, stage: StageConfig) -> None:
        while not self.position.is_over(stage):
            try:
                self._train_epoch(number)
                self._finish_epoch(number, stage)
            except KeyboardInterrupt:
                self._save("last")
                logger.info("stopped in %s: go on with --resume", self.folder / "last")
                raise
            except FloatingPointError as error:
                saved = native.exists(self.folder / "last")
                kept = f"the last good state is in {self.folder}" if saved else "nothing was saved"
                raise FloatingPointError(
                    f"{error} in stage {number}, epoch {self.position.epoch + 1}, "
                    f"batch {self.position.batch + 1}: lower the learning rate; {kept}"
                ) from error
            self._save("last")
        place = self.position
        why = (
            "all epochs done"
            if place.epoch >= stage.epochs
            else f"{place.epochs_without_improvement} without better"
        )
        logger.info("stage %d ended (%s), best validation BLEU-4 %.4f", number, why, place.best)

    def _train_epoch(self, number: int) -> None:
        """One pass over the captions, from the batch where the run stands."""
        place, saved_at = self.position, time.monotonic()
        self.batches.epoch, self.batches.start = place.epoch, place.batch
        self.model.train()
        bar = self.bar(self.loader, desc=f"stage {number}, epoch {place.epoch + 1}", unit="batch")
        began = time.monotonic()
        for batch in bar:
            arrived = time.monotonic()
            with defer_keyboard_interrupt():
                losses = self.learn(batch)
                if self.average is not None:
                    self.average.update_parameters(self.model)
                now = time.monotonic()
                times = {"seconds": now - began, "waiting": arrived - began}
                place.count(losses, **times, captions=len(batch.lengths))
                told = losses | {"learning_rate": self.optimizer.param_groups[0]["lr"]}
                self.journal.after_step(place.global_step, self.model, told)
            bar.set_postfix(place.means(digits=3), refresh=False)
            if now - saved_at > 60 * self.config.save_minutes:
                self._save("last")
                saved_at = time.monotonic()
            began = time.monotonic()

    def _finish_epoch(self, number: int, stage: StageConfig) -> None:
        """Validate, keep the best, lower the learning rates, write the log line."""
        place, said = self.position, []
        scores = validate(
            self._kept(),
            self.val_source,
            self.vocabulary,
            self.preprocessing,
            self.config,
            partial(self.bar, desc="captioning val", unit="batch", leave=False),
            said.extend,
        )
        line = {
            "stage": number,
            "epoch": place.epoch + 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **place.means(),
            **scores,
        }
        after = place.after_epoch(scores["Bleu_4"], stage)
        if after.epochs_without_improvement == 0:
            self._save("best", scores)
        add_line(self.folder, line | {"best": after.best})
        self.journal.after_epoch(place.global_step, line, said)
        self.position = after  # all at once: whoever stops the run before this repeats the above
        set_learning_rates(self.optimizer, stage, self.position.lr_scale)
        logger.info(
            f"stage {number}, epoch {after.epoch}: validation BLEU-4 {scores['Bleu_4']:.4f}, "
            f"best {after.best:.4f}"
        )

    def _enter(self, index: int) -> None:
        """Stand at the beginning of a later stage, with the best weights so far."""
        self.position = self.position.at_stage(index)
        if native.exists(self.folder / "best"):
            native.load_weights(self.model, self.folder / "best")

    def _prepare(self, number: int, stage: StageConfig) -> None:
        """What the stage learns, with which optimizer, from which batches."""
        config = self.config
        self.optimizer = build_optimizer(self.model, stage, embeddings=config.fine_tune_embeddings)
        set_learning_rates(self.optimizer, stage, self.position.lr_scale)
        self.average = build_ema(self.model, stage)
        cached = config.cache_features and frozen_part(self.model) is not None
        self.train_source, self.val_source = self.train, self.val
        if cached:
            encoded = partial(with_features, self.model, self.preprocessing, bar=self.bar)
            self.train_source = encoded(self.train, mirror=config.mirror)
            self.val_source = encoded(self.val, mirror=False)
        self.learn = self._objective(stage)
        self.batches = batches_for(config, number, self.train)
        self.loader = training_loader(
            self.train_source,
            self.batches,
            workers=0 if cached else config.workers,
            pin=self.device.type == "cuda",
        )

    def _objective(self, stage: StageConfig) -> Callable[[Batch], dict[str, float]]:
        """One step of the optimizer on a batch."""
        shared = {"preprocessing": self.preprocessing, "config": self.config}
        shared |= {"accumulate": stage.accumulate, "scaler": self.scaler}
        if stage.objective == "likelihood":
            share = stage.scheduled_sampling.teacher_forcing_ratio
            plain = partial(learn, self.model, self.optimizer, **shared)
            return lambda batch: plain(batch, teacher_forcing_ratio=share(self.position.steps))
        shared |= {"samples": stage.samples, "baseline": stage.baseline}
        shared |= {"reward": reward_of(self.train)}
        return partial(learn_self_critical, self.model, self.optimizer, **shared)

    def _kept(self) -> ShowAttendTell:
        """The model that is validated and kept: the weights' average, where one is taken."""
        return self.model if self.average is None else self.average.module

    def _save(self, name: str, scores: dict[str, float] | None = None) -> None:
        trainer = None
        if name == "last":
            trainer = {
                "position": dataclasses.asdict(self.position),
                "identity": resume_fingerprint(self.config, self.position.stage + 1),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": random_state(self.device),
                "average": None if self.average is None else self.average.state_dict(),
            }
        native.save(
            self.folder / name,
            self.model if name == "last" else self._kept(),
            self.vocabulary,
            self.model_config,
            scores=scores,
            trainer=trainer,
        )
