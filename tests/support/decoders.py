"""Small decoders of every choice, with weights large enough for each part to matter."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sat.models.decoder import DecoderWithAttention

CHOICES: dict[str, tuple[str, ...]] = {
    "activation": ("tanh", "relu"),
    "gate": ("vector", "scalar", "none"),
    "initial_state": ("tanh", "linear"),
    "output": ("deep", "linear"),
}
MORE: list[dict[str, Any]] = [
    {"attention_depth": 2},
    {"attention_depth": 2, "activation": "relu", "test_attention": "argmax"},
    {"test_attention": "argmax", "gate": "scalar"},
    {"dropout_sites": ("mean", "hidden", "readout")},
    {"dropout_sites": ("mean",), "output": "linear"},
    {"dropout_sites": ()},
]
EVERY_CHOICE: list[dict[str, Any]] = [
    dict(zip(CHOICES, pick)) for pick in itertools.product(*CHOICES.values())
]
EVERY_CHOICE += [EVERY_CHOICE[0] | others for others in MORE]
SIZES: dict[str, Any] = {
    "attention_dim": 7,
    "embed_dim": 5,
    "decoder_dim": 6,
    "vocab_size": 11,
    "encoder_dim": 4,
}

each_choice = pytest.mark.parametrize(
    "choices", EVERY_CHOICE, ids=lambda choices: "-".join(map(str, choices.values()))
)


def random_decoder(**choices: Any) -> DecoderWithAttention:
    """A decoder of `SIZES` with normal weights, in evaluation mode."""
    torch.manual_seed(3)
    decoder = DecoderWithAttention(**SIZES, **choices)
    for weight in decoder.parameters():
        nn.init.normal_(weight, std=0.7)
    return decoder.eval()


def random_batch() -> tuple[Tensor, Tensor]:
    """Features float[4, 10, 4] and captions int[4, 9] of the words of `SIZES`."""
    random = torch.Generator().manual_seed(8)
    features = torch.randn(4, 10, 4, generator=random)
    return features, torch.randint(11, (4, 9), generator=random)
