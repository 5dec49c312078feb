"""Rows with named columns: CSV, TSV, JSON lines and lists, and folders with metadata files."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from sat.data.annotations.delimited import read_header, split_rows
from sat.data.annotations.record import Record
from sat.data.annotations.source import Source, read_text
from sat.data.annotations.splits import split_by_names

Row = tuple[str, Any]
"""where the row stands, for messages, and its values by column, a dict"""

COLUMNS = {
    "image": (
        *("image", "file_name", "filename", "image_name", "image_path", "image_file", "filepath"),
        *("img", "img_path", "path", "file", "photo", "images"),
    ),
    "caption": (
        *("caption", "captions", "text", "texts", "comment", "sentence", "sentences", "raw"),
        *("description", "conversations", "messages"),
    ),
    "split": ("split", "fold", "subset"),
    "image_id": ("image_id", "cocoid"),
}
"""the names that a column is known by, the likeliest first"""
NUMBERED_CAPTION = re.compile(r"(caption|text|comment|sentence)[ _]?\d+")
METADATA = ("metadata.jsonl", "metadata.csv")
TABLES = (".csv", ".tsv", ".txt", ".psv")


def recognize_table(source: Source) -> bool:
    """True for a text file whose first line names columns of images and captions."""
    if source.path.suffix.lower() not in TABLES:
        return False
    header, delimiter = read_header(source.head)
    names = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), [])]
    given = source.columns.get("image", "").lower()
    return len(names) > 1 and any(name in (given, *COLUMNS["image"]) for name in names)


def read_table(source: Source) -> Iterator[Record]:
    """The images of a CSV, TSV or |-separated file whose first line names the columns."""
    return _group_rows(_table_rows(source.path, source), source)


def read_lines(source: Source) -> Iterator[Record]:
    """The images of a file with one JSON object a line."""
    return _group_rows(_line_rows(source.path), source)


def recognize_list(source: Source) -> bool:
    """True for a JSON list of objects, or an object of image: captions."""
    content = source.json_by_name or None
    if isinstance(content, dict):
        return all(isinstance(value, (str, list)) and "." in key for key, value in content.items())
    return isinstance(content, list) and isinstance(content[0], dict)


def read_list(source: Source) -> Iterator[Record]:
    """The images of a list as BLIP, LAVIS and LLaVA have it: [{"image": …, "caption": …}, …].

    A caption is a text or a list of them; of a conversation it is the first answer. An object
    {name: captions} is read too.
    """
    content = source.json
    if isinstance(content, dict):
        content = [{"image": name, "caption": captions} for name, captions in content.items()]
    if not isinstance(content, list):
        raise ValueError(f"{source.path}: is no list of objects with an image and a caption")
    items = ((f"{source.path}: item {number}", item) for number, item in enumerate(content))
    return _group_rows(items, source)


def read_metadata(source: Source) -> Iterator[Record]:
    """The images of a folder as Hugging Face's imagefolder has it; `file_name` is relative to it.

    Folders named as splits (train, validation, test) give the split.
    """
    for path in metadata(source.path):
        below = path.parent.relative_to(source.path)
        rows = _line_rows(path) if path.suffix == ".jsonl" else _table_rows(path, source)
        yield from _group_rows(rows, source, below)


def metadata(folder: Path) -> list[Path]:
    """The files metadata.jsonl and metadata.csv of a folder, at its top or one level below."""
    return [
        path
        for name in METADATA
        for path in sorted([*folder.glob(name), *folder.glob(f"*/{name}")])
    ]


def _table_rows(path: Path, source: Source) -> Iterator[Row]:
    """The rows of a table. Surplus fields are a caption's, if its column is the last."""
    text = read_text(path)
    _, delimiter = read_header(text)
    rows = split_rows(text, path)
    names = [name.strip() for name in next(rows, ("", []))[1]]
    last = len(names) - 1
    caption_is_last = _caption_columns(names, source) == names[last:]
    for where, fields in rows:
        if len(fields) > len(names):
            if not caption_is_last:
                raise ValueError(
                    f"{where} has {len(fields)} fields, the header {len(names)}: quote the captions"
                )
            fields[last:] = [delimiter.join(fields[last:])]
        # Flickr30k's results.csv has one line that lacks its second bar
        if len(fields) == last and (cut := re.match(r"\s*(\d+)\s+(.+)", fields[-1])):
            fields[-1:] = [cut[1], cut[2]]
        row: dict[str, Any] = {}
        for name, field in zip(names, fields):
            row.setdefault(name, []).append(field.strip())
        yield where, {name: values if values[1:] else values[0] for name, values in row.items()}


def _line_rows(path: Path) -> Iterator[Row]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        where = f"{path}: line {number}"
        if not line.strip():
            continue
        try:
            yield where, orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"{where} is not JSON ({error})") from error


def _group_rows(rows: Iterable[Row], source: Source, below: Path = Path()) -> Iterator[Record]:
    """One record for each image of the rows, in the order of their first rows.

    `below` is the folder that names are relative to. Raises `ValueError` for a row without an
    image, or rows that give one image two splits.
    """
    first_rows: dict[str, tuple[str, Any, Any]] = {}  # where, image_id, split
    captions: dict[str, list[Any]] = {}
    split_of = split_by_names(source.path)
    for where, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{where} is {str(row)[:50]!r}: each must be an object with an image")
        name = _value(row, "image", source)
        name = name[0] if isinstance(name, list) and len(name) == 1 else name
        if not isinstance(name, str) or not name:
            missing = f"no image among its columns {', '.join(map(str, row))[:200]}"
            stated = missing if name in (None, "") else f"the image {str(name)[:60]}, no file name"
            raise ValueError(
                f"{where} has {stated}: name the right columns with --columns image=…,caption=…"
            )
        path = (below / name).as_posix()
        split = _value(row, "split", source) or split_of(path)
        first = first_rows.setdefault(path, (where, _value(row, "image_id", source), split))
        if first[2] != split:
            raise ValueError(f"{where}: {name!r} is in the splits {first[2]!r} and {split!r}")
        captions.setdefault(path, []).extend(_captions(row, where, source))
    for path, (where, image_id, split) in first_rows.items():
        image_id = path if image_id in (None, "") else image_id
        found = source.images.find(path, where)
        yield Record(image_id, found, split, (), tuple(captions[path]))


def _value(row: dict[str, Any], kind: str, source: Source) -> Any:
    """The value of the column that `--columns` or our list of names says."""
    if kind in source.columns:
        return row.get(source.columns[kind])
    lower = {str(name).lower(): value for name, value in row.items()}
    return next((lower[name] for name in COLUMNS[kind] if name in lower), None)


def _captions(row: dict[str, Any], where: str, source: Source) -> list[Any]:
    """The captions of a row."""
    columns = _caption_columns(row, source)
    if not columns and "caption" in source.columns:
        raise ValueError(f"{where} has no column {source.columns['caption']!r}")
    if not columns:
        raise ValueError(
            f"{where} has no caption among its columns {', '.join(map(str, row))[:200]}: name the"
            " right one with --columns caption=…"
        )
    return [text for name in columns for text in _texts(row[name])]


def _caption_columns(names: Collection[str], source: Source) -> list[str]:
    """The column that `--columns` names, else the likeliest and such as caption_1, caption_2."""
    if "caption" in source.columns:
        return [name for name in names if name == source.columns["caption"]]
    lower = {name.lower() for name in names}
    known = next((name for name in COLUMNS["caption"] if name in lower), None)
    found = []
    for name in names:
        numbered = NUMBERED_CAPTION.fullmatch(name.lower())
        if name.lower() == known or (numbered and numbered[1] in (known or numbered[1])):
            found.append(name)
    return found


def _texts(value: Any) -> list[Any]:
    """The captions in a text, a list of them, a JSON list as text, or a conversation."""
    if isinstance(value, str) and value.startswith('["'):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return [value]
    if not isinstance(value, list):
        return [value]
    if not all(isinstance(turn, dict) for turn in value):
        return value
    spoken = [
        turn.get("value", turn.get("content"))
        for turn in value
        if turn.get("from", turn.get("role")) in ("gpt", "assistant")
    ]
    return spoken[:1] or [turn.get("raw", turn.get("caption")) for turn in value]
