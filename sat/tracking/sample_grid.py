"""Photos with two captions each, what is said and what was written, drawn as one picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMNS = 4
WIDTH, HEIGHT = 2.6, 3.3
"""inches of a photo with its captions"""
POINTS, LETTERS = 9, 36
"""size of type, and letters in a line"""


def sample_grid(photos: Sequence[tuple[np.ndarray, str, str]]) -> np.ndarray:
    """uint8[H, W, 3]: each photo uint8[S, S, 3], above it what is said, below what was written."""
    rows = math.ceil(len(photos) / COLUMNS)
    figure = Figure((COLUMNS * WIDTH, rows * HEIGHT), dpi=100, layout="constrained")
    for i, (photo, hypothesis, references) in enumerate(photos):
        axes = figure.add_subplot(rows, COLUMNS, i + 1)
        axes.imshow(photo)
        axes.set(xticks=[], yticks=[])
        axes.set_title(_lines(hypothesis or "(no words)"), fontsize=POINTS, parse_math=False)
        axes.set_xlabel(_lines(references), fontsize=POINTS, color="gray", parse_math=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _lines(text: str) -> str:
    return textwrap.fill(text, LETTERS)
