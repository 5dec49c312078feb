"""The manifest of a prepared set: which files belong together, by their content.

It lands last. While files are being replaced it says so, and a set that is a mix of two preparings
is refused by name. The tutorial's folders, and older ones of ours, have none and are read as ever.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sat.atomic_io import write_json
from sat.reading import read_object, reading

SUFFIXES = {"IMAGES": ".hdf5", "CAPTIONS": ".json", "CAPLENS": ".json", "REFERENCES": ".json"}
"""kinds of files of a split"""
BLOCK, BLOCKS = 4096, 256
"""bytes of a block, and blocks that are read of a large file, evenly spread"""
AGAIN = "prepare the data again with --overwrite"


def manifest_path(folder: Path, name: str) -> Path:
    """The file of the manifest of the set `name`."""
    return folder / f"MANIFEST_{name}.json"


def write_manifest(folder: Path, name: str, files: Iterable[str], settings: dict[str, Any]) -> None:
    """Say that the set is whole: the content of its files, and the settings they were made with."""
    content = {file: fingerprint(folder / file) for file in sorted(files)}
    value = {"whole": True, "settings": settings, "files": content}
    write_json(manifest_path(folder, name), value)


def begin_replacing(folder: Path, name: str) -> None:
    """Say that the files of the set are being replaced."""
    write_json(manifest_path(folder, name), {"whole": False})


def check_manifest(folder: Path, name: str, files: Iterable[Path]) -> None:
    """Raise `ValueError` where a file is not the one that its manifest names, if there is one."""
    manifest = _read(folder, name)
    for path in files:
        known = (manifest or {}).get("files", {}).get(path.name)
        if known is not None and path.is_file() and known != fingerprint(path):
            raise ValueError(
                f"{path} is not the file that was prepared with the others of {name}: prepare them "
                f"again with --overwrite, or delete {manifest_path(folder, name).name} if it was "
                "changed on purpose"
            )


def data_fingerprint(folder: str | Path, name: str) -> str | None:
    """One fingerprint of all files of a set; None where it has no manifest."""
    manifest = _read(Path(folder), name)
    if manifest is None:
        return None
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size and of blocks spread evenly over it; of all of a small file."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= BLOCK * BLOCKS:
            found.update(file.read())
        else:
            for i in range(BLOCKS):
                file.seek(i * (size - BLOCK) // (BLOCKS - 1))
                found.update(file.read(BLOCK))
    return found.hexdigest()


def _read(folder: Path, name: str) -> dict[str, Any] | None:
    """The manifest, or None; `ValueError` where the set is not whole."""
    path = manifest_path(folder, name)
    if not os.path.exists(path):
        return None
    manifest = read_object(path, AGAIN)
    with reading(path, AGAIN):
        whole = manifest["whole"] and dict(manifest["files"])
    if not whole:
        raise ValueError(
            f"{folder}: the preparing of {name} was interrupted, its files may be of two sets: "
            f"{AGAIN}"
        )
    return manifest
