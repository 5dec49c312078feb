"""Cross-entropy of the reference captions, with soft or hard attention.

B captions, T words, P regions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch
from sat.device import autocast
from sat.distributed import all_ranks_sum
from sat.models.base import CaptionModel, device_of, encode_batch
from sat.training.attention_boxes import AttentionBoxes
from sat.training.losses import cross_entropy, doubly_stochastic_penalty, variational_terms
from sat.training.objectives.base import Loss, Metrics
from sat.training.objectives.scheduled_sampling import sample_inputs


class CrossEntropyObjective:
    """-log p(word) + alpha_c * doubly stochastic penalty (Xu et al. 2015, eq. 14).

    With hard attention, besides, REINFORCE on the variational bound (section 4.1). With scheduled
    sampling some input words are the model's own. With `boxes`, attention is supervised at words
    that name objects.
    """

    def __init__(
        self,
        model: CaptionModel,
        config: TrainConfig,
        stage: StageConfig,
        boxes: AttentionBoxes | None = None,
    ) -> None:
        self.model, self.boxes = model, boxes
        self.config, self.schedule = config, stage.scheduled_sampling

    @contextmanager
    def step(self, batch: Batch, number: int) -> Iterator[Loss]:
        """A block with the loss of the parts of `batch`, the stage's minibatch `number` from 0.

        All parts of the batch share one draw between soft and hard attention.
        """
        ratio = self.schedule.teacher_forcing_ratio(number)
        with self.model.shared_attention_mode():
            yield partial(self.loss, batch, ratio)

    def loss(
        self, whole: Batch, teacher_forcing_ratio: float, part: Batch
    ) -> tuple[Tensor, Metrics]:
        """The share of `part` in the loss and in the metrics of the step of the `whole` batch.

        A part counts by its words, and the penalty's mean over captions by its captions. Each input
        word is the reference's with probability `teacher_forcing_ratio`, else the model's own.
        """
        config, device = self.config, device_of(self.model)
        captions = part.captions.to(device, non_blocking=True)
        words = part.lengths - 1  # on the host: nobody waits for the device
        learns = any(weight.requires_grad for weight in self.model.encoder.parameters())
        slower = device.type == "cpu" and learns  # bfloat16 convolutions, backward
        with nullcontext() if slower else autocast(config.precision, device):
            features = encode_batch(self.model, part.images)
        inputs = captions
        if teacher_forcing_ratio < 1:
            # A block of its own: older torch keeps weights cast without gradients until it ends.
            with autocast(config.precision, device):
                inputs = sample_inputs(self.model, features, inputs, teacher_forcing_ratio)
        with autocast(config.precision, device):
            output = self.model(
                features,
                inputs,
                part.lengths,
                output_attentions=config.alpha_c > 0 or self.boxes is not None,
            )
        targets = captions[:, 1:]
        total = whole.step_size.words
        by_words = sum(words.tolist()) / total
        entropy = by_words * cross_entropy(
            output.logits, targets, words, label_smoothing=config.label_smoothing
        )
        loss, metrics = entropy, {"cross_entropy": entropy.detach()}
        if output.alphas is None:
            return loss, metrics
        counts = words.to(device, non_blocking=True)
        penalty = doubly_stochastic_penalty(
            output.alphas.float(), counts, scaling=config.penalty_scaling
        )
        by_captions = len(part.captions) / whole.step_size.captions
        penalty = penalty * (by_words if config.penalty_scaling == "sum" else by_captions)
        loss = entropy + config.alpha_c * penalty
        metrics["penalty"] = penalty.detach()
        if self.boxes is not None:
            outside = self.boxes.loss(output.alphas.float(), part) / total
            loss = loss + config.box_weight * outside
            metrics["outside_boxes"] = outside.detach()
        if output.locations is not None and self.model.baseline is not None:
            terms = variational_terms(
                *(output.logits, targets, counts, output.alphas, output.locations),
                self.model.baseline,
            )
            bound = config.hard.reward * terms.reinforce - config.hard.entropy * terms.entropy
            loss = loss + by_words * bound
            metrics |= {"sampled_words": by_words, "log_p": by_words * terms.log_p}
        return loss, metrics

    def after_step(self, metrics: Metrics) -> Metrics:
        """The metrics to be logged; moves hard attention's baseline towards the batch's log p."""
        metrics = dict(metrics)
        sampled, log_p = metrics.pop("sampled_words", None), metrics.pop("log_p", None)
        baseline = self.model.baseline
        if sampled is not None and baseline is not None:
            # share of the words with a sampled region, and their log p, over all ranks
            shares = all_ranks_sum(torch.stack([baseline.new_full((), sampled), log_p]))
            target = torch.where(shares.isfinite().all(), shares[1] / shares[0], baseline)
            baseline.lerp_(target, 1 - self.config.hard.baseline)
        return metrics
