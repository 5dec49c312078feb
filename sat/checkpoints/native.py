"""Checkpoint folders: config.json, model.safetensors, word_map.json, README.md.

A ViT + GPT-2 checkpoint has Hugging Face's layout (see `hugging_face`) and sat.json beside it. A
folder that can be resumed also holds trainer.pt. A folder appears whole or not at all: it is
written under a temporary name, flushed to the disk and renamed.
"""

from __future__ import annotations

import importlib
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sat.atomic_io import write_json
from sat.checkpoints.atomic_folder import CONFIG, TRAINER, WEIGHTS, find_complete, replace_folder
from sat.checkpoints.atomic_folder import exists as exists
from sat.checkpoints.atomic_folder import remove as remove
from sat.checkpoints.integrity import KEY, check_digests, check_finite, digests, read_json
from sat.config.checks import to_dict
from sat.config.model import ModelConfig, Preprocessing
from sat.hub import local_folder
from sat.models.base import CaptionModel

Parts = tuple[CaptionModel, Any, ModelConfig]
"""model, vocabulary and config of a captioner"""

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
        form, scores = importlib.import_module(FORMATS[config.family]), scores or {}
        check_finite(model, folder)
        form.save(temporary, model, vocabulary, config)
        words, title = len(vocabulary), form.title(config)
        card = model_card(folder.name, title, words, config.preprocessing, scores)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if trainer is not None:
            torch.save(trainer, temporary / TRAINER)
        header = {"family": config.family, "model": to_dict(config), "scores": scores}
        header[KEY] = digests(temporary, (WEIGHTS, TRAINER))
        write_json(temporary / form.HEADER, header)
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
    form, family = _format_of(folder)
    parts: Parts = form.load(folder, family)
    _check_weights(parts[0], folder)
    return parts


def load_weights(model: CaptionModel, folder: str | Path) -> None:
    """Fill the model strictly from the weights in a checkpoint folder."""
    folder = find_complete(local_folder(folder))
    _format_of(folder)[0].load_weights(model, folder)
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
    return dict(_header(find_complete(folder))["scores"])


def _check_weights(model: CaptionModel, folder: Path) -> None:
    """Raise `ValueError` for weights that are no numbers, or not those that were written."""
    check_finite(model, folder)
    check_digests(folder, _header(folder), WEIGHTS)


def _header(folder: Path) -> dict[str, Any]:
    """Our config and scores; empty for a folder that Hugging Face wrote."""
    path = folder / _format_of(folder)[0].HEADER
    return read_json(path) if path.exists() else {}


def _format_of(folder: Path) -> tuple[Any, str]:
    """The module that reads the folder, and the family of its captioner."""
    header = read_json(folder / CONFIG)
    families = (family for family, (key, value) in MARKS.items() if header.get(key) == value)
    family = next(families, None)
    if family is None:
        raise ValueError(
            f"{folder} holds a captioner of family {header.get('family')!r}: "
            f"this version reads {', '.join(FORMATS)}"
        )
    return importlib.import_module(FORMATS[family]), family


def model_card(
    name: str, title: str, words: int, preprocessing: Preprocessing, scores: dict[str, float]
) -> str:
    """The README.md that the Hub shows: title, use of the folder `name`, preprocessing, scores."""
    rows = "".join(f"| {metric} | {value:.4f} |\n" for metric, value in scores.items())
    return (
        "---\nlibrary_name: sat\npipeline_tag: image-to-text\n---\n\n"
        f"# {title}\n\n"
        f"{words} words; {preprocessing.size} px images ({preprocessing.resize}).\n\n"
        "```python\nimport sat\n\n"
        f'captioner = sat.load("{name}")\n'
        'result = captioner.caption("photo.jpg")\n'
        "print(result.text)\n```\n" + (f"\n| validation | |\n| --- | --- |\n{rows}" if rows else "")
    )
