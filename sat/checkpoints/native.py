"""Checkpoint folders: config.json, model.safetensors, word_map.json, README.md.

A ViT + GPT-2 checkpoint has Hugging Face's layout (see `hugging_face`) and sat.json beside it. A
folder that can be resumed also holds trainer.pt. A folder appears whole or not at all: it is
written under a temporary name, flushed to the disk and renamed.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from sat.checkpoints import show_attend_tell
from sat.checkpoints.atomic_folder import CONFIG, TRAINER, WEIGHTS, find_complete, replace_folder
from sat.checkpoints.atomic_folder import exists as exists
from sat.checkpoints.atomic_folder import remove as remove
from sat.checkpoints.integrity import KEY, check_digests, check_finite, digests, read_json
from sat.checkpoints.model_card import model_card
from sat.config.checks import to_dict
from sat.config.model import ModelConfig
from sat.hub import local_folder
from sat.models.base import CaptionModel

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
        check_finite(model, folder)
        form.save(temporary, model, vocabulary, config)
        words, title = len(vocabulary), form.title(config)
        card = model_card(folder.name, title, words, config.preprocessing, scores)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if trainer is not None:
            torch.save(trainer, temporary / TRAINER)
        header = {"family": config.family, "model": to_dict(config), "scores": scores}
        header[KEY] = digests(temporary, (WEIGHTS, TRAINER))
        (temporary / form.header).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
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
    model, vocabulary, config = _format_of(folder).load(folder)
    _check_weights(model, folder)
    return model, vocabulary, config


def load_weights(model: CaptionModel, folder: str | Path) -> None:
    """Fill the model strictly from the weights in a checkpoint folder."""
    folder = find_complete(local_folder(folder))
    _format_of(folder).load_weights(model, folder)
    _check_weights(model, folder)


def load_trainer(folder: str | Path) -> dict[str, Any]:
    """The `trainer` given to `save`; `FileNotFoundError` when the folder cannot be resumed."""
    path = find_complete(folder) / TRAINER
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: only a run's last/ can be resumed")
    check_digests(path.parent, _header(path.parent), TRAINER)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read ({error}): start the run again") from error
    return state


def scores(folder: str | Path) -> dict[str, float]:
    """The validation scores stored with a checkpoint."""
    folder = find_complete(folder)
    found: dict[str, float] = read_json(folder / _format_of(folder).header)["scores"]
    return found


def _check_weights(model: CaptionModel, folder: Path) -> None:
    """Raise `ValueError` for weights that are no numbers, or not those that were written."""
    check_finite(model, folder)
    check_digests(folder, _header(folder), WEIGHTS)


def _header(folder: Path) -> dict[str, Any]:
    """Our config and scores; empty for a folder that Hugging Face wrote."""
    path = folder / _format_of(folder).header
    return read_json(path) if path.exists() else {}


def _format_of(folder: Path) -> Format:
    header = read_json(folder / CONFIG)
    for form in FORMATS.values():
        if form.matches(header):
            return form
    raise ValueError(
        f"{folder} holds a captioner of family {header.get('family')!r}: "
        f"this version reads {', '.join(FORMATS)}"
    )


def _hugging_face() -> ModuleType:
    """Reader and writer of Hugging Face's layout, imported only for such a checkpoint."""
    from sat.checkpoints import hugging_face

    return hugging_face


FORMATS = {
    "show_attend_tell": Format(
        header=CONFIG,
        matches=lambda header: header.get("family") == "show_attend_tell",
        title=lambda config: f"Show, Attend and Tell with {config.encoder.backbone}",
        save=show_attend_tell.save,
        load=show_attend_tell.load,
        load_weights=show_attend_tell.load_weights,
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
