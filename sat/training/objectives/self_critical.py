"""Self-critical training (Rennie et al. 2017): draw captions, reward those people would agree with.

B images, S captions drawn of each, T words, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from sat.config.decoding import DecodingConfig
from sat.config.model import Preprocessing
from sat.config.training import TrainConfig
from sat.data.dataloader import Batch, microbatches
from sat.data.dataset import CaptionDataset
from sat.decoding.beam_search import beam_search
from sat.decoding.hypothesis import Hypothesis
from sat.decoding.sampling import sample
from sat.device import autocast
from sat.evaluation import features_of
from sat.metrics.cider import CiderD
from sat.models.show_attend_tell import ShowAttendTell
from sat.training.losses import policy_gradient
from sat.training.optim import optimizer_step

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


def learn_self_critical(
    model: ShowAttendTell,
    optimizer: Optimizer,
    batch: Batch,
    preprocessing: Preprocessing,
    config: TrainConfig,
    reward: CiderD,
    samples: int,
    *,
    baseline: str = "leave_one_out",
    accumulate: int = 1,
    scaler: GradScaler | None = None,
) -> dict[str, float]:
    """One step of the optimizer up the expected reward; returns the mean reward of the draws.

    Each image's captions are measured against the mean of its other ones ("leave_one_out", which
    needs no caption beside them) or against its "greedy" one, as the model says it when it does not
    draw (Rennie et al. 2017). Dropout is off: what draws is exactly what learns.
    """
    model.eval()

    def loss_of(part: Batch) -> tuple[Tensor, dict[str, float]]:
        share = len(part.images) / len(batch.images)
        features = features_of(model, part, preprocessing)
        loss, mean = expected_loss(model, features, part, config, reward, samples, baseline)
        return share * loss, {"reward": share * mean}

    return optimizer_step(optimizer, microbatches(batch, accumulate), loss_of, config, scaler)


def expected_loss(
    model: ShowAttendTell,
    features: Tensor,
    batch: Batch,
    config: TrainConfig,
    reward: CiderD,
    samples: int,
    baseline: str,
) -> tuple[Tensor, float]:
    """A loss with minus the gradient of the expected reward, on average; and the mean reward."""
    options = replace(DRAWING, num_return_sequences=samples)
    with torch.no_grad(), autocast(config, features.device):
        drawn = _said(sample(model, features, options), model.end_id)
        rewards = _rewards(reward, batch, drawn).to(features.device)  # (B, S)
        if baseline == "greedy":
            options = replace(DRAWING, do_sample=False, beam_size=1)
            greedy = _said(beam_search(model, features, options), model.end_id)
            level = _rewards(reward, batch, greedy).to(features.device)  # (B, 1)
        else:
            level = (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)  # (B, S)
    lines = [words for group in drawn for words in group]
    captions, lengths = _as_batch(lines, model, features.device)
    with autocast(config, features.device):
        logits = model(features, captions, lengths).logits
    unsayable = {model.pad_id, model.start_id, model.unk_id} - {model.end_id, None}
    banned = torch.tensor(sorted(unsayable), dtype=torch.long, device=logits.device)
    logits = logits.index_fill(2, banned, float("-inf"))  # as when the captions were drawn
    loss = policy_gradient(logits, captions[:, 1:], lengths - 1, (rewards - level).flatten())
    return loss, rewards.mean().item()


def _rewards(reward: CiderD, batch: Batch, said: list[list[list[int]]]) -> Tensor:
    """float[B, S]: the reward of each of the captions said of each image."""
    pairs = zip(batch.indices.tolist(), said)
    return torch.tensor([[reward.score(i, words) for words in group] for i, group in pairs])


def _said(found: list[list[Hypothesis]], end_id: int) -> list[list[list[int]]]:
    """All that was said of each image: the end too, unless the step limit came before it."""
    return [
        [[*one.words, end_id] if one.finished else one.words for one in captions]
        for captions in found
    ]


def _as_batch(
    lines: list[list[int]], model: ShowAttendTell, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Captions int[N, T] with the start before each, padded, and their lengths int[N]."""
    rows = [torch.tensor([model.start_id, *line]) for line in lines]
    lengths = torch.tensor([len(row) for row in rows])
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.pad_id)
    return padded.to(device), lengths.to(device)
