"""The folder of a run: claim it, log to it, resume from it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from sat.atomic_io import atomic_write_text, naming_full_disk
from sat.captioner import Captioner
from sat.checkpoints import native
from sat.config.checks import check, flatten, nearest
from sat.config.training import TrainConfig
from sat.data.dataset import find_data_name
from sat.data.manifest import data_fingerprint
from sat.distributed import rank
from sat.tracking.backends import EVENTS, RUNS
from sat.training.state import TrainerState, fits_run

LOG = "log.jsonl"
EPOCH_SCORE = "epoch_Bleu_4"
"""of best/, decoded as validation decodes, where another decoding has been chosen for it since"""
MAY_CHANGE = {
    *("data_folder", "data_name", "output_dir", "cache_dir", "push_to_hub", "workers", "device"),
    *("epochs", "stop_patience", "accumulate", "validation_batch_size", "choose_decoding"),
    *("ddp_timeout", "save_minutes", "tracker", "log_every", "compile"),
    *("resume", "resume_changed", "overwrite"),
}
"""settings that may be others when a run is resumed"""
OF_THE_MODEL = ("family", "encoder", "decoder", "hf", "embeddings", "init")
"""settings that last/ brings, and no resuming changes"""
FIXED = ("stages", "optimizer", "fingerprint of the data")
"""others that no resuming changes: of another optimizer there is no state"""


def resume_where_possible(config: TrainConfig) -> TrainConfig:
    """The config with `resume` "auto" decided: go on if the folder holds these stages' run.

    A run saves last/ before its first step, so a stop at any moment leaves a run to go on with, or
    none. A later stage alone begins where the folder holds the run of earlier stages.
    """
    if config.resume != "auto":
        return config
    last = Path(config.output_dir) / "last"
    goes_on = native.exists(last)
    if goes_on and config.stages[0] > 1:
        with fits_run(last):
            begun = native.load_trainer(last)["identity"]["stages"]
        goes_on = begun == list(config.stages[: len(begun)])
    return dataclasses.replace(config, resume=goes_on)


def check_folder(config: TrainConfig) -> None:
    """Raise `FileExistsError` where the folder holds a run already.

    A run of a later stage alone goes on in the folder of its first. Raises `ValueError` for a run
    that would end without a best/.
    """
    folder = Path(config.output_dir)
    goes_on = config.resume or config.stages[0] > 1
    keeps = goes_on and native.exists(folder / "best")
    epochs = max(config.stage(number).epochs for number in config.stages)
    check(epochs > 0 or keeps, "epochs", epochs, "give one of the stages at least 1")
    if goes_on or config.overwrite:
        return
    if (folder / LOG).exists() or native.exists(folder / "last"):
        raise FileExistsError(
            f"{folder} holds a run already: pass --resume to go on with it, --overwrite to replace "
            "it, or another --output_dir"
        )


def resume_fingerprint(config: TrainConfig, begun: int) -> dict[str, Any]:
    """The settings that may not change when a run is resumed, with its first `begun` stages.

    They are all but `MAY_CHANGE` and those of the stages before the last of these, or after it.
    """
    stages = config.stages[:begun]
    others = {"stage1", "stage2", "stage3"} - {f"stage{stages[-1]}"}
    settings = {
        name: value
        for name, value in flatten(config).items()
        if name.partition(".")[0] not in others and name.rpartition(".")[2] not in MAY_CHANGE
    }
    name = config.data_name or find_data_name(config.data_folder)
    return settings | {
        "stages": list(stages),
        "fingerprint of the data": data_fingerprint(config.data_folder, name),
    }


def _check_settings(config: TrainConfig, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `ValueError` for a setting that is another than before and not in `resume_changed`."""
    for name in config.resume_changed:
        remedy = f"this run has no such setting that may not change, try {nearest(name, now)}"
        check(name in now, "resume_changed", name, remedy)
    for name, value in before.items():
        if (value is None and name == "fingerprint of the data") or now.get(name, value) == value:
            continue  # earlier versions knew other names, and no manifests
        fixed = name.rpartition(".")[2] in FIXED or name.partition(".")[0] in OF_THE_MODEL
        if fixed or name not in config.resume_changed:
            ways = "start another one"
            if not fixed:
                ways += f", or name it if you mean it (--resume_changed {name})"
            raise ValueError(
                f"{name} is {now[name]}, but the run in {config.output_dir} has {value}: "
                f"resume it as it was, or {ways}"
            )


def load_resume_state(config: TrainConfig) -> dict[str, Any] | None:
    """The saved state of the run to resume, with its log cut to that state; None for a new run.

    Raises `ValueError` when the run so far does not match the config, see `resume_fingerprint`.
    """
    if not config.resume:
        return None
    folder = Path(config.output_dir)
    saved = native.load_trainer(folder / "last")
    with fits_run(folder / "last"):
        saved["state"] = TrainerState.from_dict(saved["position"])
        identity = dict(saved["identity"])
    _check_settings(config, identity, resume_fingerprint(config, saved["state"].stage + 1))
    if rank() == 0:
        _cut_log(folder, saved["state"].log_lines)
    return saved


def initial_state(config: TrainConfig, folder: Path) -> TrainerState:
    """The state of a new run; a run of a later stage alone continues the counts of its first."""
    replaced = config.overwrite and config.stages[0] == 1
    state = TrainerState(log_lines=0 if replaced else len(log_lines(folder)))
    if config.stages[0] > 1 and native.exists(folder / "best"):
        scores = native.scores(folder / "best")
        state.best = scores.get(EPOCH_SCORE, scores.get("Bleu_4", state.best))
        state.best_cross_entropy = scores.get("val_cross_entropy", state.best_cross_entropy)
    if config.stages[0] > 1 and native.exists(folder / "last"):
        before = native.load_trainer(folder / "last")["position"]
        state.global_step = TrainerState.from_dict(before).global_step
    return state


def remove_earlier_run(config: TrainConfig) -> None:
    """With `overwrite`, remove an earlier run's best/, log and curves; last/ is the new run's."""
    folder = Path(config.output_dir)
    if rank() == 0 and config.overwrite and not config.resume and config.stages[0] == 1:
        native.remove(folder / "best")
        (folder / LOG).unlink(missing_ok=True)
        for name in (EVENTS, RUNS):
            shutil.rmtree(folder / name, ignore_errors=True)


def log_lines(folder: Path) -> list[str]:
    """The lines of the folder's log."""
    path = folder / LOG
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def add_line(folder: Path, line: dict[str, Any]) -> None:
    """Add the line of an epoch to the log."""
    if rank() > 0:
        return
    with naming_full_disk(folder / LOG), open(folder / LOG, "a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def store_decoding(folder: Path, best: Captioner, scores: dict[str, float]) -> None:
    """Write a checkpoint again for its captioner's decoding and the scores that this reaches."""
    before = native.scores(folder)
    scores = before | scores | {EPOCH_SCORE: before.get(EPOCH_SCORE, before["Bleu_4"])}
    if rank() == 0:
        native.save(folder, best.model, best.vocabulary, best.config, scores=scores)


def _cut_log(folder: Path, lines: int) -> None:
    """Drop the lines of epochs that were logged but not saved when the run was killed."""
    written = log_lines(folder)
    if len(written) > lines:
        atomic_write_text(folder / LOG, "".join(written[:lines]))
