"""The pointing game: does attention peak inside the box of the object that a word names?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def named_objects(
    words: Sequence[str], boxes: Sequence[dict[str, Any]]
) -> list[tuple[int, list[float]]]:
    """Position of each noun that ends a full name of an object, and the box of that object."""
    named = []
    for entry in boxes:
        name = list(entry["words"])
        for end in range(len(name), len(words) + 1):
            if list(words[end - len(name) : end]) == name:
                named.append((end - 1, entry["box"]))
    return sorted(named)


def share_all_named(
    captions: Sequence[Sequence[str]], boxes: Sequence[Sequence[dict[str, Any]]]
) -> float:
    """Share of the images with boxes in whose caption the full name of every object stands."""
    pairs = [(list(words), objects) for words, objects in zip(captions, boxes) if objects]
    complete = [all(named_objects(words, [one]) for one in objects) for words, objects in pairs]
    return sum(complete) / len(complete) if complete else 0.0


def cells_inside(box: Sequence[float], side: int, grid: tuple[int, ...]) -> NDArray[np.float64]:
    """Share float[h, w] of each grid cell, over an image of `side` pixels, that lies in the box."""

    def overlap(low: float, high: float, cells: int) -> NDArray[np.float64]:
        edges = np.linspace(0, side, cells + 1)
        covered = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        return covered.clip(0) * cells / side

    left, top, right, bottom = box
    return np.outer(overlap(top, bottom, grid[0]), overlap(left, right, grid[1]))
