"""Does attention fall on the object a word names? Scored where boxes are known (`shapes`).

h and w cells of the grid. After the pointing game of Zhang et al. 2016 ("Top-down Neural Attention
by Excitation Backprop"): the peak of the map, and besides it the share of its mass, in the box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from sat.captioner import attention_maps
from sat.config import Preprocessing
from sat.data.batches import Batch
from sat.data.vocabulary import Vocabulary
from sat.evaluate import features_of
from sat.generate import Hypothesis
from sat.models.show_attend_tell import ShowAttendTell


@torch.inference_mode()
def pointing(
    model: ShowAttendTell,
    loader: Iterable[Batch],
    captions: dict[int, Hypothesis],
    references: Sequence[dict[str, Any]],
    vocabulary: Vocabulary,
    preprocessing: Preprocessing,
) -> dict[str, float]:
    """How often the peak, and how much of the map, is in the box of the object named at its noun.

    Looks at every word of a caption that, with the words before it, names an object of its image:
    `references[i]["boxes"]` holds {"words", "box" (left, top, right, bottom in pixels)} of image i.
    "chance" is the mean share of the picture that those boxes cover: what a flat map would get.
    """
    found: list[tuple[float, float, float]] = []
    for batch in loader:
        features = features_of(model, batch, preprocessing)
        for row, index in zip(features.split(1), batch.indices.tolist()):
            words = vocabulary.words(captions[index].words)
            alphas = attention_maps(model, row, captions[index].words).cpu().numpy()
            for position, box in named_objects(words, references[index].get("boxes", [])):
                inside = cells_inside(box, preprocessing.size, alphas.shape[1:])
                alpha = alphas[position]
                at_peak = inside.flat[alpha.argmax()]
                found.append((float(at_peak), float((alpha * inside).sum()), inside.mean()))
    peak, mass, chance = np.mean(found, axis=0) if found else (0.0, 0.0, 0.0)
    return {
        "nouns": len(found),
        "peak_inside": float(peak),
        "mass_inside": float(mass),
        "chance": float(chance),
    }


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
