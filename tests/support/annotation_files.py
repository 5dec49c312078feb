"""Writes annotation files and empty image files, and reads them as create_input_files.py does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sat.data.annotations.formats import read_annotations
from sat.data.annotations.record import Record


def touch(folder: Path, *names: str) -> Path:
    """Make empty files of these names, and the folders they are in."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def read(
    paths: Path | list[Path], *folders: Path, workspace: Any = None, **options: Any
) -> list[Record]:
    """The records of one file or several."""
    paths = paths if isinstance(paths, list) else [paths]
    return read_annotations(paths, folders, workspace, **options)


def raw_by_name(records: list[Record]) -> dict[str, list[str]]:
    """The raw captions of each image, by its file name."""
    return {record.path.name: list(record.raw) for record in records}


def split_by_name(records: list[Record]) -> dict[str, str | None]:
    return {record.path.name: record.split for record in records}
