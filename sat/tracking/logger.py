"""Curves, histograms and sample captions of a training run, handed to its tracker.

log.jsonl is written by the trainer in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sat.config.training import TrainConfig
from sat.data.dataset import CaptionDataset
from sat.data.vocabulary import Vocabulary
from sat.distributed import rank
from sat.tracking.backends import TRACKERS, tracker_kind
from sat.tracking.sample_grid import Sample

SAMPLES, FIGURES = 8, 2
"""validation images whose captions are shown after each epoch, and whose attention maps are too"""


class RunLogger:
    """A context manager that feeds the run's tracker, if there is one, and closes it.

    `step` is the number of steps done so far: the curves of a resumed run continue, and points
    of later steps, shown before the run was killed, are dropped.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        val: CaptionDataset,
        vocabulary: Vocabulary,
        step: int = 0,
    ) -> None:
        kind = tracker_kind(config.tracker, log_in=False)  # done when the run began
        kind = kind if rank() == 0 else "none"
        self.tracker = TRACKERS[kind](config, folder, step) if kind in TRACKERS else None
        self.every, self.val, self.vocabulary = config.log_every, val, vocabulary
        self.references: list[dict[str, Any]] = []

    def is_due(self, step: int) -> bool:
        """True every `log_every` steps, and ten times as often before the first `log_every`.

        So short runs have curves.
        """
        every = self.every if step > self.every else max(1, self.every // 10)
        return step % every == 0

    def after_step(self, step: int, model: nn.Module, values: dict[str, float]) -> None:
        """Show, where the step `is_due`, these values and histograms of all trained weights.

        Gradients are shown after clipping; one that is not finite (float16 overflows while its
        scale is found) has no histogram.
        """
        if self.tracker is None or not self.is_due(step):
            return
        self.tracker.scalars(step, {f"step/{name}": value for name, value in values.items()})
        found = {}
        for name, weight in model.named_parameters():
            if weight.requires_grad and weight.grad is not None:
                found[f"weights/{name}"] = weight.detach()
                found[f"gradients/{name}"] = weight.grad
        finite = {name: values for name, values in found.items() if values.isfinite().all()}
        self.tracker.histograms(step, finite)

    def after_epoch(
        self,
        step: int,
        values: dict[str, float],
        results: Sequence[dict[str, Any]],
        draw: Callable[[list[int]], list[np.ndarray]] = lambda images: [],
    ) -> None:
        """Show the epoch's values and some of the validation `results`, evenly spread.

        `results` are in the order of the images; the same images are shown after every epoch.
        `draw` gives a figure uint8[H, W, 3] of the attention maps for each of the images named.
        """
        if self.tracker is None:
            return
        values = {f"epoch/{name}": value for name, value in values.items() if name != "epoch"}
        self.tracker.scalars(step, values)
        self.references = self.references or self.val.references(self.vocabulary)
        count = min(SAMPLES, len(results))
        chosen = [i * len(results) // count for i in range(count)]
        self.tracker.samples(step, [self._sample(i, results[i]) for i in chosen])
        self.tracker.figures(step, draw(chosen[:FIGURES]))

    def _sample(self, image: int, result: dict[str, Any]) -> Sample:
        pixels = self.val.image(image).permute(1, 2, 0).numpy()  # (S, S, 3)
        references = self.references[image]["captions"]
        return Sample(result["image_id"], pixels, result["caption"], references)

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.tracker is not None:
            self.tracker.close(failed=kind is not None)
