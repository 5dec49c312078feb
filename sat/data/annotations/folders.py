"""Images with their captions beside them: photo.jpg and photo.txt, or webdataset's tar files."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import orjson

from sat.data.annotations.names import Names
from sat.data.annotations.record import Record
from sat.data.annotations.source import Source, read_text
from sat.data.annotations.splits import split_by_names
from sat.data.image_files import SUFFIXES

CAPTION_KEYS = ("caption", "captions", "text", "txt")
CAPTION_BYTES = 2**24
"""a longer text in a tar file is none"""


def recognize_texts(source: Source) -> bool:
    """True for a folder in which an image has a .txt of its name."""
    return source.path.is_dir() and any(text.is_file() for _, text in _images(source.path))


def read_texts(source: Source) -> Iterator[Record]:
    """The images of a folder and those below it; each line of an image's .txt is a caption.

    Folders named as splits (train, val, test) give the split.
    """
    split = split_by_names(source.path)
    for image, text in _images(source.path):
        below = image.relative_to(source.path).as_posix()
        lines = read_text(text).splitlines() if text.is_file() else []
        captions = tuple(line for line in lines if line)
        yield Record(below, image, split(below), (), captions)


def _images(folder: Path) -> list[tuple[Path, Path]]:
    """The images of a folder, those below it and those of links, each with the path of its text."""
    found: list[tuple[Path, Path]] = []
    seen: set[str] = set()
    pending = [folder]
    while pending:
        links: list[Path] = []
        for place, below, names in chain.from_iterable(map(os.walk, sorted(pending))):
            if (real := os.path.realpath(place)) in seen:
                below.clear()
                continue
            seen.add(real)
            links += [path for name in below if (path := Path(place, name)).is_symlink()]
            stored = Names(names)
            for image in (Path(place, name) for name in names if not name.startswith(".")):
                if image.suffix.lower() in SUFFIXES:
                    text = image.with_suffix(".txt")
                    found.append((image, text.with_name(stored.find(text.name) or text.name)))
        pending = links
    return sorted(found)


def read_shards(source: Source) -> Iterator[Record]:
    """The images of webdataset's shards, unpacked to a temporary folder.

    Files of one sample share their name up to the first dot: 000017.jpg with 000017.txt (a caption)
    or 000017.json (with "caption", "captions" or "text"). Names of files and folders
    tell the split.
    """
    found, folder = shards(source.path), source.workspace()
    for shard in found:
        paths, captions = _unpack(shard, folder / shard.stem)
        split = split_by_names(shard)
        for key, path in paths.items():
            name = key if len(found) == 1 else f"{shard.stem}/{key}"
            texts = captions.get(key, [])  # img2dataset has each in .txt and .json
            once = tuple(text for i, text in enumerate(texts) if text not in texts[:i])
            yield Record(name, path, split(key), (), once)


def shards(path: Path) -> list[Path]:
    """A tar file, or those of a folder."""
    found = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    return [shard for shard in found if shard.suffix.lower() == ".tar"]


def _unpack(shard: Path, folder: Path) -> tuple[dict[str, Path], dict[str, list[Any]]]:
    """Write the images of a shard to `folder`; return their paths and the captions by key.

    Slashes in keys are quoted, so that none leads elsewhere; nothing but plain files is read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    captions: dict[str, list[Any]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                stem, _, ending = name.name.partition(".")
                key, suffix = str(name.with_name(stem)) if stem else "", f".{ending.lower()}"
                content = archive.extractfile(member) if member.isreg() and key else None
                if content is None or member.issparse():
                    continue
                if suffix in SUFFIXES:
                    if key in paths:
                        raise ValueError(f"{shard}: holds two images of the key {key!r}")
                    paths[key] = folder / f"{quote(key, safe=' ')}{suffix}"
                    paths[key].write_bytes(content.read())
                elif suffix in (".txt", ".json", ".caption") and member.size < CAPTION_BYTES:
                    where = f"{shard}: {member.name}"
                    captions.setdefault(key, []).extend(_texts(content.read(), suffix, where))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{shard}: there is no such annotation file") from error
    except tarfile.TarError as error:
        raise ValueError(f"{shard}: is not a whole tar file ({error})") from error
    return paths, captions


def _texts(content: bytes, suffix: str, where: str) -> list[Any]:
    """The captions of a .txt (one a line) or a .json."""
    try:
        if suffix != ".json":
            return [line for line in content.decode("utf-8-sig").splitlines() if line]
        value = orjson.loads(content)
    except ValueError as error:
        raise ValueError(f"{where} cannot be read ({error})") from error
    if isinstance(value, dict):
        value = next((value[key] for key in CAPTION_KEYS if key in value), [])
    return value if isinstance(value, list) else [value]
