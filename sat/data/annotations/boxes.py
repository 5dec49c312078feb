"""Boxes of objects, from COCO's instances_*.json or from a plain file of fractions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sat.data.annotations.names import Names
from sat.data.annotations.record import Record
from sat.data.annotations.source import read_json

TOLERANCE = 0.01
"""of rounded fractions"""
Objects = list[tuple[str, list[float]]]
"""kinds, and their boxes [left, top, right, bottom] as fractions of width and height"""


def add_boxes(records: list[Record], path: Path, side: int) -> list[Record]:
    """The records with the objects of the file, in pixels of an image squashed to `side`.

    An image is known by its id or by its file name. Raises `ValueError` for a file of neither
    layout, boxes in pixels without the sizes, or a file that knows no image of the records.
    """
    known = read_boxes(path)
    names = Names(known)
    found = []
    for record in records:
        key = names.find(str(record.image_id)) or names.find(record.path.name)
        objects = known[key] if key else None
        boxes = [
            {"words": kind.split(), "box": [round(side * value, 2) for value in box]}
            for kind, box in objects or []
        ]
        found.append(record if objects is None else replace(record, boxes=boxes))
    if all(record.boxes is None for record in found):
        raise ValueError(
            f"{path}: none of its images, as {next(iter(known), None)!r}, is in the annotations:"
            " key them by image id or file name, and give one file of boxes (or none) for each file"
            " of annotations"
        )
    return found


def read_boxes(path: Path) -> dict[str, Objects]:
    """The objects of each image, by its id and, where the file tells it, its name.

    The file is COCO's ({"images", "annotations", "categories"}, boxes in pixels) or
    {id: {"boxes": [[kind, left, top, width, height], ...]}}, in fractions of width and height.
    """
    content = read_json(path)
    try:
        if "annotations" in content:
            return _coco(content)
        found = _fractions(content)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path}: is no file of boxes ({type(error).__name__}: {error}): give COCO's"
            " instances_*.json or {id: {'boxes': [[kind, left, top, width, height], ...]}}"
        ) from error
    for key, image in content.items():
        for _, left, top, width, height in image["boxes"]:
            if min(left, top) < -TOLERANCE or max(left + width, top + height) > 1 + TOLERANCE:
                raise ValueError(
                    f"{path}: image {key} has the box {[left, top, width, height]}: give left,"
                    " top, width and height as fractions of the image"
                )
    return found


def _coco(content: dict[str, Any]) -> dict[str, Objects]:
    kinds = {category["id"]: str(category["name"]) for category in content["categories"]}
    images = {image["id"]: image for image in content["images"]}
    objects: dict[Any, Objects] = {key: [] for key in images}
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        width, height = float(image["width"]), float(image["height"])
        left, top, w, h = map(float, annotation["bbox"])
        box = [left / width, top / height, (left + w) / width, (top + h) / height]
        objects[annotation["image_id"]].append((kinds[annotation["category_id"]], box))
    by_id = {str(key): found for key, found in objects.items()}
    return by_id | {str(images[key]["file_name"]): found for key, found in objects.items()}


def _fractions(content: dict[str, Any]) -> dict[str, Objects]:
    return {
        key: [
            (str(kind), [float(left), float(top), float(left + w), float(top + h)])
            for kind, left, top, w, h in image["boxes"]
        ]
        for key, image in content.items()
    }
