"""What a run shows of itself while it learns: curves, histograms, captions of a few photos.

log.jsonl is written besides, whatever is shown. S side of the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sat.config.training import TrainConfig
from sat.data.dataset import CaptionDataset
from sat.data.vocabulary import Vocabulary
from sat.tracking.backends import TRACKERS, Histogram, Sample, tracker_kind

PHOTOS = 8
"""captioned before everybody's eyes, spread evenly over the validation images"""
BINS, PART = 64, 2**23
"""of a histogram; and so many values are counted at once: float32 stops counting at 2 ** 24"""


class RunLogger:
    """Tells a board what there is to show; a context, so that the board is closed.

    `step` is where the run stands: curves of a resumed run go on, and what was shown of later
    steps before it was killed is dropped.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        val: CaptionDataset,
        vocabulary: Vocabulary,
        step: int = 0,
    ) -> None:
        kind = tracker_kind(config.log)
        self.board = TRACKERS[kind](config, folder, step) if kind in TRACKERS else None
        self.every, self.val, self.vocabulary = config.log_every, val, vocabulary
        self.references: list[dict[str, Any]] | None = None

    def after_step(self, step: int, model: nn.Module, values: dict[str, float]) -> None:
        """Every so many steps: these numbers, and histograms of the weights that learn.

        Their gradients are shown as the optimizer saw them, clipped.
        """
        if self.board is None or step % self.every:
            return
        self.board.scalars(step, {f"step/{name}": value for name, value in values.items()})
        found = {}
        for name, weight in model.named_parameters():
            if weight.requires_grad and weight.grad is not None:
                found[f"weights/{name}"] = histogram(name, weight.detach())
                found[f"gradients/{name}"] = histogram(f"the gradient of {name}", weight.grad)
        self.board.histograms(step, found)

    def after_epoch(
        self, step: int, values: dict[str, float], results: Sequence[dict[str, Any]]
    ) -> None:
        """The epoch's numbers; of the validation `results`, in order, those of the same photos."""
        if self.board is None:
            return
        self.board.scalars(step, {f"epoch/{name}": value for name, value in values.items()})
        if self.references is None:
            self.references = self.val.references(self.vocabulary)
        chosen = range(min(PHOTOS, len(results)))
        self.board.samples(
            step, [self._example(i * len(results) // len(chosen), results) for i in chosen]
        )

    def _example(self, image: int, results: Sequence[dict[str, Any]]) -> Sample:
        photo = self.val.image(image).permute(1, 2, 0).numpy()  # (S, S, 3)
        hypothesis, references = results[image]["caption"], self.references[image]["captions"]
        return Sample(results[image]["image_id"], photo, hypothesis, references)

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.board is not None:
            self.board.close(failed=kind is not None)


def histogram(name: str, values: Tensor) -> Histogram:
    """Of all values, counted where they are, between the least and the greatest.

    Raises `FloatingPointError`, with the name, when one of them is no number.
    """
    values = values.flatten().float()
    low, high = (edge.item() for edge in values.aminmax())
    if not np.isfinite([low, high]).all():
        raise FloatingPointError(f"{name} holds {low if np.isfinite(high) else high}")
    if low == high:
        margin = max(abs(low), 1.0) / 2
        low, high = low - margin, high + margin
    counts = torch.zeros(BINS, dtype=torch.float64)
    for part in values.split(PART):
        counts += torch.histc(part, BINS, low, high).cpu()
    squares = values.square().sum().item()
    return Histogram(counts.numpy(), np.linspace(low, high, BINS + 1), values.sum().item(), squares)
