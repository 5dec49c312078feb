"""Validation: scores of captions decoded for every image, and teacher-forced metrics.

B captions, T words, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from sat.captioner import Captioner
from sat.config.decoding import DecodingConfig
from sat.config.training import TrainConfig
from sat.data.dataloader import evaluation_loader
from sat.data.dataset import CaptionDataset, Sample
from sat.data.progress import Progress
from sat.device import keep_random_state
from sat.distributed import in_rounds, merge, on_rank_zero, seed_draws, share
from sat.evaluation import caption_dataset, score
from sat.models.base import device_of, encode_batch
from sat.results import table
from sat.tracking.sample_grid import rasterize
from sat.training.losses import cross_entropy, topk_accuracy
from sat.visualize import visualize_att

logger = logging.getLogger(__name__)

BEAM_SIZES, LENGTH_PENALTIES = (1, 3, 5), (0.0, 0.5, 1.0)
"""among which `choose_decoding` chooses"""


@torch.inference_mode()
def validate(
    captioner: Captioner,
    dataset: CaptionDataset,
    config: TrainConfig,
    progress: Progress = iter,
    on_results: Callable[[list[dict[str, Any]]], None] = lambda results: None,
) -> dict[str, float]:
    """Scores of captions decoded for every image, and teacher-forced metrics named as such.

    The teacher-forced ones, "val_cross_entropy" and "teacher_forced_top5", are of one caption an
    image. `on_results` gets the decoded captions (COCO results).
    """
    model, device = captioner.model.eval(), device_of(captioner.model)
    loader = validation_loader(dataset, config)
    sums: dict[int, tuple[float, float, int]] = {}  # of a batch, by its first image
    with keep_random_state(device):  # a validation that is stopped is made again, alike
        seed_draws(config.seed, apart=True)
        for batch in in_rounds(loader):
            words, captions = batch.lengths - 1, batch.captions.to(device)
            features, targets = encode_batch(model, batch.images), captions[:, 1:]
            logits = model(features, captions, batch.lengths, output_attentions=False).logits
            total = int(words.sum())
            entropy = total * cross_entropy(logits, targets, words).item()
            top5 = total * topk_accuracy(logits, targets, words).item()
            sums[int(batch.indices[0])] = (entropy, top5, total)
        (hypotheses,) = caption_dataset(captioner, loader, [config.validation], progress)
    entropy, top5, count = (sum(column) for column in zip(*merge(sums).values()))
    scored = on_rank_zero(lambda: score(hypotheses, dataset, captioner.vocabulary))
    on_results(scored.results)
    return {
        **scored.scores,
        "val_cross_entropy": entropy / count,
        "teacher_forced_top5": top5 / count,
    }


def validation_loader(dataset: CaptionDataset, config: TrainConfig) -> DataLoader[Sample]:
    """A loader of this rank's share of the images; features are read by the process itself."""
    workers = 0 if dataset.reads_features else config.workers
    size = config.validation_batch_size
    return evaluation_loader(dataset, size, workers=workers, share=share())


def attention_figures(
    captioner: Captioner, dataset: CaptionDataset, options: DecodingConfig, images: list[int]
) -> list[np.ndarray]:
    """Figures uint8[H, W, 3] of the attention maps of captions decoded for these images."""
    as_prepared = dataclasses.replace(captioner.preprocessing, resize="squash")  # changes nothing
    config = dataclasses.replace(captioner.config, preprocessing=as_prepared)
    photos = [Image.fromarray(dataset.image(i).permute(1, 2, 0).numpy()) for i in images]
    captioner = Captioner(captioner.model, captioner.vocabulary, config)
    results = captioner.caption_all(photos, options)
    return [rasterize(visualize_att(result)) for result in results]


def choose_decoding(
    captioner: Captioner, dataset: CaptionDataset, config: TrainConfig, progress: Progress = iter
) -> tuple[DecodingConfig, dict[str, float]]:
    """The decoding options with the highest BLEU-4 on the split, and their scores.

    They are the run's `validation` with other beams and length penalties, or as it is; of equal
    ones the smallest beam. Each image is encoded once.
    """
    own = dataclasses.replace(config.validation, num_return_sequences=1)
    grid = {dataclasses.replace(own, beam_size=1), own} | {
        dataclasses.replace(own, beam_size=beams, length_penalty=penalty)
        for beams in BEAM_SIZES[1:]
        for penalty in LENGTH_PENALTIES
    }
    runs = sorted(grid, key=lambda options: (options.beam_size, options.length_penalty))
    captions = caption_dataset(captioner, validation_loader(dataset, config), runs, progress)
    found = on_rank_zero(
        lambda: [score(by_image, dataset, captioner.vocabulary) for by_image in captions]
    )
    best, scored = max(zip(runs, found), key=lambda pair: pair[1].scores["Bleu_4"])
    logger.info(
        "decoding of %s, kept: beam %d, length penalty %g\n%s",
        *(dataset.split, best.beam_size, best.length_penalty, table(runs, found)),
    )
    return best, scored.scores
