"""Training in stages: the decoder on a frozen encoder, then both, stopping early on BLEU-4.

A run writes three things to its folder: best/ (the checkpoint that captioned the validation images
best), last/ (the newest, from which a killed run goes on exactly) and log.jsonl, one line an epoch.
Where TensorBoard is installed, events/ is for it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from sat.checkpoints import native
from sat.config.training import TrainConfig
from sat.data.progress import Bar, quiet
from sat.device import grad_scaler, resolve_device, resolve_precision
from sat.distributed import barrier, on_rank_zero, process_group, raise_stop, rank
from sat.evaluation import check_preprocessing
from sat.folder_lock import lock_folder
from sat.stop_signals import defer_stop
from sat.tracking.backends import tracker_kind
from sat.tracking.logger import RunLogger
from sat.training.initialization import initial_captioner, open_data
from sat.training.optim import set_learning_rates
from sat.training.run_folder import (
    add_line,
    check_folder,
    initial_state,
    load_resume_state,
    remove_earlier_run,
    resume_fingerprint,
    resume_where_possible,
)
from sat.training.stage import Stage, build_stage, store_best_decoding, training_step
from sat.training.state import fits_run, random_state, set_random_state
from sat.training.step_metrics import UnreadSteps
from sat.training.validation import attention_figures, validate

logger = logging.getLogger(__name__)

READ_EVERY = 100
"""steps at most: where metrics are read, a run is saved, or found to be no longer finite"""


def fit(config: TrainConfig, bar: Bar = quiet) -> Path:
    """Train as the config says and return the folder of the best checkpoint.

    `bar` makes progress bars (`progress_bar`); by default none are shown. Raises
    `FloatingPointError` when the loss is no longer finite, and `ValueError` or `OSError` for a run
    that cannot work.
    """
    with process_group(config.ddp_timeout):
        trainer = Trainer(config, bar)
        trainer.run()
    return trainer.folder / "best"


class Trainer:
    """One run: its captioner, its data and its state."""

    def __init__(self, config: TrainConfig, bar: Bar = quiet) -> None:
        config = on_rank_zero(lambda: resume_where_possible(config))
        self.bar = bar
        self.device = resolve_device(config.device)
        precision: Any = on_rank_zero(lambda: resolve_precision(config.precision, self.device))
        if config.precision != precision:
            logger.info("precision %s: %s", config.precision, precision)
        resolve_precision(precision, self.device)  # on every rank: tf32 is set for its process
        self.config = config = dataclasses.replace(config, precision=precision)
        self.scaler = grad_scaler(config.precision, self.device)
        on_rank_zero(lambda: check_folder(config))
        tracker_kind(config.tracker)  # raises before anything is done
        torch.manual_seed(config.seed)
        self.train, self.val, vocabulary = open_data(config)
        self.captioner = initial_captioner(config, self.train, self.val, vocabulary)
        own = self.captioner.config  # checkpoints are decoded, by default, as validation decodes
        decoding = config.validation.with_rules_of(own.decoding)
        self.config = config = dataclasses.replace(config, validation=decoding)
        self.captioner.config = dataclasses.replace(own, decoding=decoding)
        check_preprocessing(self.captioner.preprocessing, self.val)
        self.captioner.to(self.device)
        if config.compile:
            self.captioner.model.compile_training()
        self.folder = Path(config.output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = initial_state(config, self.folder)
        self.reads_each_step, self.within_step = self.device.type == "cpu", False
        self.unread = UnreadSteps(self.scaler)

    def run(self) -> None:
        """Run all stages, from the state of the run on; nobody else may write to its folder."""
        with ExitStack() as stack:
            on_rank_zero(lambda: stack.enter_context(lock_folder(self.folder)))
            self._run()

    def _run(self) -> None:
        resume = load_resume_state(self.config)
        if resume is not None:
            self.state = resume["state"]
            # again, under the lock: until then another process may have written to the folder
            native.load_weights(self.captioner.model, self.folder / "last")
        stage = self._build_stage(self.config.stages[self.state.stage])
        if resume is not None:
            self._restore(stage, resume)
        else:
            self._save("last", stage)  # from here on there is a run to resume
            remove_earlier_run(self.config)
        step, vocabulary = self.state.global_step, self.captioner.vocabulary
        with RunLogger(self.config, self.folder, self.val, vocabulary, step) as run_logger:
            self._run_stage(stage, run_logger)
            for index in range(self.state.stage + 1, len(self.config.stages)):
                self._enter(index)
                stage = self._build_stage(self.config.stages[index])
                self._save("last", stage)  # best/ may be of this stage from here on
                self._run_stage(stage, run_logger)
        chooses = self.config.choose_decoding and not self.config.validation.samples
        if chooses and native.exists(self.folder / "best"):
            store_best_decoding(self.folder / "best", stage, self.config, self.bar)

    def _enter(self, index: int) -> None:
        """Set the state to the beginning of a later stage, and the weights to the best so far."""
        self.state = self.state.at_stage(index)
        if native.exists(self.folder / "best"):
            native.load_weights(self.captioner.model, self.folder / "best")

    def _build_stage(self, number: int) -> Stage:
        data = (self.captioner, self.train, self.val)
        return build_stage(self.config, number, *data, self.state, bar=self.bar)

    def _restore(self, stage: Stage, resume: dict[str, Any]) -> None:
        """Set optimizer, moving average, scaler and random state to the saved ones."""
        with fits_run(self.folder / "last"):
            stage.load_state_dict(resume, self.state.lr_scale)
            if resume.get("scaler"):  # empty unless the run was in float16
                self.scaler.load_state_dict(resume["scaler"])
            set_random_state(resume["random"], self.device)

    def _run_stage(self, stage: Stage, run_logger: RunLogger) -> None:
        while not self.state.is_over(stage.config):
            try:
                self._train_and_finish(stage, run_logger)
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"{error} in stage {stage.number}, epoch {self.state.epoch + 1}, "
                    f"batch {self.state.batch + 1}: lower the learning rate; "
                    f"the last good state is in {self.folder}"
                ) from error
            self._save("last", stage)
            barrier()  # rank zero has saved: the others may read
        why, best = self.state.why_over(stage.config), self.state.best
        logger.info("stage %d ended (%s), best validation BLEU-4 %.4f", stage.number, why, best)

    def _train_and_finish(self, stage: Stage, run_logger: RunLogger) -> None:
        """Make one epoch; when it is stopped, save where it was."""
        try:
            self._train_epoch(stage, run_logger)
            self._finish_epoch(stage, run_logger)
        except KeyboardInterrupt:
            if not self.within_step:  # a second signal breaks a step off: last/ stays as it was
                self.unread.count(self.state)
                self._save("last", stage)
                barrier()
                logger.info("stopped in %s: go on with --resume", self.folder / "last")
            raise

    def _train_epoch(self, stage: Stage, run_logger: RunLogger) -> None:
        """Make one pass over the captions, from the batch that the state says."""
        state, saved_at = self.state, time.monotonic()
        stage.sampler.epoch, stage.sampler.start = state.epoch, state.batch
        model = cast(torch.nn.Module, self.captioner.model.train())
        title = f"stage {stage.number}, epoch {state.epoch + 1}"
        bar = self.bar(stage.loader, desc=title, unit="batch")
        ended = began = time.monotonic()
        for batch in stage.sampler.with_step_sizes(bar):
            arrived = time.monotonic()
            with defer_stop():
                self.within_step = True
                number = state.steps + len(self.unread)
                metrics = training_step(stage, batch, number, self.config, self.scaler)
                if stage.ema is not None:
                    stage.ema.update_parameters(model)
                before, ended = ended, time.monotonic()
                times = {"seconds": ended - before, "waiting": arrived - began}
                self.unread.add(metrics, **times, captions=batch.step_size.captions)
                self.within_step = False
                step = state.global_step + len(self.unread)
                reads = self.reads_each_step or run_logger.is_due(step) or step % READ_EVERY == 0
                if reads:
                    rate = {"learning_rate": stage.optimizer.param_groups[0]["lr"]}
                    run_logger.after_step(step, model, self.unread.count(state) | rate)
                else:
                    barrier()  # in which ranks agree on stopping
            raise_stop()
            if reads:
                bar.set_postfix(state.means(digits=3), refresh=False)
                if ended - saved_at > 60 * self.config.save_minutes:
                    self._save("last", stage)
                    saved_at = time.monotonic()
            began = time.monotonic()
        with defer_stop():
            self.unread.count(state)

    def _finish_epoch(self, stage: Stage, run_logger: RunLogger) -> None:
        """Validate, keep the best, lower the learning rates, write the log line."""
        state = self.state
        results: list[dict[str, Any]] = []
        progress = partial(self.bar, desc="captioning val", unit="batch", leave=False)
        captioner = stage.averaged(self.captioner)
        scores = validate(captioner, stage.val, self.config, progress, results.extend)
        line = {
            "stage": stage.number,
            "epoch": state.epoch + 1,
            "learning_rate": stage.optimizer.param_groups[0]["lr"],
            **state.means(),
            **scores,
        }
        after = state.after_epoch(scores["Bleu_4"], scores["val_cross_entropy"], stage.config)
        if after.epochs_without_improvement == 0:
            self._save("best", stage, scores)
        add_line(self.folder, line | {"best": after.best})
        draw = partial(attention_figures, captioner, self.val, self.config.validation)
        run_logger.after_epoch(state.global_step, line, results, draw)
        self.state = after  # at once: a run that is stopped before this repeats all the above
        set_learning_rates(stage.optimizer, stage.config, after.lr_scale)
        now = (stage.number, after.epoch, scores["Bleu_4"], after.best)
        logger.info("stage %d, epoch %d: validation BLEU-4 %.4f, best %.4f", *now)

    def _save(self, name: str, stage: Stage, scores: dict[str, float] | None = None) -> None:
        if rank() > 0:
            return
        trainer = None
        if name == "last":
            trainer = {
                "position": dataclasses.asdict(self.state),
                "identity": resume_fingerprint(self.config, self.state.stage + 1),
                "scaler": self.scaler.state_dict(),
                "random": random_state(self.device),
                **stage.state_dict(),
            }
        captioner = self.captioner if name == "last" else stage.averaged(self.captioner)
        parts = (captioner.model, captioner.vocabulary, captioner.config)
        native.save(self.folder / name, *parts, scores=scores, trainer=trainer)
