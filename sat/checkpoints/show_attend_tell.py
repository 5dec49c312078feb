"""Checkpoints of the recurrent captioner: model.safetensors, and word_map.json or a tokenizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sat.checkpoints.atomic_folder import CONFIG, WEIGHTS
from sat.checkpoints.integrity import restore_config
from sat.config.model import ModelConfig
from sat.data.dataset import vocabulary_of
from sat.data.vocabulary import Vocabulary
from sat.models.base import CaptionModel
from sat.models.factory import build_model
from sat.reading import reading

HEADER = CONFIG
"""file that holds our config and the scores"""
WORD_MAP, TOKENIZER = Vocabulary.FILE, "tokenizer.json"
SCALE = ".scale"
"""suffix to the name of a matrix of int8: the scales of its rows"""


def title(config: ModelConfig) -> str:
    """The heading of the model card."""
    return f"Show, Attend and Tell with {config.encoder.backbone}"


def save(folder: Path, model: CaptionModel, vocabulary: Any, config: ModelConfig) -> None:
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    vocabulary.save(folder / vocabulary.FILE)


def load(
    folder: Path, _family: str, header: dict[str, Any]
) -> tuple[CaptionModel, Any, ModelConfig]:
    """Model, vocabulary and config; `ValueError` where they do not fit together."""
    config = restore_config(folder / CONFIG, header)
    words, tokenizer = folder / WORD_MAP, folder / TOKENIZER
    if not words.exists() and not tokenizer.exists():
        raise FileNotFoundError(f"{words} does not exist: copy the whole folder")
    vocabulary = vocabulary_of(words, tokenizer)
    encoder = dataclasses.replace(config.encoder, weights="none")  # the folder holds its weights
    model: CaptionModel = build_model(dataclasses.replace(config, encoder=encoder), vocabulary)
    load_weights(model, folder)
    return model.eval(), vocabulary, config


def load_weights(model: CaptionModel, folder: Path) -> None:
    """Fill the model strictly with the folder's weights."""
    path, words = folder / WEIGHTS, "decoder.embedding.weight"
    with reading(path, "copy the whole folder again, or use another checkpoint"):
        weights = dequantize(load_file(path))
    own = model.state_dict()
    if words in weights and words in own and len(weights[words]) != len(own[words]):
        raise ValueError(
            f"{folder}: word map has {len(own[words])} words, checkpoint expects "
            f"{len(weights[words])}: "
            "pass the word map it was trained with"
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} is of another architecture than {folder / CONFIG} says: {error}"
        ) from error


def dequantize(quantized: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in single precision, of those that `tools/export_checkpoint.py` quantized or not."""
    weights = {}
    for name, value in quantized.items():
        if name + SCALE in quantized:
            weights[name] = value.float() * quantized[name + SCALE]
        elif not name.endswith(SCALE):
            weights[name] = value.float() if value.is_floating_point() else value
    return weights
