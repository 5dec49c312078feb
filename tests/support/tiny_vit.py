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
PLAIN = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = PLAIN | {"intermediate_size": 64, "patch_size": 8}
ENCODERS: dict[str, dict] = {
    "fresh:vit": VISION,
    "fresh:deit": VISION,
    "fresh:beit": VISION | {"use_absolute_position_embeddings": True},
    "fresh:swin": {
        "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "patch_size": 8
    },
}  # fmt: skip
BERT = PLAIN | {"hidden_size": 12, "intermediate_size": 48, "max_position_embeddings": 24}
DECODERS: dict[str, dict] = {
    "fresh:gpt2": {"n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 24},
    "fresh:bert": BERT,
    "fresh:roberta": BERT | {"max_position_embeddings": 26},  # it counts from after the padding
}


BART = {
    "d_model": 12,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 24,
}
OTHER_DECODERS: dict[str, dict] = {"fresh:mbart": BART, "fresh:trocr": BART}
"""without dropouts of those names; TrOCR has eager attention only"""


class Words:
    """A vocabulary of a few nameless words; `one_special`: start, end and padding are `special`."""

    def __init__(self, size: int = 11, *, one_special: bool = False, special: int = 0) -> None:
        self.size = size
        one = (special, special, special)
        self.start_id, self.end_id, self.pad_id = one if one_special else (2, 3, 1)
        self.unk_id = None

    def __len__(self) -> int:
        return self.size


def subwords() -> SubwordTokenizer:
    """A byte-level BPE of the captions above."""
    return SubwordTokenizer.train(CAPTIONS, 300)


def config(
    encoder: str = "fresh:vit",
    decoder: str = "fresh:gpt2",
    decoder_config: dict | None = None,
    **values: object,
) -> ModelConfig:
    """That of small parts; `decoder_config` holds changes of the decoder's."""
    hf = VitGpt2Config(
        encoder=encoder,
        decoder=decoder,
        encoder_config=ENCODERS.get(encoder, {}),
        decoder_config=(DECODERS | OTHER_DECODERS).get(decoder, {}) | (decoder_config or {}),
        **values,  # type: ignore[arg-type]
    )
    preprocessing = Preprocessing(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return ModelConfig(family="vit_gpt2", hf=hf, preprocessing=preprocessing)


def model(vocabulary: object = None, *, seed: int = 0, **values: object) -> VitGpt2:
    """An untrained one whose words depend on photo and words before, in evaluation mode."""
    made = build_model(config(**values), vocabulary or Words())  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3, generator=generator)
    return made.eval()


def features(made: VitGpt2, images: int = 3, seed: int = 1) -> Tensor:
    """float[B, P, D] of random images, in the precision of the weights."""
    pixels = torch.randn(images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return made.encode(pixels.to(next(made.parameters()).dtype))
