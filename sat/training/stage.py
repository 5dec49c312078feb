"""One stage of training: its optimizer, batches and objective."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sat.config.training import TrainConfig
from sat.data.dataloader import CaptionBatchSampler
from sat.data.dataset import CaptionDataset

if TYPE_CHECKING:
    pass


def batches_for(config: TrainConfig, number: int, train: CaptionDataset) -> CaptionBatchSampler:
    """The order in which a stage learns from the captions."""
    stage = config.stage(number)
    drawn = config.captions == "random"
    learns_words = stage.objective == "likelihood"
    return CaptionBatchSampler(
        train.lengths,
        stage.batch_size,
        kind=config.batches if learns_words else "random",
        mirror=config.mirror,
        stride=train.captions_per_image if drawn or not learns_words else 1,
        draw_one=drawn and learns_words,
        group_size=stage.captions_per_sample,
        seed=config.seed * 10 + number,
    )
