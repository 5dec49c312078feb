"""Checkpoint folders: config.json, model.safetensors, word_map.json, README.md.

A ViT + GPT-2 checkpoint has Hugging Face's layout (see `hugging_face`) and sat.json beside it. A
folder that can be resumed also holds trainer.pt. A folder appears whole or not at all: it is
written under a temporary name, flushed to the disk and renamed.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from sat.atomic_io import check_space, naming_full_disk, write_json
from sat.checkpoints.atomic_folder import (
    CONFIG,
    WEIGHTS,
    find_complete,
    folder_to_replace,
    replace_folder,
)
from sat.checkpoints.atomic_folder import exists as exists
from sat.checkpoints.atomic_folder import remove as remove
from sat.checkpoints.integrity import KEY, check_digests, check_finite, digests
from sat.config.checks import to_dict
from sat.config.model import ModelConfig, Preprocessing
from sat.hub import CARD, OWN, TRAINER, local_folder, model_card
from sat.models.base import CaptionModel
from sat.reading import check_regular, read_object, reading

Parts = tuple[CaptionModel, Any, ModelConfig]
"""model, vocabulary and config of a captioner"""
REMEDY = "copy the whole folder again, or use another checkpoint"

FORMATS = {
    "show_attend_tell": "sat.checkpoints.show_attend_tell",
    "vit_gpt2": "sat.checkpoints.hugging_face",
}
"""the module that writes and reads the checkpoints of each family, imported when it is needed"""
MARKS = {
    "show_attend_tell": ("family", "show_attend_tell"),
    "vit_gpt2": ("model_type", "vision-encoder-decoder"),  # config.json is Hugging Face's own
}
"""key and value of the config.json of each family"""


class Opened(NamedTuple):
    """A checkpoint folder that was found."""

    folder: Path
    form: Any
    """the module that reads it"""
    family: str
    header: dict[str, Any]
    """our config and scores; empty if Hugging Face wrote the folder"""


def save(
    folder: str | Path,
    model: CaptionModel,
    vocabulary: Any,
    config: ModelConfig,
    *,
    scores: dict[str, float] | None = None,
    trainer: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder in place of any earlier one; `trainer` is the state to resume.

    Other files in the folder are kept.
    """
    folder, scores = folder_to_replace(folder), scores or {}
    check_finite(model, folder.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.with_name(f".{folder.name}.tmp")  # one name, so that no kill leaves many
    shutil.rmtree(new, ignore_errors=True)
    needed = sum(value.nbytes for value in model.state_dict().values())
    check_space(folder.parent, needed, f"the weights of {folder.name}", "make room, then --resume")
    form = importlib.import_module(FORMATS[config.family])
    new.mkdir()
    try:
        with naming_full_disk(folder):
            form.save(new, model, vocabulary, config)
            card = (form.title(config), len(vocabulary), config.preprocessing, scores)
            (new / CARD).write_text(_card(folder.name, *card), encoding="utf-8")
            if trainer is not None:
                torch.save(trainer, new / TRAINER)
            header = {"family": config.family, "model": to_dict(config), "scores": scores}
            header[KEY] = digests(new, (WEIGHTS, TRAINER))
            write_json(new / form.HEADER, header)
            replace_folder(new, folder, OWN)
    except (SafetensorError, RuntimeError) as error:  # raised by torch on a full disk
        raise OSError(f"{folder} cannot be written ({error}): make room, then --resume") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def load(folder: str | Path) -> Parts:
    """Load model, vocabulary and config of a checkpoint folder, in evaluation mode, on the CPU.

    It may be of the Hub: "user/name" or "user/name@revision". Raises `FileNotFoundError` or
    `ValueError` when the folder is no checkpoint, or its parts do not fit together.
    """
    found = _open(folder)
    with reading(found.folder, REMEDY):
        parts: Parts = found.form.load(found.folder, found.family, found.header)
    _check_weights(parts[0], found)
    return parts


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
    with reading(found.folder / found.form.HEADER, REMEDY):
        return {name: float(value) for name, value in found.header["scores"].items()}


def _check_weights(model: CaptionModel, found: Opened) -> None:
    """Raise `ValueError` for weights that are no numbers, or not those that were written."""
    check_finite(model, found.folder)
    check_digests(found.folder, found.header, WEIGHTS)


def _open(folder: str | Path) -> Opened:
    """The folder, of the Hub too, and what it says; `ValueError` where it holds pipes."""
    folder = find_complete(local_folder(folder))
    for path in folder.iterdir():
        if not path.is_dir():
            check_regular(path)
    config = read_object(folder / CONFIG, REMEDY)
    families = (family for family, (key, value) in MARKS.items() if config.get(key) == value)
    family = next(families, None)
    if family is None:
        raise ValueError(
            f"{folder} holds a captioner of family {config.get('family')!r}: "
            f"this version reads {', '.join(FORMATS)}"
        )
    form = importlib.import_module(FORMATS[family])
    if form.HEADER != CONFIG:
        path = folder / form.HEADER
        config = read_object(path, REMEDY) if path.exists() else {}
    return Opened(folder, form, family, config)


def _card(
    name: str, title: str, words: int, preprocessing: Preprocessing, scores: dict[str, float]
) -> str:
    """The model card: title, preprocessing, use of the folder `name`, scores."""
    about = f"{words} words; {preprocessing.size} px images ({preprocessing.resize})."
    rows = "".join(f"| {metric} | {value:.4f} |\n" for metric, value in scores.items())
    return model_card(name, title, about, rows and f"| validation | |\n| --- | --- |\n{rows}")
