"""Self-critical training (Rennie et al. 2017): draw captions, reward those people would agree with.

B images, S captions drawn of each, T words, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sat.cider import CiderD
from sat.config import Decoding, Preprocessing, TrainConfig
from sat.data.batches import Batch
from sat.data.dataset import CaptionDataset
from sat.evaluate import features_of
from sat.generate import sample
from sat.losses import policy_gradient
from sat.models.show_attend_tell import ShowAttendTell


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
    options = Decoding(
        do_sample=True, num_return_sequences=samples, forbid_unknown=True, max_length=30
    )
    with (
        torch.no_grad(),
        torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"),
    ):
        drawn = sample(model, features, options, torch.default_generator)
    captions, lengths = _as_batch([one.words for group in drawn for one in group], model, device)
    rewards = torch.tensor(
        [
            [reward.score(image, [*one.words, model.end_id]) for one in group]
            for image, group in zip(batch.indices.tolist(), drawn)
        ],
        device=device,
    )  # (B, S)
    advantages = (rewards - (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)).flatten()
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        logits = model(features, captions, lengths).logits
    unsayable = torch.tensor([model.pad_id, model.start_id, model.unk_id], device=device)
    logits = logits.index_fill(2, unsayable, float("-inf"))  # as when the captions were drawn
    loss = policy_gradient(logits, captions[:, 1:], lengths - 1, advantages)
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"the self-critical loss is {loss.item()}")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.grad_clip > 0:
        learning = [weight for group in optimizer.param_groups for weight in group["params"]]
        nn.utils.clip_grad_norm_(learning, config.grad_clip)
    optimizer.step()
    return {"reward": rewards.mean().item()}


def _as_batch(
    lines: list[list[int]], model: ShowAttendTell, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Captions int[N, T] with start and end, padded, and their lengths int[N]."""
    rows = [torch.tensor([model.start_id, *line, model.end_id], device=device) for line in lines]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.pad_id)
    return padded, lengths
