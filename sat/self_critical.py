"""Self-critical training (Rennie et al. 2017): draw captions, reward those people would agree with.

B images, S captions drawn of each, T words, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sat.cider import CiderD
from sat.config import Decoding, Preprocessing
from sat.data.batches import Batch
from sat.data.dataset import CaptionDataset
from sat.epoch import autocast, descend
from sat.evaluate import features_of
from sat.generate import Hypothesis, sample
from sat.losses import policy_gradient
from sat.models.show_attend_tell import ShowAttendTell
from sat.recipe import TrainConfig

DRAWING = Decoding(do_sample=True, forbid_unknown=True, max_length=22)


def reward_of(dataset: CaptionDataset) -> CiderD:
    """CIDEr-D against the split's captions, as word numbers with the end word."""
    groups = dataset.captions.reshape(dataset.images, dataset.captions_per_image, -1)
    lengths = dataset.lengths.reshape(dataset.images, -1)
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
) -> dict[str, float]:
    """One step of the optimizer up the expected reward; returns the mean reward of the draws.

    Each image's captions are measured against the mean of its other ones (leave-one-out), which
    needs no greedy caption beside them. Dropout is off: what draws is exactly what learns.
    """
    model.eval()
    device = next(model.parameters()).device
    features = features_of(model, batch, preprocessing)
    options = replace(DRAWING, num_return_sequences=samples)
    with torch.no_grad(), autocast(config, device):
        drawn = [[_said(one, model.end_id) for one in g] for g in sample(model, features, options)]
    rewards = torch.tensor(
        [
            [reward.score(image, words) for words in group]
            for image, group in zip(batch.indices.tolist(), drawn)
        ],
        device=device,
    )  # (B, S)
    advantages = (rewards - (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)).flatten()
    captions, lengths = _as_batch([words for group in drawn for words in group], model, device)
    with autocast(config, device):
        logits = model(features, captions, lengths).logits
    unsayable = {model.pad_id, model.start_id, model.unk_id} - {model.end_id, None}
    banned = torch.tensor(sorted(unsayable), dtype=torch.long, device=device)
    logits = logits.index_fill(2, banned, float("-inf"))  # as when the captions were drawn
    loss = policy_gradient(logits, captions[:, 1:], lengths - 1, advantages)
    descend(optimizer, loss, config.grad_clip)
    return {"reward": rewards.mean().item()}


def _said(caption: Hypothesis, end_id: int) -> list[int]:
    """All that was drawn of a caption: the end too, unless the step limit came before it."""
    return [*caption.words, end_id] if caption.finished else caption.words


def _as_batch(
    lines: list[list[int]], model: ShowAttendTell, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Captions int[N, T] with the start before each, padded, and their lengths int[N]."""
    rows = [torch.tensor([model.start_id, *line]) for line in lines]
    lengths = torch.tensor([len(row) for row in rows])
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.pad_id)
    return padded.to(device), lengths.to(device)
