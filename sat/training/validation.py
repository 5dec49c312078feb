"""Validation: scores of captions decoded for every image, and teacher-forced metrics.

B captions, T words, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sat.captioner import Captioner
from sat.config.training import TrainConfig
from sat.data.dataloader import evaluation_loader
from sat.data.dataset import CaptionDataset
from sat.data.progress import Progress
from sat.evaluation import caption_dataset, score
from sat.models.base import device_of, encode_batch
from sat.training.losses import cross_entropy, topk_accuracy


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
    workers = 0 if dataset.reads_features else config.workers
    loader = evaluation_loader(dataset, config.validation_batch_size, workers=workers)
    entropy, top5, count = 0.0, 0.0, 0
    for batch in loader:
        words, targets = batch.lengths.to(device) - 1, batch.captions[:, 1:].to(device)
        features = encode_batch(model, batch.images)
        captions, lengths = batch.captions.to(device), batch.lengths.to(device)
        logits = model(features, captions, lengths, output_attentions=False).logits
        total = int(words.sum())
        entropy += total * cross_entropy(logits, targets, words).item()
        top5 += total * topk_accuracy(logits, targets, words).item()
        count += total
    (hypotheses,) = caption_dataset(captioner, loader, [config.validation], progress)
    scored = score(hypotheses, dataset, captioner.vocabulary)
    on_results(scored.results)
    return {
        **scored.scores,
        "val_cross_entropy": entropy / count,
        "teacher_forced_top5": top5 / count,
    }
