"""Whether the files of a checkpoint are those that were written, and its weights are numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sat.config.checks import from_dict
from sat.config.model import ModelConfig
from sat.models.base import CaptionModel
from sat.reading import reading

KEY = "sha256"
"""of the digests, in the file that holds the config"""


def digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The SHA-256 of each of the files that the folder has."""
    found = {}
    for name in names:
        if (folder / name).exists():
            digest = hashlib.sha256()
            with open(folder / name, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
            found[name] = digest.hexdigest()
    return found


def check_digests(folder: Path, header: dict[str, Any], *names: str) -> None:
    """Raise `ValueError` where a file is not the one that was written with the config."""
    known = header.get(KEY)
    for name, found in digests(folder, names).items():
        if isinstance(known, dict) and known.get(name, found) != found:
            raise ValueError(
                f"{folder / name} is not the file that was written ({KEY} {found[:16]}… differs): "
                f"copy it again, or delete {KEY} from the config if you changed it on purpose"
            )


def check_finite(model: CaptionModel, where: str | Path) -> None:
    """Raise `ValueError` where a weight is NaN or infinite."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(
                f"{where}: the weights {name} hold NaN or infinite numbers: use another "
                "checkpoint, or lower the learning rate and train again"
            )


def restore_config(path: Path, header: dict[str, Any]) -> ModelConfig:
    """The config that a checkpoint's file holds; `ValueError` if it is none."""
    with reading(path, "copy the whole folder again, or use another checkpoint"):
        return from_dict(ModelConfig, header["model"])
