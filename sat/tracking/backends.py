"""Where a run can be shown: TensorBoard, or Weights & Biases. Both are of extra `[log]`.

Of neither is anything imported before a run asks for it. S side of the pictures.
"""

from __future__ import annotations

import html
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from sat.config.checks import to_dict
from sat.config.training import TrainConfig
from sat.tracking.sample_grid import sample_grid

EVENTS, RUNS = "events", "wandb"
"""folders of a run: TensorBoard's files, and those of Weights & Biases"""


class Sample(NamedTuple):
    """A photo, what the model says of it, and what people wrote."""

    image_id: Any
    photo: np.ndarray  # uint8[S, S, 3]
    hypothesis: str
    references: list[str]


class Histogram(NamedTuple):
    """How often values lie between neighbouring edges, and their sums."""

    counts: np.ndarray  # float64[N]
    edges: np.ndarray  # float64[N + 1]
    total: float
    squares: float


class Tracker(Protocol):
    """Where a run is shown."""

    def scalars(self, step: int, values: dict[str, float]) -> None: ...
    def histograms(self, step: int, values: dict[str, Histogram]) -> None: ...
    def samples(self, step: int, examples: list[Sample]) -> None: ...
    def close(self, failed: bool) -> None: ...


class TensorBoardTracker:
    """Event files under the run's folder: tensorboard --logdir runs"""

    def __init__(self, config: TrainConfig, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / EVENTS), purge_step=step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def histograms(self, step: int, values: dict[str, Histogram]) -> None:
        for name, (counts, edges, total, squares) in values.items():
            self.writer.add_histogram_raw(
                name,
                min=edges[0],
                max=edges[-1],
                num=counts.sum(),
                sum=total,
                sum_squares=squares,
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=step,
            )
        self.writer.flush()

    def samples(self, step: int, examples: list[Sample]) -> None:
        """A sheet of the photos with their captions, and the captions as a table."""
        shown = [(one.photo, one.hypothesis, one.references[0]) for one in examples]
        self.writer.add_image("samples", sample_grid(shown), step, dataformats="HWC")
        self.writer.add_text("samples", _table(examples), step)
        self.writer.flush()

    def close(self, failed: bool) -> None:
        self.writer.close()


class WandbTracker:
    """A run of the project "sat"; WANDB_MODE=offline keeps it in the run's folder, to be synced.

    A resumed run keeps its id. Steps shown already are skipped by the service: they are the same.
    """

    def __init__(self, config: TrainConfig, folder: Path, step: int) -> None:
        self.wandb: ModuleType = importlib.import_module("wandb")
        known = sorted((folder / RUNS).glob("*run-*-*")) if step else []  # run-DATE_TIME-ID
        self.run = self.wandb.init(
            project="sat",
            name=folder.name,
            dir=str(folder),
            config=to_dict(config),
            id=known[-1].name.split("-")[-1] if known else None,
            resume="allow",
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def histograms(self, step: int, values: dict[str, Histogram]) -> None:
        bars = {
            name: self.wandb.Histogram(np_histogram=(found.counts, found.edges))
            for name, found in values.items()
        }
        self.run.log(bars, step=step)

    def samples(self, step: int, examples: list[Sample]) -> None:
        """A table with a row for each photo, and the photos with their captions."""
        photos = [self.wandb.Image(one.photo, caption=one.hypothesis) for one in examples]
        columns = ["image_id", "photo", "generated", "written"]
        rows = [
            [str(one.image_id), photo, one.hypothesis, "\n".join(one.references)]
            for one, photo in zip(examples, photos)
        ]
        table = self.wandb.Table(columns=columns, data=rows)
        self.run.log({"samples": table, "photos": photos}, step=step)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


TRACKERS: dict[str, Callable[[TrainConfig, Path, int], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
}


def tracker_kind(choice: str) -> str:
    """The key into `TRACKERS`, or "none"; `ModuleNotFoundError` when what is chosen is missing."""
    if choice == "auto":
        return "tensorboard" if _installed("tensorboard") else "none"
    if choice in TRACKERS and not _installed(choice):
        raise ModuleNotFoundError(
            f"log is {choice!r}, which is not installed: pip install 'sat-captioning[log]', or "
            "choose none"
        )
    return choice


def _table(examples: Sequence[Sample]) -> str:
    """The captions in Markdown."""
    rows = [["photo", "image_id", "generated", "written"], ["---"] * 4]
    for number, one in enumerate(examples, 1):
        texts = [_cell(text) for text in (str(one.image_id), one.hypothesis, *one.references)]
        rows.append([str(number), *texts[:2], "<br>".join(texts[2:])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(text: str) -> str:
    """A text that cannot break out of a cell, and whose <unk> is no tag."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")


def _installed(package: str) -> bool:
    """Whether it can be imported; a folder of that name, as wandb leaves, is no package."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None
