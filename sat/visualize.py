"""One figure of a caption: the photo, then for each word where in the photo the model looked.

T words, h and w cells of the grid. Every panel is composed here to one RGB picture; matplotlib
places them, sets the words and writes the file. Its `Figure` is used directly: no display is
needed, and pyplot, which has global state, is imported for windows only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image
from skimage.filters import gaussian
from skimage.transform import resize

from sat.atomic_io import atomic_write

Box = tuple[float, float, float, float]

FORMATS = ("png", "pdf", "svg", "jpg", "jpeg", "tif", "tiff", "webp")
PILLOW_OPTIONS = {"png": {"compress_level": 1}, "jpg": {"quality": 92}, "jpeg": {"quality": 92}}
"""photos in a PNG hardly shrink more at the usual level, which takes three times as long"""
WITHOUT_WINDOWS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
"""matplotlib's backends that only write files"""

PANEL, LONGEST, GAP = 1.6, 2.6, 0.08
"""inches: the side of a square panel (others have its area), of any panel, and between panels"""
DOTS_PER_INCH = 250
"""of panels and of files made of pixels: a square photo is drawn with 400 pixels a side"""
WORD_POINTS, TITLE_POINTS, LINE = 10, 12, 1.5 / 72
"""sizes of type, and inches of height that a line takes for each point"""
WIDE, FEWEST, MOST = 2.2, 4, 8
"""how many times wider than high a figure should be, roughly; columns where panels suffice"""
DIM, FADE, VEIL = 0.30, 0.8, 0.35
"""where nobody looked: brightness, and colour lost; where the model looked most: share of white"""


class AttentionResult(Protocol):
    """What is drawn: a caption with its maps (`sat.captioner.Result` is one)."""

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


class Layout(NamedTuple):
    """Where the panels go; lengths in inches, a panel in the middle of its cell."""

    rows: int
    columns: int
    panel: tuple[float, float]
    cell: tuple[float, float]
    title: list[str]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        head = len(self.title) * TITLE_POINTS * LINE + GAP
        return self.columns * self.cell[0] + GAP, self.rows * self.cell[1] + head

    def place(self, number: int) -> Box:
        """Left, bottom, width and height of a panel, as shares of the figure."""
        row, column = divmod(number, self.columns)
        width, height = self.size
        left = GAP / 2 + (column + 0.5) * self.cell[0] - self.panel[0] / 2
        bottom = (self.rows - row - 1) * self.cell[1] + GAP
        return left / width, bottom / height, self.panel[0] / width, self.panel[1] / height


def visualize_att(
    result: AttentionResult,
    output: str | Path | None = None,
    *,
    smooth: bool = True,
    columns: int | None = None,
    show: bool = False,
) -> Figure:
    """The figure: the photo, then a panel for each word, lit and in colour where the model looked.

    A map lies over `result.box`, the part of the photo that the model saw; the rest stays dark.
    Full light is the word's largest weight, darkness is zero: who looked everywhere alike lights
    everything. `smooth=False` shows the grid's cells as they are. `output` is written whole or not
    at all, in the format of its extension; `show` opens a window. Raises `ValueError` or `OSError`.
    """
    _check(result, columns)
    path = None if output is None else check_output(output)
    plt = pyplot_with_windows() if show else None
    figure = _draw(result, plt.figure if plt else Figure, smooth, columns)
    if path:
        _save(figure, path)
    if plt:
        plt.show()
        if not plt.isinteractive():
            plt.close(figure)
    return figure


def check_output(output: str | Path) -> Path:
    """The path of a figure; `ValueError` when its name says no format that can be written."""
    path = Path(output)
    if path.suffix[1:].lower() not in FORMATS:
        known = ", .".join(FORMATS)
        raise ValueError(f"{path} is no name for a figure: let it end in one of .{known}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the file of the figure too")
    return path


def pyplot_with_windows() -> ModuleType:
    """matplotlib's pyplot; `OSError` where it cannot open a window."""
    import matplotlib.pyplot as plt

    if plt.get_backend().lower() in WITHOUT_WINDOWS:
        raise OSError(
            f"matplotlib's backend {plt.get_backend()!r} opens no windows: leave show out and save"
            " the figure, or run this where there is a display"
        )
    return plt


def light(photo: Image.Image, mask: np.ndarray) -> np.ndarray:
    """uint8[H, W, 3]: the photo dark and grey where `mask` float[H, W] is 0, under light where 1.

    As in the figures of Xu et al. (2015); lost colour tells such places from the photo's shadows.
    """
    pixels = np.asarray(photo, dtype=np.float32)
    grey = np.asarray(photo.convert("L"), dtype=np.float32)[..., None]
    dark = DIM * (FADE * grey + (1 - FADE) * pixels)
    lit = pixels + VEIL * (255 - pixels)
    return np.round(dark + mask[..., None] * (lit - dark)).astype(np.uint8)


def spread(alpha: np.ndarray, box: Box, size: tuple[int, int], smooth: bool) -> np.ndarray:
    """float32[height, width]: a map float[h, w] stretched over `box`, zero outside, 1 at its peak.

    `box` is in pixels of the picture, whose `size` is (width, height). A smooth map is interpolated
    and then blurred by a third of a cell, as the tutorial does it.
    """
    left, top, right, bottom = (round(edge) for edge in box)
    shape = (max(bottom - top, 1), max(right - left, 1))
    cells = np.asarray(alpha, dtype=np.float32)
    grown = resize(cells, shape, order=int(smooth), mode="edge", anti_aliasing=False)
    if smooth:
        sigma = [pixels / count / 3 for pixels, count in zip(shape, cells.shape)]
        grown = gaussian(grown, sigma=sigma, mode="nearest")
    whole = np.zeros((size[1], size[0]), dtype=np.float32)
    seen = whole[top : top + shape[0], left : left + shape[1]]
    seen += grown[: seen.shape[0], : seen.shape[1]]
    return whole / max(grown.max(), np.finfo(np.float32).tiny)


def _check(result: AttentionResult, columns: int | None) -> None:
    if columns is not None and columns < 1:
        raise ValueError(f"columns is {columns}: give at least 1, or leave it out")
    alphas = np.asarray(result.alphas)
    if len(alphas) != (count := len(result.words)) or (count and alphas.ndim != 3):
        raise ValueError(f"alphas are {list(alphas.shape)} for {count} words: give [{count}, h, w]")
    odd = alphas[~((alphas >= 0) & np.isfinite(alphas))]
    if odd.size:
        raise ValueError(f"alphas hold {odd[0]}: give weights, finite and not below 0")


def _draw(
    result: AttentionResult, new_figure: Callable[..., Figure], smooth: bool, columns: int | None
) -> Figure:
    layout = _layout(result, columns)
    size = tuple(max(round(side * DOTS_PER_INCH), 1) for side in layout.panel)
    photo = result.photo.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    factors = [drawn / side for drawn, side in zip(size, result.photo.size)] * 2
    box = tuple(edge * factor for edge, factor in zip(result.box, factors))
    pictures = [light(photo, spread(alpha, box, size, smooth)) for alpha in result.alphas]
    figure = new_figure(figsize=layout.size)
    for i, picture in enumerate([np.asarray(photo), *pictures]):
        axes = figure.add_axes(layout.place(i))
        axes.imshow(picture, aspect="auto")
        axes.set_axis_off()
        if i:
            axes.set_title(result.words[i - 1], fontsize=WORD_POINTS, y=1, pad=3, parse_math=False)
    style = {"y": 1 - GAP / 2 / layout.size[1], "va": "top", "fontsize": TITLE_POINTS}
    figure.suptitle("\n".join(layout.title), parse_math=False, **style)
    return figure


def _layout(result: AttentionResult, columns: int | None) -> Layout:
    """Panels with the photo's aspect ratio, in cells that hold the longest word."""
    width, height = result.photo.size
    ratio = math.sqrt(width / height)
    side = min(PANEL, LONGEST / max(ratio, 1 / ratio))
    panel = (side * ratio, side / ratio)
    longest = max((_inches(word) for word in result.words), default=0.0)
    cell = (max(panel[0], longest) + GAP, panel[1] + WORD_POINTS * LINE + GAP)
    panels = len(result.words) + 1
    if columns is None:
        wanted = round(math.sqrt(panels * WIDE * cell[1] / cell[0]))
        rows = math.ceil(panels / min(max(wanted, FEWEST), MOST))
        columns = math.ceil(panels / rows)
    text = (result.text or "(no words)") + ("" if result.finished else " …")
    wrapped = _wrap(text, columns * cell[0] - GAP)
    return Layout(math.ceil(panels / columns), columns, panel, cell, wrapped)


def _wrap(text: str, width: float) -> list[str]:
    """The text in lines of at most `width` inches, as far as its words allow."""
    lines: list[str] = []
    for word in text.split():
        if lines and _inches(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _inches(text: str) -> float:
    """Width of a line of text in the title."""
    font = FontProperties(size=TITLE_POINTS)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def _save(figure: Figure, path: Path) -> None:
    """Write the figure, whole or not at all; PDF and SVG keep text as text."""
    kind = path.suffix[1:].lower()
    options = {"pil_kwargs": PILLOW_OPTIONS[kind]} if kind in PILLOW_OPTIONS else {}
    text_as_text = matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file, text_as_text:
            figure.savefig(file, format=kind, dpi=DOTS_PER_INCH, **options)
    except OSError as error:
        raise OSError(f"{path}: no figure can be written there ({error})") from error
