"""How a run begins: its folder, its data, its first weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sat import checkpoint
from sat.boards import EVENTS, RUNS
from sat.config import Preprocessing
from sat.data.batches import CaptionBatches
from sat.data.dataset import CaptionDataset, find_data_name, read_vocabulary
from sat.data.features import cache_features, fingerprint
from sat.data.images import normalise
from sat.data.vocabulary import Vocabulary
from sat.models.show_attend_tell import ShowAttendTell
from sat.position import Position
from sat.recipe import TrainConfig

if TYPE_CHECKING:
    from sat.models.vit_gpt2 import VitGpt2

LOG = "log.jsonl"


def check_folder(config: TrainConfig) -> None:
    """`FileExistsError` rather than two runs mixed in one folder.

    A run of a later stage alone goes on in the folder of its first.
    """
    folder = Path(config.output_dir)
    if config.resume or config.overwrite or config.stages[0] > 1:
        return
    if (folder / LOG).exists() or checkpoint.exists(folder / "last"):
        raise FileExistsError(
            f"{folder} holds a run already: pass --resume to go on with it, --overwrite to replace "
            "it, or another --output_dir"
        )


def identity(config: TrainConfig, begun: int) -> dict[str, Any]:
    """What may not change when a run is resumed: its first `begun` stages, and their order."""
    stages = config.stages[:begun]
    stage = getattr(config, f"stage{stages[-1]}")
    return {
        "stages": list(stages),
        "ema": stage.ema > 0,
        "batch_size": stage.batch_size,
        "captions_per_sample": stage.captions_per_sample,
        "objective": stage.objective,
        "batches": config.batches,
        "optimizer": stage.optimizer,
        "fine_tune_embeddings": config.fine_tune_embeddings,
        "mirror": config.mirror,
        "captions": config.captions,
        "seed": config.seed,
    }


def saved_state(config: TrainConfig) -> dict[str, Any] | None:
    """What a run that is to be resumed had saved; its log then ends there too.

    Raises `ValueError` when the run so far is not what the config says. Stages that were still to
    come may have changed.
    """
    if not config.resume:
        return None
    folder = Path(config.output_dir)
    saved = checkpoint.load_trainer(folder / "last")
    now = identity(config, saved["position"]["stage"] + 1)
    for name, value in saved["identity"].items():
        if now.get(name, value) != value:  # earlier versions knew other names
            raise ValueError(
                f"{name} is {now[name]}, but the run in {config.output_dir} has {value}: "
                "resume it as it was, or start another one"
            )
    _cut_log(folder, saved["position"]["lines"])
    return saved


def first_position(config: TrainConfig, folder: Path) -> Position:
    """Where a run begins; that of a later stage alone goes on with the numbers of its first."""
    position = Position(lines=len(log_lines(folder)))
    if config.stages[0] > 1 and checkpoint.exists(folder / "best"):
        position.best = checkpoint.scores(folder / "best").get("Bleu_4", -1.0)
    if config.stages[0] > 1 and checkpoint.exists(folder / "last"):
        before = checkpoint.load_trainer(folder / "last")["position"]
        position.all_steps = before.get("all_steps", 0)
    return position


def claim_folder(config: TrainConfig) -> Path:
    """The run's folder; with `overwrite` an earlier run is removed from it.

    To be called when nothing can be wrong with the run any more.
    """
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if config.overwrite and not config.resume and config.stages[0] == 1:
        checkpoint.remove(folder / "best")
        checkpoint.remove(folder / "last")
        (folder / LOG).unlink(missing_ok=True)
        for name in (EVENTS, RUNS):
            shutil.rmtree(folder / name, ignore_errors=True)
    return folder


def log_lines(folder: Path) -> list[str]:
    """The lines of the folder's log."""
    path = folder / LOG
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def add_line(folder: Path, line: dict[str, Any]) -> None:
    """Log an epoch."""
    with open(folder / LOG, "a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def _cut_log(folder: Path, lines: int) -> None:
    """Drop the lines of epochs that were logged but not saved when the run was killed."""
    (folder / LOG).write_text("".join(log_lines(folder)[:lines]), encoding="utf-8")


def open_data(config: TrainConfig) -> tuple[CaptionDataset, CaptionDataset, Vocabulary]:
    """The training and validation splits, and their words."""
    folder = Path(config.data_folder)
    name = config.data_name or find_data_name(folder)
    train, val = (CaptionDataset(folder, name, split) for split in ("TRAIN", "VAL"))
    for number in config.stages:
        together = getattr(config, f"stage{number}").captions_per_sample
        if train.captions_per_image % together:
            raise ValueError(
                f"captions_per_sample is {together}: choose a divisor of "
                f"{train.captions_per_image}, the captions that each image has in {folder}"
            )
    return train, val, read_vocabulary(folder, name)


def batches_for(config: TrainConfig, number: int, train: CaptionDataset) -> CaptionBatches:
    """The order in which a stage learns from the captions."""
    stage = getattr(config, f"stage{number}")
    drawn = config.captions == "random"
    learns_words = stage.objective == "likelihood"
    return CaptionBatches(
        train.lengths,
        stage.batch_size,
        kind=config.batches if learns_words else "random",
        mirror=config.mirror,
        every=train.captions_per_image if drawn or not learns_words else 1,
        drawn=drawn and learns_words,
        together=stage.captions_per_sample,
        seed=config.seed * 10 + number,
    )


def frozen_part(
    model: ShowAttendTell | VitGpt2,
) -> tuple[nn.Module, Callable[[Tensor], Tensor]] | None:
    """What of the encoder does not learn, and what encodes pictures as far as that; None: nothing.

    All of it, or the blocks before the first that learns.
    """
    if not any(weight.requires_grad for weight in model.encoder.parameters()):
        return model.encoder, model.encode
    if isinstance(model, ShowAttendTell) and model.encoder.learns_from > 0:
        return model.encoder.body[: model.encoder.learns_from], model.encode_frozen
    return None


def with_features(
    model: ShowAttendTell,
    preprocessing: Preprocessing,
    dataset: CaptionDataset,
    *,
    mirror: bool,
    bar: Callable[..., Any],
) -> CaptionDataset:
    """The data set reading features in place of pictures, encoded now unless they are there.

    Where a part of the encoder learns, what the frozen blocks before it make of the pictures.
    """
    device = next(model.parameters()).device
    model.encoder.eval()
    frozen, encode_so_far = frozen_part(model)

    def encode(images: Tensor) -> Tensor:
        return encode_so_far(normalise(images.to(device), preprocessing))

    key = fingerprint(frozen, preprocessing, 1 + mirror)
    progress = partial(bar, desc=f"encoding {dataset.split.lower()}", unit="batch")
    path = cache_features(encode, dataset, key, mirror=mirror, progress=progress)
    return dataset.reading(path)
