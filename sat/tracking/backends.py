"""Trackers of a run: TensorBoard and Weights & Biases, both of extra `[log]`.

Neither package is imported before a run asks for it.
"""

from __future__ import annotations

import html
import importlib.util
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from sat.config.checks import to_dict
from sat.config.training import TrainConfig
from sat.tracking.sample_grid import Sample, sample_grid

EVENTS, RUNS = "events", "wandb"
"""folders inside a run's folder: TensorBoard's files, and those of Weights & Biases"""
BINS = 64
"""of every histogram"""


class Tracker(Protocol):
    """Shows scalars, histograms and sample captions of a run."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def histograms(self, step: int, values: dict[str, Tensor]) -> None: ...
    def samples(self, step: int, samples: list[Sample]) -> None: ...
    def figures(self, step: int, figures: list[np.ndarray]) -> None: ...
    def close(self, failed: bool) -> None: ...


class TensorBoardTracker:
    """Event files under the run's folder: tensorboard --logdir runs

    A quantity of training and validation has one chart: "val_" is left out of its name, and the
    values of validation come from files of their own, in a folder within.
    """

    def __init__(self, config: TrainConfig, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _await_new_second(folder / EVENTS)
        self.writer, self.validation = (
            SummaryWriter(str(path), purge_step=step + 1)
            for path in (folder / EVENTS, folder / EVENTS / "validation")
        )
        settings = json.dumps(to_dict(config), indent=2)
        self.writer.add_text("config", f"```json\n{settings}\n```", step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer = self.validation if "/val_" in name else self.writer
            writer.add_scalar(name.replace("/val_", "/"), value, step)
        self.writer.flush()
        self.validation.flush()

    def histograms(self, step: int, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.writer.add_histogram(name, value, step, bins=BINS)
        self.writer.flush()

    def samples(self, step: int, samples: list[Sample]) -> None:
        """Show a grid of the images with their captions, and the captions as a table."""
        self.writer.add_image("samples", sample_grid(samples), step, dataformats="HWC")
        self.writer.add_text("samples", _markdown_table(samples), step)
        self.writer.flush()

    def figures(self, step: int, figures: list[np.ndarray]) -> None:
        """Show figures of pixels uint8[H, W, 3] side by side."""
        for number, figure in enumerate(figures, 1):
            self.writer.add_image(f"attention/{number}", figure, step, dataformats="HWC")
        self.writer.flush()

    def close(self, failed: bool) -> None:
        self.writer.close()
        self.validation.close()


def _await_new_second(folder: Path) -> None:
    """Wait for the second after that of the files, which TensorBoard reads in order of names."""
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    while f"{int(time.time()):010}" in seconds:
        time.sleep(0.05)


class WandbTracker:
    """A run of the project "sat"; WANDB_MODE=offline keeps it in the run's folder for later sync.

    A resumed run keeps its id. The service skips steps that it already has: they are the same.
    """

    def __init__(self, config: TrainConfig, folder: Path, step: int) -> None:
        self.wandb: ModuleType = importlib.import_module("wandb")
        known = sorted((folder / RUNS).glob("*run-*-*")) if step else []  # run-DATE_TIME-ID
        self.run = _started(
            self.wandb.init,
            project="sat",
            name=folder.name,
            dir=str(folder),
            config=to_dict(config),
            id=known[-1].name.split("-")[-1] if known else None,
            resume="allow",
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def histograms(self, step: int, values: dict[str, Tensor]) -> None:
        histograms = {
            name: self.wandb.Histogram(value.cpu().numpy(), num_bins=BINS)
            for name, value in values.items()
        }
        self.run.log(histograms, step=step)

    def samples(self, step: int, samples: list[Sample]) -> None:
        """Show a table with one row per image, and the images with their captions."""
        images = [self.wandb.Image(one.image, caption=one.hypothesis) for one in samples]
        rows = [
            [str(one.image_id), image, one.hypothesis, "\n".join(one.references)]
            for one, image in zip(samples, images)
        ]
        columns = ["image_id", "image", "hypothesis", "references"]
        table = self.wandb.Table(columns=columns, data=rows)
        self.run.log({"samples": table, "images": images}, step=step)

    def figures(self, step: int, figures: list[np.ndarray]) -> None:
        self.run.log({"attention": [self.wandb.Image(figure) for figure in figures]}, step=step)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


TRACKERS: dict[str, Callable[[TrainConfig, Path, int], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
}
"""by the name of the package that each needs; adding a tracker is one entry"""


def tracker_kind(choice: str, *, log_in: bool = True) -> str:
    """The key into `TRACKERS`, or "none"; an error where it cannot work, before anything is done.

    Raises `ModuleNotFoundError` without the package, and with `log_in` `ValueError` without the key
    that Weights & Biases ask for.
    """
    if choice == "auto":
        return "tensorboard" if is_installed("tensorboard") else "none"
    if choice in TRACKERS and not is_installed(choice):
        raise ModuleNotFoundError(
            f"tracker is {choice!r}, which is not installed: pip install 'sat-captioning[log]', or "
            "choose none"
        )
    if choice == "wandb" and log_in and os.environ.get("WANDB_MODE", "online") == "online":
        _started(importlib.import_module("wandb").login, verify=False)
    return choice


def _started(start: Callable[..., Any], **how: Any) -> Any:
    """The result of a function of wandb; its errors become a `ValueError`."""
    try:
        return start(**how)
    except importlib.import_module("wandb").Error as error:
        remedy = "run `wandb login`, set WANDB_MODE=offline, or choose another --tracker"
        raise ValueError(f"tracker is 'wandb', which does not start ({error}): {remedy}") from error


def is_installed(package: str) -> bool:
    """True when the package can be imported; a mere folder of its name, as wandb leaves, cannot."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None


def _markdown_table(samples: Sequence[Sample]) -> str:
    rows = [["image", "image_id", "hypothesis", "references"], ["---"] * 4]
    for number, one in enumerate(samples, 1):
        references = "<br>".join(map(_cell, one.references))
        rows.append([str(number), _cell(str(one.image_id)), _cell(one.hypothesis), references])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(text: str) -> str:
    """The text on one line, with pipes and the brackets of <unk> escaped."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")
