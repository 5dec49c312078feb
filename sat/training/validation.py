"""Validation: decoded scores of every validation image, and teacher-forced figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from sat.config.model import Preprocessing
from sat.config.training import TrainConfig
from sat.data.dataloader import Batch, evaluation_loader
from sat.data.dataset import CaptionDataset
from sat.data.vocabulary import Vocabulary
from sat.evaluation import caption_dataset, features_of, score
from sat.models.base import Output
from sat.models.show_attend_tell import ShowAttendTell
from sat.training.losses import (
    cross_entropy,
    topk_accuracy,
)


@torch.inference_mode()
def validate(
    model: ShowAttendTell,
    source: CaptionDataset,
    vocabulary: Vocabulary,
    preprocessing: Preprocessing,
    config: TrainConfig,
    progress: Callable[[Iterable], Iterable] = iter,
    watch: Callable[[list[dict[str, Any]]], None] = lambda results: None,
) -> dict[str, float]:
    """Decoded scores of every validation image, and teacher-forced figures under names that say so.

    The teacher-forced ones are of one caption an image. `watch` gets the captions (COCO results).
    """
    model.eval()
    device = next(model.parameters()).device
    workers = 0 if source.reads_features else config.workers
    loader = evaluation_loader(source, config.validation_batch_size, workers=workers)
    likelihoods, top5, count = 0.0, 0.0, 0
    for batch in loader:
        words, targets = batch.lengths.to(device) - 1, batch.captions[:, 1:].to(device)
        logits = _forward(model, batch, preprocessing).logits
        total = int(words.sum())
        likelihoods += total * cross_entropy(logits, targets, words).item()
        top5 += total * topk_accuracy(logits, targets, words).item()
        count += total
    (captions,) = caption_dataset(model, loader, preprocessing, [config.validation], progress)
    scored = score(captions, source, vocabulary)
    watch(scored.results)
    return {
        **scored.scores,
        "val_cross_entropy": likelihoods / count,
        "teacher_forced_top5": top5 / count,
    }


def _forward(model: ShowAttendTell, batch: Batch, preprocessing: Preprocessing) -> Output:
    device = next(model.parameters()).device
    features = features_of(model, batch, preprocessing)
    return model(features, batch.captions.to(device), batch.lengths.to(device))
