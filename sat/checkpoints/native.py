"""Checkpoint folders: config.json, model.safetensors, word_map.json, README.md.

A ViT + GPT-2 checkpoint has Hugging Face's layout (see `hugging_face`) and sat.json beside it. A
folder that can be resumed also holds trainer.pt. A folder appears whole or not at all: it is
written under a temporary name, flushed to the disk and renamed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from sat.atomic_io import check_space, naming_full_disk
from sat.checkpoints import show_attend_tell
from sat.checkpoints.atomic_folder import CONFIG, TRAINER, WEIGHTS, find_complete, replace_folder
from sat.checkpoints.atomic_folder import exists as exists
from sat.checkpoints.atomic_folder import remove as remove
from sat.checkpoints.integrity import KEY, check_digests, check_finite, digests
from sat.checkpoints.model_card import model_card
from sat.config.checks import to_dict
from sat.config.model import ModelConfig
from sat.hub import local_folder
from sat.models.base import CaptionModel
from sat.reading import check_regular, read_object, reading

Parts = tuple[CaptionModel, Any, ModelConfig]
"""model, vocabulary and config of a captioner"""
REMEDY = "copy the whole folder again, or use another checkpoint"


class Format(NamedTuple):
    """How the checkpoints of one family of models are written and read."""

    header: str
    """file that holds our config and the scores"""
    matches: Callable[[dict[str, Any]], bool]
    """whether the content of config.json is of this format"""
    title: Callable[[ModelConfig], str]
    """heading of the model card"""
    save: Callable[[Path, CaptionModel, Any, ModelConfig], None]
    load: Callable[[Path, dict[str, Any]], Parts]
    """from the folder and the content of its header, empty if Hugging Face wrote the folder"""
    load_weights: Callable[[CaptionModel, Path], None]


class Opened(NamedTuple):
    """A checkpoint folder that was found, its format, and our config and scores."""

    folder: Path
    form: Format
    header: dict[str, Any]


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
        with naming_full_disk(folder):
            _write(temporary, model, vocabulary, config, scores=scores or {}, trainer=trainer)
            replace_folder(temporary, folder)
    except (SafetensorError, RuntimeError) as error:  # raised by torch on a full disk
        raise OSError(f"{folder} cannot be written ({error}): make room, then --resume") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(
    folder: Path,
    model: CaptionModel,
    vocabulary: Any,
    config: ModelConfig,
    *,
    scores: dict[str, float],
    trainer: dict[str, Any] | None,
) -> None:
    form = FORMATS[config.family]
    check_finite(model, folder)
    needed = sum(value.nbytes for value in model.state_dict().values())
    check_space(folder, needed, "the weights", "make room, then --resume")
    form.save(folder, model, vocabulary, config)
    words, title = len(vocabulary), form.title(config)
    card = model_card(folder.name, title, words, config.preprocessing, scores)
    (folder / "README.md").write_text(card, encoding="utf-8")
    if trainer is not None:
        torch.save(trainer, folder / TRAINER)
    header = {"family": config.family, "model": to_dict(config), "scores": scores}
    header[KEY] = digests(folder, (WEIGHTS, TRAINER))
    (folder / form.header).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")


def load(folder: str | Path) -> Parts:
    """Load model, vocabulary and config of a checkpoint folder, in evaluation mode, on the CPU.

    It may be of the Hub: "user/name" or "user/name@revision". Raises `FileNotFoundError` or
    `ValueError` when the folder is no checkpoint, or its parts do not fit together.
    """
    found = _open(folder)
    with reading(found.folder, REMEDY):
        model, vocabulary, config = found.form.load(found.folder, found.header)
    _check_weights(model, found)
    return model, vocabulary, config


def load_weights(model: CaptionModel, folder: str | Path) -> None:
    """Fill the model strictly from the weights in a checkpoint folder."""
    found = _open(folder)
    with reading(found.folder, REMEDY):
        found.form.load_weights(model, found.folder)
    _check_weights(model, found)


def load_trainer(folder: str | Path) -> dict[str, Any]:
    """The `trainer` given to `save`; `FileNotFoundError` when the folder cannot be resumed."""
    found = _open(folder)
    path = found.folder / TRAINER
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: only a run's last/ can be resumed")
    check_digests(found.folder, found.header, TRAINER)
    with reading(path, "start the run again"):
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def scores(folder: str | Path) -> dict[str, float]:
    """The validation scores stored with a checkpoint."""
    found = _open(folder)
    with reading(found.folder / found.form.header, REMEDY):
        return {name: float(value) for name, value in found.header["scores"].items()}


def _check_weights(model: CaptionModel, found: Opened) -> None:
    """Raise `ValueError` for weights that are no numbers, or not those that were written."""
    check_finite(model, found.folder)
    check_digests(found.folder, found.header, WEIGHTS)


def _open(folder: str | Path) -> Opened:
    """The folder, of the Hub too, its format and header; `ValueError` where it holds pipes."""
    folder = find_complete(local_folder(folder))
    for path in folder.iterdir():
        if not path.is_dir():
            check_regular(path)
    config = read_object(folder / CONFIG, REMEDY)
    for form in FORMATS.values():
        if form.matches(config):
            own, path = form.header == CONFIG, folder / form.header
            header = config if own else read_object(path, REMEDY) if path.exists() else {}
            return Opened(folder, form, header)
    raise ValueError(
        f"{folder} holds a captioner of family {config.get('family')!r}: "
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
        load=lambda *parts: _hugging_face().load(*parts, family="vit_gpt2"),
        load_weights=lambda *parts: _hugging_face().load_weights(*parts),
    ),
}
"""by the family of the config; adding a family is one entry"""
