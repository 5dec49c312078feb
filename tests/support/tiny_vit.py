"""Small captioners of the family vit_gpt2, loud enough that a wrong state or mask shows."""

from __future__ import annotations

import torch
from torch import Tensor

from sat.config.model import ModelConfig, Preprocessing, VitGpt2Config
from sat.data.tokenizer import SubwordTokenizer
from sat.models.factory import build_model
from sat.models.vit_gpt2 import VitGpt2

SIZE = 32
CAPTIONS = [
    f"a {colour} {animal} {verb}"
    for colour in ("red", "green", "blue")
    for animal, verb in (("dog", "runs"), ("cat", "sleeps"), ("bird", "sings"))
]
ENCODERS = ("fresh:vit", "fresh:deit", "fresh:beit", "fresh:swin")
DECODERS = ("fresh:gpt2", "fresh:bert", "fresh:roberta")


class Words:
    """A vocabulary of a few nameless words; `one_special`: start, end and padding are one."""

    def __init__(self, size: int = 11, *, one_special: bool = False) -> None:
        self.size = size
        self.start_id, self.end_id, self.pad_id = (0, 0, 0) if one_special else (2, 3, 1)
        self.unk_id = None

    def __len__(self) -> int:
        return self.size


def subwords() -> SubwordTokenizer:
    """A byte-level BPE of the captions above."""
    return SubwordTokenizer.train(CAPTIONS, 300)


def config(**sizes: object) -> ModelConfig:
    values = {"encoder_width": 16, "decoder_width": 12, "encoder_heads": 2, "decoder_heads": 2}
    values |= {"encoder_layers": 2, "decoder_layers": 2, "patch_size": 8, "positions": 24}
    return ModelConfig(
        family="vit_gpt2",
        hf=VitGpt2Config(**values | sizes),  # type: ignore[arg-type]
        preprocessing=Preprocessing(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    )


def model(vocabulary: object = None, *, seed: int = 0, **sizes: object) -> VitGpt2:
    """An untrained one whose words depend on photo and words before, in evaluation mode."""
    made = build_model(config(**sizes), vocabulary or Words())  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3, generator=generator)
    return made.eval()


def features(made: VitGpt2, images: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return made.encode(torch.randn(images, 3, SIZE, SIZE, generator=generator))
