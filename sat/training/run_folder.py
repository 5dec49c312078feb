"""The folder of a run: claim it, log to it, resume from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sat.checkpoints import native
from sat.config.training import TrainConfig
from sat.tracking.backends import EVENTS, RUNS
from sat.training.state import TrainerState

if TYPE_CHECKING:
    pass


LOG = "log.jsonl"


def check_folder(config: TrainConfig) -> None:
    """`FileExistsError` rather than two runs mixed in one folder.

    A run of a later stage alone goes on in the folder of its first.
    """
    folder = Path(config.output_dir)
    if config.resume or config.overwrite or config.stages[0] > 1:
        return
    if (folder / LOG).exists() or native.exists(folder / "last"):
        raise FileExistsError(
            f"{folder} holds a run already: pass --resume to go on with it, --overwrite to replace "
            "it, or another --output_dir"
        )


def resume_fingerprint(config: TrainConfig, begun: int) -> dict[str, Any]:
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


def load_resume_state(config: TrainConfig) -> dict[str, Any] | None:
    """What a run that is to be resumed had saved; its log then ends there too.

    Raises `ValueError` when the run so far is not what the config says. Stages that were still to
    come may have changed.
    """
    if not config.resume:
        return None
    folder = Path(config.output_dir)
    saved = native.load_trainer(folder / "last")
    saved["state"] = TrainerState.from_dict(saved["position"])
    now = resume_fingerprint(config, saved["state"].stage + 1)
    for name, value in saved["identity"].items():
        if now.get(name, value) != value:  # earlier versions knew other names
            raise ValueError(
                f"{name} is {now[name]}, but the run in {config.output_dir} has {value}: "
                "resume it as it was, or start another one"
            )
    _cut_log(folder, saved["state"].log_lines)
    return saved


def initial_state(config: TrainConfig, folder: Path) -> TrainerState:
    """Where a run begins; that of a later stage alone goes on with the numbers of its first."""
    position = TrainerState(log_lines=len(log_lines(folder)))
    if config.stages[0] > 1 and native.exists(folder / "best"):
        position.best = native.scores(folder / "best").get("Bleu_4", -1.0)
    if config.stages[0] > 1 and native.exists(folder / "last"):
        before = native.load_trainer(folder / "last")["position"]
        position.global_step = TrainerState.from_dict(before).global_step
    return position


def prepare_run_folder(config: TrainConfig) -> Path:
    """The run's folder; with `overwrite` an earlier run is removed from it.

    To be called when nothing can be wrong with the run any more.
    """
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if config.overwrite and not config.resume and config.stages[0] == 1:
        native.remove(folder / "best")
        native.remove(folder / "last")
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
