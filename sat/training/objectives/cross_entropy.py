"""One step of learning, and one validation: what `training.py` repeats.

B captions, T words, P regions, V vocabulary.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from sat.config.model import Preprocessing
from sat.config.training import TrainConfig
from sat.data.dataloader import Batch, microbatches
from sat.device import autocast
from sat.evaluation import features_of
from sat.models.show_attend_tell import ShowAttendTell
from sat.training.losses import (
    cross_entropy,
    doubly_stochastic_penalty,
    variational_terms,
)
from sat.training.objectives.scheduled_sampling import sample_inputs
from sat.training.optim import optimizer_step


def learn(
    model: ShowAttendTell,
    optimizer: Optimizer,
    batch: Batch,
    preprocessing: Preprocessing,
    config: TrainConfig,
    *,
    teacher_forcing_ratio: float = 1.0,
    accumulate: int = 1,
    scaler: GradScaler | None = None,
) -> dict[str, float]:
    """One step of the optimizer; returns the loss's two parts, unweighted, and the gradient's norm.

    The words shown are the true ones with probability `teacher_forcing_ratio`, else the model's
    own. With `accumulate` the batch is worked through in so many parts, for the same step. Raises
    `FloatingPointError`, before anything is changed, when the loss is not a number.
    """
    loss_of = partial(likelihood, model, batch, preprocessing, config, teacher_forcing_ratio)
    hard = getattr(model.decoder, "hard", False)
    with model.decoder.shared_attention_mode() if hard else nullcontext():
        figures = optimizer_step(
            optimizer, microbatches(batch, accumulate), loss_of, config, scaler
        )
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
    teacher_forcing_ratio: float,
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
        if teacher_forcing_ratio < 1:
            shown = sample_inputs(model, features, shown, teacher_forcing_ratio)
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
    if output.locations is not None:
        hard = config.hard
        terms = variational_terms(
            output.logits, targets, words, output.alphas, output.locations, model.decoder.baseline
        )
        loss = loss + by_words * (hard.reward * terms.reinforce - hard.entropy * terms.entropy)
        figures |= {"drawn": by_words, "log_p": by_words * terms.log_p.item()}
    return loss, figures
