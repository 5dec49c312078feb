"""Self-critical training (Rennie et al. 2017): draw captions, reward those people would agree with.

B images, S captions drawn of each, T words, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from sat.config.decoding import DecodingConfig
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch
from sat.data.dataset import CaptionDataset
from sat.decoding.beam_search import beam_search
from sat.decoding.hypothesis import Hypothesis
from sat.decoding.sampling import sample
from sat.device import autocast
from sat.metrics.cider import CiderD
from sat.models.base import CaptionModel, encode_batch
from sat.training.attention_boxes import AttentionBoxes
from sat.training.losses import policy_gradient
from sat.training.objectives.base import Loss, Metrics

DRAWING = DecodingConfig(do_sample=True, forbid_unknown=True, max_length=22)


def reward_of(dataset: CaptionDataset) -> CiderD:
    """CIDEr-D against the split's captions, as word numbers with the end word."""
    groups = dataset.captions.reshape(dataset.num_images, dataset.captions_per_image, -1)
    lengths = dataset.lengths.reshape(dataset.num_images, -1)
    return CiderD(
        [
            [line[1:length].tolist() for line, length in zip(group, group_lengths)]
            for group, group_lengths in zip(groups, lengths)
        ]
    )


class SelfCriticalObjective:
    """REINFORCE on CIDEr-D of captions drawn from the model (Rennie et al. 2017).

    A caption is measured against the mean of the image's other ones ("leave_one_out", which needs
    no caption beside them) or against its "greedy" one. Dropout is off, so that captions are drawn
    from exactly the distribution that learns; they are no longer than those of validation. With
    `boxes`, attention is supervised at the words drawn that name objects.
    """

    def __init__(
        self,
        model: CaptionModel,
        config: TrainConfig,
        stage: StageConfig,
        reward: CiderD,
        boxes: AttentionBoxes | None = None,
    ) -> None:
        self.model, self.precision = model, config.precision
        self.boxes, self.box_weight = boxes, config.box_weight
        self.samples, self.baseline = stage.samples, stage.baseline
        self.reward = reward
        longest = min(DRAWING.max_length, config.validation.max_length)
        self.drawing = replace(DRAWING, max_length=longest, num_return_sequences=stage.samples)

    @contextmanager
    def step(self, batch: Batch, number: int) -> Iterator[Loss]:
        """A block with the loss of the parts of `batch`; the model is in evaluation mode."""
        self.model.eval()
        yield partial(self.loss, batch)

    def loss(self, whole: Batch, part: Batch) -> tuple[Tensor, Metrics]:
        """The share of `part` in the loss of the `whole` batch's step, and in the mean reward."""
        share = len(part.images) / whole.step_size.captions  # one an image
        loss, reward = self.expected_loss(encode_batch(self.model, part.images), part)
        return share * loss, {"reward": share * reward}

    def expected_loss(self, features: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """A loss whose gradient is, on average, that of minus the expected reward; mean reward."""
        model, device = self.model, features.device
        with torch.no_grad(), autocast(self.precision, device):
            drawn = _token_lists(sample(model, features, self.drawing), model.end_id)
            rewards = self._rewards(batch, drawn).to(device)  # (B, S)
            if self.baseline == "greedy":
                options = replace(
                    self.drawing, do_sample=False, beam_size=1, num_return_sequences=1
                )
                greedy = _token_lists(beam_search(model, features, options), model.end_id)
                level = self._rewards(batch, greedy).to(device)  # (B, 1)
            else:
                level = (rewards.sum(1, keepdim=True) - rewards) / (self.samples - 1)  # (B, S)
        lines = [tokens for group in drawn for tokens in group]
        captions, lengths = _as_batch(lines, model, device)
        with autocast(self.precision, device):
            needs_maps = self.boxes is not None
            output = model(features, captions, lengths, output_attentions=needs_maps)
        never = {model.pad_id, model.start_id, model.unk_id} - {model.end_id, None}
        banned = torch.tensor(sorted(never), dtype=torch.long, device=device)
        logits = output.logits.index_fill(
            2, banned, float("-inf")
        )  # as when the captions were drawn
        loss = policy_gradient(logits, captions[:, 1:], lengths - 1, (rewards - level).flatten())
        if self.boxes is not None and output.alphas is not None:
            own = batch._replace(captions=captions.cpu(), lengths=lengths)
            outside = self.boxes.loss(output.alphas.float(), own) / len(lines)
            loss = loss + self.box_weight * outside
        return loss, rewards.mean().item()

    def after_step(self, metrics: Metrics) -> Metrics:
        """The metrics as they are."""
        return metrics

    def _rewards(self, batch: Batch, drawn: list[list[list[int]]]) -> Tensor:
        """float[B, S]: the reward of each caption drawn of each image."""
        pairs = zip(batch.indices.tolist(), drawn)
        return torch.tensor(
            [[self.reward.score(i, tokens) for tokens in group] for i, group in pairs]
        )


def _token_lists(found: list[list[Hypothesis]], end_id: int) -> list[list[list[int]]]:
    """The tokens of each image's captions, with the end unless the step limit came before it."""
    return [
        [[*one.words, end_id] if one.finished else one.words for one in captions]
        for captions in found
    ]


def _as_batch(
    lines: list[list[int]], model: CaptionModel, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Captions int[N, T] with the start before each, padded; their lengths int[N], on the host."""
    rows = [torch.tensor([model.start_id, *line]) for line in lines]
    lengths = torch.tensor([len(row) for row in rows])
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.pad_id)
    return padded.to(device, non_blocking=True), lengths
