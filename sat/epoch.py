"""One step of learning, and one validation: what `training.py` repeats.

B captions, T words, P regions, V vocabulary.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from sat.config import Preprocessing
from sat.data.batches import Batch, evaluation_loader, split
from sat.data.dataset import CaptionDataset
from sat.data.vocabulary import Vocabulary
from sat.evaluate import caption_images, features_of, score
from sat.losses import (
    cross_entropy,
    doubly_stochastic_penalty,
    topk_accuracy,
    variational_terms,
)
from sat.models.decoder import Output
from sat.models.show_attend_tell import ShowAttendTell
from sat.optimization import autocast, descend
from sat.own_words import with_own_words
from sat.recipe import TrainConfig


@contextmanager
def whole_step() -> Iterator[None]:
    """Ctrl-C waits until the block is done: a batch is learnt from wholly or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def learn(
    model: ShowAttendTell,
    optimizer: Optimizer,
    batch: Batch,
    preprocessing: Preprocessing,
    config: TrainConfig,
    *,
    teacher_share: float = 1.0,
    accumulate: int = 1,
    scaler: GradScaler | None = None,
) -> dict[str, float]:
    """One step of the optimizer; returns the loss's two parts, unweighted, and the gradient's norm.

    The words shown are the true ones with probability `teacher_share`, else the model's own. With
    `accumulate` the batch is worked through in so many parts, for the same step. Raises
    `FloatingPointError`, before anything is changed, when the loss is not a number.
    """
    loss_of = partial(likelihood, model, batch, preprocessing, config, teacher_share)
    hard = getattr(model.decoder, "hard", False)
    with model.decoder.one_look() if hard else nullcontext():
        figures = descend(optimizer, split(batch, accumulate), loss_of, config, scaler)
    drawn, log_p = figures.pop("drawn", 0.0), figures.pop("log_p", 0.0)
    if drawn:  # share of the words for which hard attention drew a region
        model.decoder.baseline.lerp_(
            model.decoder.baseline.new_tensor(log_p / drawn), 1 - config.hard.baseline
        )
    return figures


def likelihood(
    model: ShowAttendTell,
    whole: Batch,
    preprocessing: Preprocessing,
    config: TrainConfig,
    teacher_share: float,
    batch: Batch,
) -> tuple[Tensor, dict[str, float]]:
    """The share of `batch`, a part of the `whole`, in the loss, and in each of its parts.

    A part counts by its words, and the penalty's mean over captions by its captions.
    """
    device = next(model.parameters()).device
    words = batch.lengths.to(device) - 1
    learns = any(weight.requires_grad for weight in model.encoder.parameters())
    slower = device.type == "cpu" and learns  # bfloat16 convolutions, backward
    with nullcontext() if slower else autocast(config, device):
        features = features_of(model, batch, preprocessing)
    with autocast(config, device):
        shown = batch.captions.to(device)
        if teacher_share < 1:
            shown = with_own_words(model, features, shown, teacher_share)
        output = model(features, shown, batch.lengths.to(device))
    targets = batch.captions[:, 1:].to(device)
    by_words = (batch.lengths - 1).sum().item() / (whole.lengths - 1).sum().item()
    entropy = by_words * cross_entropy(
        output.logits, targets, words, label_smoothing=config.label_smoothing
    )
    penalty = doubly_stochastic_penalty(
        output.alphas.float(), words, scaling=config.penalty_scaling
    )
    by_captions = len(batch.captions) / len(whole.captions)
    penalty = penalty * (by_words if config.penalty_scaling == "sum" else by_captions)
    loss = entropy + config.alpha_c * penalty
    figures = {"cross_entropy": entropy.item(), "penalty": penalty.item()}
    if output.looks is not None:
        hard = config.hard
        terms = variational_terms(
            output.logits, targets, words, output.alphas, output.looks, model.decoder.baseline
        )
        loss = loss + by_words * (hard.reward * terms.reinforce - hard.entropy * terms.entropy)
        figures |= {"drawn": by_words, "log_p": by_words * terms.log_p.item()}
    return loss, figures


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
    (captions,) = caption_images(model, loader, preprocessing, [config.validation], progress)
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
