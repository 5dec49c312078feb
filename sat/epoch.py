"""One step of learning, and one validation: what `training.py` repeats.

B captions, T words, P regions, V vocabulary.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sat.config import Preprocessing
from sat.data.batches import Batch, evaluation_loader
from sat.data.dataset import CaptionDataset
from sat.data.vocabulary import Vocabulary
from sat.evaluate import caption_images, features_of, score
from sat.losses import cross_entropy, doubly_stochastic_penalty, topk_accuracy
from sat.models.decoder import Output
from sat.models.show_attend_tell import ShowAttendTell
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


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Matrix products in the precision that the config asks for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def learn(
    model: ShowAttendTell,
    optimizer: Optimizer,
    batch: Batch,
    preprocessing: Preprocessing,
    config: TrainConfig,
) -> dict[str, float]:
    """One step of the optimizer; returns the loss's two parts, unweighted, and the gradient's norm.

    Raises `FloatingPointError`, before anything is changed, when the loss is not a number.
    """
    device = next(model.parameters()).device
    words = batch.lengths.to(device) - 1
    learns = any(weight.requires_grad for weight in model.encoder.parameters())
    slower = device.type == "cpu" and learns  # bfloat16 convolutions, backward
    with nullcontext() if slower else autocast(config, device):
        features = features_of(model, batch, preprocessing)
    with autocast(config, device):
        output = model(features, batch.captions.to(device), batch.lengths.to(device))
    likelihood = cross_entropy(
        output.logits,
        batch.captions[:, 1:].to(device),
        words,
        label_smoothing=config.label_smoothing,
    )
    penalty = doubly_stochastic_penalty(
        output.alphas.float(), words, scaling=config.penalty_scaling
    )
    loss = likelihood + config.alpha_c * penalty
    norm = descend(optimizer, loss, config.grad_clip)
    parts = {"cross_entropy": likelihood.item(), "penalty": penalty.item()}
    return parts | {"gradient_norm": norm}


def descend(optimizer: Optimizer, loss: Tensor, grad_clip: float) -> float:
    """One step down the loss; returns the norm of the whole gradient before it was clipped.

    `grad_clip` is the largest norm that is let through (0: any).
    Raises `FloatingPointError`, before anything is changed, when loss or gradient is no number.
    """
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"the loss is {loss.item()}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    learning = [weight for group in optimizer.param_groups for weight in group["params"]]
    norm = nn.utils.clip_grad_norm_(learning, grad_clip or math.inf)
    if not math.isfinite(norm.item()):
        raise FloatingPointError(f"the norm of the gradient is {norm.item()}")
    optimizer.step()
    return norm.item()


@torch.inference_mode()
def validate(
    model: ShowAttendTell,
    source: CaptionDataset,
    vocabulary: Vocabulary,
    preprocessing: Preprocessing,
    config: TrainConfig,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, float]:
    """Decoded scores of every validation image, and teacher-forced figures under names that say so.

    The teacher-forced ones are of one caption an image.
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
    return {
        **score(captions, source, vocabulary).scores,
        "val_cross_entropy": likelihoods / count,
        "teacher_forced_top5": top5 / count,
    }


def _forward(model: ShowAttendTell, batch: Batch, preprocessing: Preprocessing) -> Output:
    device = next(model.parameters()).device
    features = features_of(model, batch, preprocessing)
    return model(features, batch.captions.to(device), batch.lengths.to(device))
