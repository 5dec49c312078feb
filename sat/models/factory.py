"""From a config to a captioner; the only place where models meet configs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import nn

from sat.config.model import ModelConfig, Preprocessing
from sat.data.vocabulary import Vocabulary
from sat.models.decoder import DecoderWithAttention
from sat.models.encoder import Encoder
from sat.models.hf_configs import decoder_values, encoder_values
from sat.models.show_attend_tell import ShowAttendTell

if TYPE_CHECKING:
    from sat.models.vit_gpt2 import VitGpt2


def build_model(config: ModelConfig, vocabulary: Vocabulary) -> ShowAttendTell | VitGpt2:
    """A captioner for the words of `vocabulary`, its parts loaded with the weights named."""
    return BUILDERS[config.family](config, vocabulary)


def _show_attend_tell(config: ModelConfig, vocabulary: Vocabulary) -> ShowAttendTell:
    encoder = Encoder(**dataclasses.asdict(config.encoder))
    encoder.to(memory_format=torch.channels_last)  # the same numbers, nearly twice as fast on CPUs
    decoder = DecoderWithAttention(
        vocab_size=len(vocabulary),
        encoder_dim=encoder.encoder_dim,
        encoded_image_size=config.encoder.encoded_image_size,
        **dataclasses.asdict(config.decoder),
    )
    return ShowAttendTell(encoder=encoder, decoder=decoder, **_special_ids(vocabulary))


def _vit_gpt2(config: ModelConfig, vocabulary: Vocabulary) -> VitGpt2:
    from sat.models.vit_gpt2 import build_encoder_decoder

    hf, size, ids = config.hf, config.preprocessing.size, _special_ids(vocabulary)
    decoder = {"vocab_size": len(vocabulary)} | {k: i for k, i in ids.items() if k != "unk_id"}
    network = build_encoder_decoder(
        hf.encoder,
        hf.decoder,
        image_size=size,
        fresh_encoder=encoder_values(
            hf.encoder,
            image_size=size,
            patch_size=hf.patch_size,
            layers=hf.encoder_layers,
            width=hf.encoder_width,
            heads=hf.encoder_heads,
        ),
        fresh_decoder=decoder_values(
            hf.decoder,
            positions=hf.positions,
            layers=hf.decoder_layers,
            width=hf.decoder_width,
            heads=hf.decoder_heads,
            dropout=hf.dropout,
            **decoder,
        ),
        **decoder,
    )
    return wrap_network(network, config, vocabulary)


def wrap_network(network: nn.Module, config: ModelConfig, vocabulary: Vocabulary) -> VitGpt2:
    """The captioner around a network that Hugging Face's own functions built or read."""
    from sat.models.vit_gpt2 import VitGpt2

    return VitGpt2(
        network,
        attention_layer=config.hf.attention_layer,
        attention_head=config.hf.attention_head,
        **_special_ids(vocabulary),
    )


def _special_ids(vocabulary: Vocabulary) -> dict[str, int]:
    names = ("start_id", "end_id", "pad_id", "unk_id")
    return {name: getattr(vocabulary, name) for name in names}


BUILDERS = {"show_attend_tell": _show_attend_tell, "vit_gpt2": _vit_gpt2}


def preprocessing_for(encoder: Encoder, *, size: int, resize: str) -> Preprocessing:
    """Pictures of this size, scaled as the encoder's weights were trained on."""
    return Preprocessing(size=size, resize=resize, mean=encoder.mean, std=encoder.std)  # type: ignore[arg-type]
