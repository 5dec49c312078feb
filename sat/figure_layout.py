"""Position and size of the panels of a caption's figure.

Lengths are in inches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image

from sat.attention_panels import Box
from sat.config.figure import FigureConfig
from sat.glyphs import drawable

PANEL_INCHES, MAX_PANEL_INCHES, GAP_INCHES = 1.6, 2.6, 0.08
"""side of a square panel (others have its area), longest side of any panel, space between panels"""
WORD_POINTS, TITLE_POINTS, LINE_INCHES_PER_POINT = 10, 12, 1.5 / 72
"""font sizes, and the height of a line for each point"""
ASPECT_RATIO, MIN_COLUMNS, MAX_COLUMNS = 2.2, 4, 8
"""desired width / height of the figure; limits to the columns, given enough panels"""


class AttentionResult(Protocol):
    """A caption with its attention maps, such as `sat.captioner.CaptionResult`."""

    @property
    def text(self) -> str: ...
    @property
    def words(self) -> list[str]: ...
    @property
    def finished(self) -> bool: ...
    @property
    def alphas(self) -> np.ndarray: ...
    @property
    def photo(self) -> Image.Image: ...
    @property
    def box(self) -> Box: ...
    @property
    def word_log_probs(self) -> Sequence[float]: ...


class Layout(NamedTuple):
    """Rows and columns of cells with a panel in the middle of each; lengths in inches."""

    rows: int
    columns: int
    panel: tuple[float, float]
    cell: tuple[float, float]
    title: list[str]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        head = len(self.title) * TITLE_POINTS * LINE_INCHES_PER_POINT + GAP_INCHES
        return self.columns * self.cell[0] + GAP_INCHES, self.rows * self.cell[1] + head

    def place(self, number: int) -> Box:
        """Left, bottom, width and height of a panel, as fractions of the figure."""
        row, column = divmod(number, self.columns)
        width, height = self.size
        left = GAP_INCHES / 2 + (column + 0.5) * self.cell[0] - self.panel[0] / 2
        bottom = (self.rows - row - 1) * self.cell[1] + GAP_INCHES
        return left / width, bottom / height, self.panel[0] / width, self.panel[1] / height


def arrange(result: AttentionResult, config: FigureConfig) -> Layout:
    """Choose the columns, and the size of panels and of cells that hold the longest word."""
    width, height = result.photo.size
    ratio = math.sqrt(width / height)
    side = min(PANEL_INCHES, MAX_PANEL_INCHES / max(ratio, 1 / ratio))
    panel = (side * ratio, side / ratio)
    longest = max((_inches(word) for word in headings(result, config)), default=0.0)
    cell = (
        max(panel[0], longest) + GAP_INCHES,
        panel[1] + WORD_POINTS * LINE_INCHES_PER_POINT + GAP_INCHES,
    )
    panels, columns = len(result.words) + 1, config.columns
    if columns is None:
        wanted = round(math.sqrt(panels * ASPECT_RATIO * cell[1] / cell[0]))
        rows = math.ceil(panels / min(max(wanted, MIN_COLUMNS), MAX_COLUMNS))
        columns = math.ceil(panels / rows)
    text = drawable(result.text or "(no words)") + ("" if result.finished else " …")
    wrapped = _wrap(text, columns * cell[0] - GAP_INCHES) if config.title else []
    return Layout(math.ceil(panels / columns), columns, panel, cell, wrapped)


def _wrap(text: str, width: float) -> list[str]:
    """Break the text into lines of at most `width` inches, if its words are not longer."""
    lines: list[str] = []
    for word in text.split():
        if lines and _inches(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _inches(text: str) -> float:
    """Width of a line of text in the font size of the title."""
    font = FontProperties(size=TITLE_POINTS)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def headings(result: AttentionResult, config: FigureConfig) -> list[str]:
    """The text over the panel of each word: the word and, if wanted, its probability."""
    if not config.probabilities or not result.word_log_probs:
        return [drawable(word) for word in result.words]
    pairs = zip(result.words, result.word_log_probs)
    return [f"{drawable(word)} {math.exp(log_p):.2f}" for word, log_p in pairs]
