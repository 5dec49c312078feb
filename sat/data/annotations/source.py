"""`Source`, an annotation file or folder with the folders that its images are in."""

from __future__ import annotations

import codecs
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import orjson

from sat.data.annotations.names import Names, normalize

COCO_NAME = re.compile(r"(?:COCO_\w+?20\d\d_)?(\d{12}\.\w+)")
COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017")
HEAD_BYTES = 65536
LINES = (".jsonl", ".ndjson")


def check_exists(path: Path) -> None:
    """Raise `FileNotFoundError` unless it is a file or a folder; others could block for ever."""
    if not path.is_file() and not path.is_dir():
        raise FileNotFoundError(f"{path}: there is no such annotation file")


def read_text(path: Path, size: int = -1) -> str:
    """The text of a UTF-8 file (or UTF-16 with a byte order mark), without mark and NULs.

    `size` reads this many bytes only. Raises `ValueError` for another encoding.
    """
    check_exists(path)
    with path.open("rb") as file:
        content = file.read(size)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    decoder = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")()
    try:
        return decoder.decode(content, final=size < 0).replace("\0", "")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error}): save it as UTF-8") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file, with or without a byte order mark."""
    check_exists(path)
    content = path.read_bytes()
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            content = content.decode("utf-16").encode()
        return orjson.loads(content.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise ValueError(f"{path}: is not a UTF-8 JSON file ({error})") from error


class ImageFolders:
    """Finds the images that annotations name, and never outside its folders.

    An image is looked for in the folders `first`, then in `others`: under its whole name, then its
    last part, then COCO's other name for it (000000123456.jpg, COCO_train2014_000000123456.jpg).
    One that is nowhere is looked for with its accents in the other Unicode form, NFC or NFD.
    """

    def __init__(self, first: Sequence[Path], others: Sequence[Path] = ()) -> None:
        self._groups = [[str(folder) for folder in group] for group in (first, others)]
        self._roots = [
            f"{Path(os.path.abspath(folder)).as_posix().rstrip('/')}/"
            for folder in (*first, *others)
        ]
        self._name_of: dict[str, str] = {}
        self._names_in = cache(_names_in)  # lists each folder once

    def find(self, name: object, where: str) -> Path:
        """The path of an image; if it is missing, the path that it should have.

        Raises `ValueError` if the name leads out of the folders, stands for images of two folders,
        or for the same file as another name did.
        """
        wanted = self._relative(name, where)
        found = self._paths(wanted, exact=True)
        if not found and not wanted.isascii():
            found = self._paths(wanted, exact=False)
        if len(found) > 1:
            raise ValueError(
                f"{where}: {name!r} is both {found[0]} and {found[1]}: give their common"
                " parent as the image folder, and names with their folder"
            )
        if not found:
            return Path(self._groups[0][0], wanted)
        earlier = self._name_of.setdefault(found[0], wanted)
        if earlier != wanted:
            raise ValueError(
                f"{where}: {earlier!r} and {wanted!r} are both found at {found[0]}: "
                "give the folder that these names start from as the image folder"
            )
        return Path(found[0])

    def _paths(self, wanted: str, exact: bool) -> list[str]:
        """The paths of the likeliest name that is in the first folders, or else in the others."""
        for candidate in _candidates(wanted):
            for folders in self._groups:
                paths = {self._path(folder, candidate, exact) for folder in folders}
                if found := sorted(path for path in paths if path):
                    return found
        return []

    def _path(self, folder: str, name: str, exact: bool) -> str | None:
        """The path of an image in a folder, as the names on the way to it are stored."""
        below, last = posixpath.split(name)
        place = os.path.join(folder, below)
        if not exact and not os.path.isdir(place):
            place = folder
            for part in below.split("/"):
                place = os.path.join(place, self._names_in(place).find(part) or part)
        stored = self._names_in(place).find(last, exact=exact)
        return os.path.join(place, stored) if stored else None

    def _relative(self, name: object, where: str) -> str:
        """The name relative to the folders, with forward slashes."""
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise ValueError(f"{where}: {name!r} is no name of an image: give a file name")
        text = name.strip().replace("\\", "/")
        for root in self._roots:
            text = text.removeprefix(root)
            if not text.isascii() and normalize(text).startswith(normalize(root)):
                text = normalize(text).removeprefix(normalize(root))
        if text.startswith("/") or ".." in text.split("/") or re.match("[A-Za-z]:", text):
            raise ValueError(
                f"{where}: {name!r} leads out of the image folder: name images relative to it"
            )
        return posixpath.normpath(text)


def _names_in(folder: str) -> Names:
    with suppress(OSError, ValueError):  # no folder, or a name that no file system takes
        return Names(os.listdir(folder))
    return Names(())


def _candidates(name: str) -> Iterator[str]:
    """The names that an image may have in its folders, the likeliest first."""
    last = posixpath.basename(name)
    yield from dict.fromkeys([name, last])
    if match := COCO_NAME.fullmatch(last):
        twins = [match[1], *(f"COCO_{folder}_{match[1]}" for folder in COCO_FOLDERS[:2])]
        yield from twins
        yield from (f"{folder}/{twin}" for folder in COCO_FOLDERS for twin in (last, *twins))


@dataclass
class Source:
    """An annotation file or folder, as readers take it."""

    path: Path
    images: ImageFolders
    columns: Mapping[str, str]
    """own names of the columns "image", "caption", "split" and "image_id" """
    workspace: Callable[[], Path]
    """gives a folder for images that are unpacked, until they are prepared"""

    @cached_property
    def json(self) -> Any:
        """The value of the file, as JSON."""
        return read_json(self.path)

    @property
    def json_by_name(self) -> Any:
        """The value of a file whose name ends in .json; None for others, and for JSON lines."""
        return self.json if self.path.suffix.lower() == ".json" and not self.is_lines else None

    @cached_property
    def is_lines(self) -> bool:
        """True for JSON lines by the file's name, or a .json whose first line is a whole object."""
        if (suffix := self.path.suffix.lower()) != ".json":
            return suffix in LINES
        first, _, rest = self.head.strip().partition("\n")
        try:
            return bool(rest) and isinstance(orjson.loads(first), dict)
        except orjson.JSONDecodeError:
            return False

    @cached_property
    def head(self) -> str:
        """The beginning of the file's text; empty for a folder or a binary file."""
        try:
            return "" if self.path.is_dir() else read_text(self.path, HEAD_BYTES)
        except ValueError:
            return ""
