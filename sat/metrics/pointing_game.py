"""The pointing game: does attention peak inside the box of the object a word names?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def named_objects(
    words: Sequence[str], boxes: Sequence[dict[str, Any]]
) -> list[tuple[int, list[float]]]:
    """The position of every noun that names an object with all its words, and the object's box."""
    named = []
    for thing in boxes:
        size = len(thing["words"])
        for last in range(size - 1, len(words)):
            if list(words[last - size + 1 : last + 1]) == list(thing["words"]):
                named.append((last, thing["box"]))
    return sorted(named)


def cells_inside(box: Sequence[float], side: int, grid: tuple[int, ...]) -> np.ndarray:
    """float[h, w]: the share of each cell of a grid over a picture of `side` pixels in the box."""

    def overlap(low: float, high: float, cells: int) -> np.ndarray:
        edges = np.linspace(0, side, cells + 1)
        covered = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        return covered.clip(0) * cells / side

    left, top, right, bottom = box
    return np.outer(overlap(top, bottom, grid[0]), overlap(left, right, grid[1]))
