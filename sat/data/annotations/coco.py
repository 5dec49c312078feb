"""COCO's own files: captions_train2014.json, captions_val2017.json and their like."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from sat.data.annotations.record import Record
from sat.data.annotations.source import Source
from sat.data.annotations.splits import split_by_names

logger = logging.getLogger(__name__)


def recognize(source: Source) -> bool:
    """True for an object with the lists "images" and "annotations"."""
    content = source.json_by_name
    return isinstance(content, dict) and {"images", "annotations"} <= set(content)


def read(source: Source) -> Iterator[Record]:
    """The records in the order of "images", captions in the order of their ids, as Karpathy has it.

    Names of files and folders tell the split. Images that stand twice with one file name count
    once. Captions of unknown images are left out with a line of warning.
    """
    split, captions = split_by_names(source.path), _captions(source)
    names: dict[str, object] = {}
    for number, image in enumerate(_objects(source, "images")):
        where = f"{source.path}: image {number}"
        if not {"id", "file_name"} <= set(image):
            raise ValueError(f"{where} has no 'id' or no 'file_name': COCO's layout needs both")
        image_id, name = image["id"], image["file_name"]
        key = str(image_id)
        if key in names and names[key] != name:
            raise ValueError(f"{where}: id {image_id!r} is both {names[key]!r} and {name!r}")
        if key not in names:
            names[key] = name
            lines = sorted(captions.pop(key, []), key=lambda line: line[0])
            raw = tuple(line[1] for i, line in enumerate(lines) if i == 0 or line != lines[i - 1])
            yield Record(image_id, source.images.find(name, where), split(name), (), raw)
    if captions:
        logger.warning(
            "%s: captions of %d images that 'images' does not list are left out",
            *(source.path, len(captions)),
        )


def _captions(source: Source) -> dict[str, list[tuple[int, Any]]]:
    """The number and the text of the captions of each image, by its id as a string."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for number, line in enumerate(_objects(source, "annotations")):
        if "image_id" not in line:
            raise ValueError(f"{source.path}: annotation {number} has no 'image_id'")
        caption_id = line.get("id")
        order = caption_id if isinstance(caption_id, int) else number
        found.setdefault(str(line["image_id"]), []).append((order, line.get("caption")))
    return found


def _objects(source: Source, key: str) -> list[dict[str, Any]]:
    content = source.json.get(key) if isinstance(source.json, dict) else None
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise ValueError(
            f"{source.path}: holds no list {key!r} of objects: give a captions_*.json of COCO"
        )
    return content
