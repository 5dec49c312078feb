"""Validation images with their hypotheses and references, drawn as one image. S image side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sat.glyphs import drawable

COLUMNS = 4
WIDTH_INCHES, HEIGHT_INCHES = 2.6, 3.3
"""of one image with its captions"""
FONT_POINTS, LINE_CHARACTERS = 9, 36


class Sample(NamedTuple):
    """An image, its generated caption and its reference captions."""

    image_id: Any
    image: np.ndarray  # uint8[S, S, 3]
    hypothesis: str
    references: list[str]


def sample_grid(samples: Sequence[Sample]) -> np.ndarray:
    """Draw uint8[H, W, 3]: every image with its hypothesis above and its first reference below."""
    rows = math.ceil(len(samples) / COLUMNS)
    size = (COLUMNS * WIDTH_INCHES, rows * HEIGHT_INCHES)
    figure = Figure(size, layout="constrained")
    for i, sample in enumerate(samples, 1):
        axes = figure.add_subplot(rows, COLUMNS, i, xticks=[], yticks=[])
        axes.imshow(sample.image)
        above, below = (
            textwrap.fill(drawable(text), LINE_CHARACTERS)
            for text in (sample.hypothesis or "(no words)", sample.references[0])
        )
        axes.set_title(above, fontsize=FONT_POINTS, parse_math=False)
        axes.set_xlabel(below, fontsize=FONT_POINTS, color="gray", parse_math=False)
    return rasterize(figure)


def rasterize(figure: Figure) -> np.ndarray:
    """The pixels uint8[H, W, 3] of a figure at 100 dots per inch."""
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
