"""Training in stages: the decoder on a frozen encoder, then both, stopping early on BLEU-4.

What a run leaves in its folder: best/ (the checkpoint that captioned the validation images best),
last/ (the newest, from which a killed run goes on exactly) and log.jsonl, one line an epoch.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sat import checkpoint
from sat.build import build, preprocessing_for
from sat.config import ModelConfig, StageConfig, TrainConfig
from sat.data.dataset import CaptionBatches, CaptionDataset, find_data_name, training_loader
from sat.data.embeddings import load_embeddings
from sat.data.features import cache_features, fingerprint
from sat.data.images import normalise
from sat.data.vocabulary import Vocabulary
from sat.epoch import learn, validate
from sat.evaluate import check_fit, device_of
from sat.models.show_attend_tell import ShowAttendTell

logger = logging.getLogger(__name__)

Bar = Callable[..., Any]
quiet: Bar = partial(tqdm, disable=True)
TOTALS = ("cross_entropy", "penalty", "seconds", "waiting", "captions", "batches")


@dataclasses.dataclass
class Position:
    """Where a run stands; with weights, optimizer and random state, all that resuming needs."""

    stage: int = 0  # index into the stages to run
    epoch: int = 0  # of the stage, from 0
    batch: int = 0  # batches of the epoch already learnt from
    best: float = -1.0  # validation BLEU-4 of best/
    stale: int = 0  # epochs without a better one
    scale: float = 1.0  # of the stage's learning rates
    totals: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(TOTALS, 0.0))


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
        self.folder = Path(config.output_dir)
        self.position = Position()
        self.device = device_of(config.device)
        self._check_folder()
        torch.manual_seed(config.seed)
        name = config.data_name or find_data_name(config.data_folder)
        self.train = CaptionDataset(config.data_folder, name, "TRAIN")
        self.val = CaptionDataset(config.data_folder, name, "VAL")
        self.vocabulary = Vocabulary.load(Path(config.data_folder) / f"WORDMAP_{name}.json")
        self.model, self.model_config = self._model()
        self.model.to(self.device)

    def run(self) -> None:
        """All stages, from where the run stands."""
        stages = self.config.stages
        saved = checkpoint.load_trainer(self.folder / "last") if self.config.resume else None
        if saved is not None:
            self.position = Position(**saved["position"])
        for index in range(self.position.stage, len(stages)):
            if index != self.position.stage:
                self._enter(index)
            number = stages[index]
            stage = self.config.stage1 if number == 1 else self.config.stage2
            self._prepare(number, stage)
            if saved is not None:
                self.optimizer.load_state_dict(saved["optimizer"])
                torch.set_rng_state(saved["random"])
                saved = None
            self._run_stage(number, stage)

    def _run_stage(self, number: int, stage: StageConfig) -> None:
        place = self.position
        while place.epoch < stage.epochs and place.stale < stage.stop_patience:
            try:
                self._train_epoch(number)
                self._finish_epoch(number, stage)
            except KeyboardInterrupt:
                self._save("last")
                logger.info("stopped in %s: go on with --resume true", self.folder / "last")
                raise
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"{error} in stage {number}, epoch {place.epoch + 1}, batch {place.batch + 1}: "
                    f"lower the learning rate; the last good state is in {self.folder}"
                ) from error
            self._save("last")
        why = "all epochs done" if place.epoch >= stage.epochs else f"{place.stale} without better"
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
            losses = learn(
                self.model, self.optimizer, batch, self.model_config.preprocessing, self.config
            )
            place.batch += 1
            now = time.monotonic()
            times = {"seconds": now - began, "waiting": arrived - began}
            for key, value in (
                losses | times | {"captions": len(batch.lengths), "batches": 1}
            ).items():
                place.totals[key] += value
            bar.set_postfix(_means(place.totals, digits=3), refresh=False)
            if now - saved_at > 60 * self.config.save_minutes:
                self._save("last")
                saved_at = time.monotonic()
            began = time.monotonic()

    def _finish_epoch(self, number: int, stage: StageConfig) -> None:
        """Validate, keep the best, lower the learning rates, write the log line."""
        place = self.position
        scores = validate(
            self.model,
            self.val_source,
            self.vocabulary,
            self.model_config.preprocessing,
            self.config,
            partial(self.bar, desc="captioning val", unit="batch", leave=False),
        )
        line = {
            "stage": number,
            "epoch": place.epoch + 1,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **_means(place.totals),
            **scores,
        }
        better = scores["Bleu_4"] > place.best
        place.best, place.stale = (
            max(place.best, scores["Bleu_4"]),
            0 if better else place.stale + 1,
        )
        if better:
            self._save("best", scores)
        elif place.stale % stage.decay_patience == 0:
            place.scale *= stage.decay
            self._set_rates(stage)
        place.epoch, place.batch, place.totals = place.epoch + 1, 0, dict.fromkeys(TOTALS, 0.0)
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps(line | {"best": place.best}) + "\n")
        logger.info(
            f"stage {number}, epoch {place.epoch}: cross-entropy {line['cross_entropy']:.3f}, "
            f"validation BLEU-4 {scores['Bleu_4']:.4f}, best {place.best:.4f}"
        )

    def _enter(self, index: int) -> None:
        """Stand at the beginning of a later stage, with the best weights so far."""
        self.position = Position(stage=index, best=self.position.best)
        if checkpoint.exists(self.folder / "best"):
            checkpoint.load_weights(self.model, self.folder / "best" / checkpoint.WEIGHTS)

    def _prepare(self, number: int, stage: StageConfig) -> None:
        """What the stage learns, with which optimizer, from which batches."""
        config, model = self.config, self.model
        model.encoder.fine_tune(stage.fine_tunes, stage.encoder_from_block)
        model.decoder.fine_tune_embeddings(config.fine_tune_embeddings)
        groups = [{"params": [w for w in model.decoder.parameters() if w.requires_grad]}]
        if stage.fine_tunes:
            groups.append({"params": [w for w in model.encoder.parameters() if w.requires_grad]})
        self.optimizer = torch.optim.Adam(groups, fused=self.device.type in ("cpu", "cuda"))
        self._set_rates(stage)
        self.train_source, self.val_source = self.train, self.val
        if config.cache_features and not stage.fine_tunes:
            self.train_source = self._cached(self.train, mirror=config.mirror)
            self.val_source = self._cached(self.val, mirror=False)
        self.batches = CaptionBatches(
            self.train.lengths,
            stage.batch_size,
            by_length=config.by_length,
            mirror=config.mirror,
            seed=config.seed * 10 + number,
        )
        cached = self.train_source is not self.train
        self.loader = training_loader(
            self.train_source,
            self.batches,
            workers=0 if cached else config.workers,
            pin=self.device.type == "cuda",
        )

    def _set_rates(self, stage: StageConfig) -> None:
        rates = (stage.learning_rate, stage.encoder_learning_rate)
        for group, rate in zip(self.optimizer.param_groups, rates):
            group["lr"] = rate * self.position.scale

    def _cached(self, dataset: CaptionDataset, *, mirror: bool) -> CaptionDataset:
        """The data set with features in place of pictures."""
        preprocessing, encoder = self.model_config.preprocessing, self.model.encoder
        encoder.eval()

        def encode(images: Tensor) -> Tensor:
            return self.model.encode(normalise(images.to(self.device), preprocessing))

        path = cache_features(
            encode,
            dataset,
            fingerprint(encoder, preprocessing, 1 + mirror),
            mirror=mirror,
            progress=partial(self.bar, desc=f"encoding {dataset.split.lower()}", unit="batch"),
        )
        return CaptionDataset(dataset.folder, dataset.name, dataset.split, features=path)

    def _save(self, name: str, scores: dict[str, float] | None = None) -> None:
        trainer = None
        if name == "last":
            trainer = {
                "position": dataclasses.asdict(self.position),
                "optimizer": self.optimizer.state_dict(),
                "random": torch.get_rng_state(),
            }
        checkpoint.save(
            self.folder / name,
            self.model,
            self.vocabulary,
            self.model_config,
            scores=scores,
            trainer=trainer,
        )

    def _model(self) -> tuple[ShowAttendTell, ModelConfig]:
        """The model to go on with, to start from, or a fresh one."""
        config = self.config
        start = str(self.folder / "last") if config.resume else config.init
        if start is None and config.stages[0] == 2:
            start = str(self.folder / "best")
        if start is not None:
            model, vocabulary, model_config = checkpoint.load(start)
            if vocabulary != self.vocabulary:
                raise ValueError(
                    f"{start} was trained with another word map ({len(vocabulary)} words) than the "
                    f"data's ({len(self.vocabulary)} words): use the data it was trained on"
                )
            for dataset in (self.train, self.val):
                check_fit(model_config.preprocessing, dataset)
            return model, model_config
        return self._fresh_model()

    def _fresh_model(self) -> tuple[ShowAttendTell, ModelConfig]:
        config, decoder = self.config, self.config.decoder
        vectors = None
        if config.embeddings:
            vectors = load_embeddings(config.embeddings, self.vocabulary)
            decoder = dataclasses.replace(decoder, embed_dim=vectors.shape[1])
        model_config = ModelConfig(encoder=config.encoder, decoder=decoder)
        model = build(model_config, self.vocabulary)
        if vectors is not None:
            model.decoder.load_pretrained_embeddings(vectors)
        preprocessing = preprocessing_for(
            model.encoder, size=self.train.image_size, resize=self.train.resize
        )
        return model, dataclasses.replace(model_config, preprocessing=preprocessing)

    def _check_folder(self) -> None:
        """Refuse to mix two runs in one folder; with `overwrite`, clear the earlier one."""
        config, log = self.config, self.folder / "log.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        if config.resume or config.stages[0] == 2:
            return
        if config.overwrite:
            for name in ("best", "last"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            log.unlink(missing_ok=True)
        if log.exists() or checkpoint.exists(self.folder / "last"):
            raise FileExistsError(
                f"{self.folder} holds a run already: pass --resume true to go on with it, "
                "--overwrite true to replace it, or another --output_dir"
            )


def _means(totals: dict[str, float], digits: int | None = None) -> dict[str, float]:
    """What the bar and the log show of an epoch's running totals."""
    batches, seconds = max(totals["batches"], 1), max(totals["seconds"], 1e-9)
    means = {
        "cross_entropy": totals["cross_entropy"] / batches,
        "penalty": totals["penalty"] / batches,
        "captions_per_second": totals["captions"] / seconds,
        "waiting_share": totals["waiting"] / seconds,
    }
    return means if digits is None else {key: round(value, digits) for key, value in means.items()}
