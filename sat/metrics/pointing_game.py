"""The pointing game: does attention peak inside the box of the object that a word names?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sat.metrics.object_names import named_kinds


def named_objects(
    words: Sequence[str], objects: Sequence[dict[str, Any]]
) -> list[tuple[int, list[list[float]]]]:
    """Position of each noun that ends the name of objects of the image, and their boxes.

    An object {"words", "box"} is named by its own words, or where these are one of COCO's kinds by
    another of its names, see `named_kinds`.
    """
    boxes: dict[str, list[list[float]]] = {}
    for entry in objects:
        boxes.setdefault(" ".join(entry["words"]), []).append(entry["box"])
    named = []
    for position, kinds in named_kinds(words, boxes):
        seen = [box for kind in sorted(kinds) for box in boxes.get(kind, [])]
        named += [(position, seen)] if seen else []
    return named


def share_all_named(
    captions: Sequence[Sequence[str]], boxes: Sequence[Sequence[dict[str, Any]]]
) -> float:
    """Share of the images with boxes in whose caption the full name of every object stands."""
    pairs = [(list(words), objects) for words, objects in zip(captions, boxes) if objects]
    complete = [all(named_objects(words, [one]) for one in objects) for words, objects in pairs]
    return sum(complete) / len(complete) if complete else 0.0


def cells_inside(
    boxes: Sequence[Sequence[float]], side: int, grid: tuple[int, ...]
) -> NDArray[np.float64]:
    """Share float[h, w] of each grid cell, over an image of `side` pixels, that lies in a box.

    Where several boxes meet a cell, it is the largest of their shares.
    """

    def overlap(low: float, high: float, cells: int) -> NDArray[np.float64]:
        edges = np.linspace(0, side, cells + 1)
        covered = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
        return covered.clip(0) * cells / side

    covered: NDArray[np.float64] = np.max(
        [
            np.outer(overlap(top, bottom, grid[0]), overlap(left, right, grid[1]))
            for left, top, right, bottom in boxes
        ],
        axis=0,
    )
    return covered


def centered_blob(grid: tuple[int, ...]) -> NDArray[np.float64]:
    """float[h, w]: a Gaussian map in the center of the image, the baseline of a center bias.

    It is a normal distribution whose deviation is a quarter of each side.
    """
    rows, columns = (np.exp(-8 * ((np.arange(n) + 0.5) / n - 0.5) ** 2) for n in grid)
    blob: NDArray[np.float64] = np.outer(rows, columns)
    blob /= blob.sum()
    return blob


def movement(alphas: NDArray[np.floating]) -> list[float]:
    """Total variation, 0 to 1, between each map of float[T, h, w] and the next."""
    moved: list[float] = (np.abs(np.diff(alphas, axis=0)).sum(axis=(1, 2)) / 2).tolist()
    return moved
