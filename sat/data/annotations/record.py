"""`Record`, one image with its captions, and the names that splits go by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPLITS = ("train", "val", "test")
SPLIT_OF = {
    # restval: COCO's validation images that Karpathy's split gives to training
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_of(name: object) -> str | None:
    """The split that a name stands for, in any case ("TRAIN", "restval"); None if unknown."""
    return SPLIT_OF.get(str(name).strip().lower())


@dataclass(frozen=True)
class Record:
    """One image and everything known about it."""

    image_id: int | str
    path: Path
    split: str | None
    """train, val or test; readers give the annotation's own name of it, or None"""
    captions: tuple[tuple[str, ...], ...]
    """the words of each caption; readers leave it empty if the annotation has raw text alone"""
    raw: tuple[str, ...]
    """the original text of the same captions"""
    boxes: list[dict[str, Any]] | None = None
    """named objects, if known: {"words": [...], "noun": ..., "box": [x0, y0, x1, y1]}"""
    references: tuple[str, ...] | None = None
    """the captions as they are scored, where that is not `raw`"""
