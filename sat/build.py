"""From a config to a captioner; the only place where models meet configs."""

from __future__ import annotations

import dataclasses

import torch

from sat.config import ModelConfig, Preprocessing
from sat.data.vocabulary import Vocabulary
from sat.models.decoder import DecoderWithAttention
from sat.models.encoder import Encoder
from sat.models.show_attend_tell import ShowAttendTell


def build(config: ModelConfig, vocabulary: Vocabulary) -> ShowAttendTell:
    """A captioner for the words of `vocabulary`, its encoder loaded with the weights named."""
    encoder = Encoder(**dataclasses.asdict(config.encoder))
    encoder.to(memory_format=torch.channels_last)  # the same numbers, nearly twice as fast on CPUs
    decoder = DecoderWithAttention(
        vocab_size=len(vocabulary),
        encoder_dim=encoder.encoder_dim,
        **dataclasses.asdict(config.decoder),
    )
    return ShowAttendTell(
        encoder=encoder,
        decoder=decoder,
        start_id=vocabulary.start_id,
        end_id=vocabulary.end_id,
        pad_id=vocabulary.pad_id,
        unk_id=vocabulary.unk_id,
    )


def preprocessing_for(encoder: Encoder, *, size: int, resize: str) -> Preprocessing:
    """Pictures of this size, scaled as the encoder's weights were trained on."""
    return Preprocessing(size=size, resize=resize, mean=encoder.mean, std=encoder.std)  # type: ignore[arg-type]


def device_of(name: str) -> torch.device:
    """The device named; "auto" is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device is {name!r}, which does not work here ({reason}): use --device cpu"
        ) from error
    return device
