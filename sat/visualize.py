"""One figure per caption: the image, then the attention map of each word laid over it.

T words, h and w cells of the attention grid. Panels are composed to RGB pixels; matplotlib places
them and sets the text. Pyplot, which needs a display, is imported only to open windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from PIL import Image
from skimage.filters import gaussian
from skimage.transform import resize

from sat.atomic_io import atomic_write
from sat.glyphs import drawable

Box = tuple[float, float, float, float]

FORMATS = ("png", "pdf", "svg", "jpg", "jpeg", "tif", "tiff", "webp")
PILLOW_OPTIONS = {"png": {"compress_level": 1}, "jpg": {"quality": 92}, "jpeg": {"quality": 92}}
"""a higher compression level takes three times as long and hardly makes photographs smaller"""
WITHOUT_WINDOWS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")
"""matplotlib's backends that only write files"""

PANEL_INCHES, MAX_PANEL_INCHES, GAP_INCHES = 1.6, 2.6, 0.08
"""side of a square panel (others have its area), longest side of any panel, space between panels"""
DOTS_PER_INCH = 250
"""of panels and pixel files: a square image is drawn with 400 pixels a side"""
WORD_POINTS, TITLE_POINTS, LINE_INCHES_PER_POINT = 10, 12, 1.5 / 72
"""font sizes, and the height of a line for each point"""
ASPECT_RATIO, MIN_COLUMNS, MAX_COLUMNS = 2.2, 4, 8
"""desired width / height of the figure; limits to the columns, given enough panels"""
DARK_BRIGHTNESS, DARK_DESATURATION, LIGHT_WHITE = 0.30, 0.8, 0.35
"""where the map is 0: brightness, and share of color lost; where it is 1: share of white added"""


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


def visualize_att(
    result: AttentionResult,
    output: str | Path | None = None,
    *,
    smooth: bool = True,
    columns: int | None = None,
    show: bool = False,
) -> Figure:
    """Draw the image, then one panel per word that is bright where attention was high.

    Maps cover `result.box`, the part of the image that the model saw; the rest is dark. Brightness
    is weight / largest weight of the map, so a uniform map is fully bright. `smooth=False` shows
    the cells of the grid. `output` is written whole or not at all, in the format of its extension;
    `show` opens a window. Raises `ValueError` or `OSError`.
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
    """The path of a figure; `ValueError` when its extension is no known format."""
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


def highlight(image: Image.Image, mask: np.ndarray) -> np.ndarray:
    """Darken the image where `mask` float[H, W] is 0 and brighten it where 1: uint8[H, W, 3].

    As in the figures of Xu et al. (2015). Dark areas also lose color, unlike shadows in the image.
    """
    pixels = np.asarray(image, dtype=np.float32)
    gray = np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    dark = DARK_BRIGHTNESS * (DARK_DESATURATION * gray + (1 - DARK_DESATURATION) * pixels)
    lit = pixels + LIGHT_WHITE * (255 - pixels)
    return np.round(dark + mask[..., None] * (lit - dark)).astype(np.uint8)


def upsample_map(alpha: np.ndarray, box: Box, size: tuple[int, int], smooth: bool) -> np.ndarray:
    """Resize a map float[h, w] to `box` in an image of `size`: float32[height, width], peak 1.

    `box` is in pixels, `size` is (width, height); the map is zero outside the box. A smooth map is
    interpolated and then blurred by a third of a cell, as the tutorial does it.
    """
    left, top, right, bottom = (round(edge) for edge in box)
    shape = (max(bottom - top, 1), max(right - left, 1))
    cells = np.asarray(alpha, dtype=np.float32)
    grown = resize(cells, shape, order=int(smooth), mode="edge", anti_aliasing=False)
    if smooth:
        sigma = [pixels / count / 3 for pixels, count in zip(shape, cells.shape)]
        grown = gaussian(grown, sigma=sigma, mode="nearest")
    whole = np.zeros((size[1], size[0]), dtype=np.float32)
    seen = grown[max(-top, 0) :, max(-left, 0) :]  # the box of a padded image reaches beyond it
    inside = whole[max(top, 0) : top + shape[0], max(left, 0) : left + shape[1]]
    inside += seen[: inside.shape[0], : inside.shape[1]]
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
    w, h = (max(round(side * DOTS_PER_INCH), 1) for side in layout.panel)
    image = result.photo.convert("RGB").resize((w, h), Image.Resampling.LANCZOS, reducing_gap=3.0)
    x, y = w / result.photo.width, h / result.photo.height
    box = (result.box[0] * x, result.box[1] * y, result.box[2] * x, result.box[3] * y)
    masks = (upsample_map(alpha, box, image.size, smooth) for alpha in result.alphas)
    figure = new_figure(figsize=layout.size)
    for i, panel in enumerate([np.asarray(image), *(highlight(image, mask) for mask in masks)]):
        axes = figure.add_axes(layout.place(i))
        axes.imshow(panel, aspect="auto")
        axes.set_axis_off()
        if i:
            word = drawable(result.words[i - 1])
            axes.set_title(word, fontsize=WORD_POINTS, y=1, pad=3, parse_math=False)
    title, top = "\n".join(layout.title), 1 - GAP_INCHES / 2 / layout.size[1]
    figure.suptitle(title, y=top, va="top", fontsize=TITLE_POINTS, parse_math=False)
    return figure


def _layout(result: AttentionResult, columns: int | None) -> Layout:
    """Choose the columns, and the size of panels and of cells that hold the longest word."""
    ratio = math.sqrt(result.photo.width / result.photo.height)
    side = min(PANEL_INCHES, MAX_PANEL_INCHES / max(ratio, 1 / ratio))
    panel = (side * ratio, side / ratio)
    width = max((_inches(drawable(word)) for word in result.words), default=0.0)
    height = panel[1] + WORD_POINTS * LINE_INCHES_PER_POINT
    cell = (max(panel[0], width) + GAP_INCHES, height + GAP_INCHES)
    panels = len(result.words) + 1
    if columns is None:
        wanted = round(math.sqrt(panels * ASPECT_RATIO * cell[1] / cell[0]))
        rows = math.ceil(panels / min(max(wanted, MIN_COLUMNS), MAX_COLUMNS))
        columns = math.ceil(panels / rows)
    text = drawable(result.text or "(no words)") + ("" if result.finished else " …")
    wrapped = _wrap(text, columns * cell[0] - GAP_INCHES)
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


def _save(figure: Figure, path: Path) -> None:
    """Write the figure, whole or not at all; PDF and SVG keep text as text."""
    kind = path.suffix[1:].lower()
    options: dict[str, Any] = {"pil_kwargs": PILLOW_OPTIONS[kind]} if kind in PILLOW_OPTIONS else {}
    text_as_text = matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file, text_as_text:
            figure.savefig(file, format=kind, dpi=DOTS_PER_INCH, **options)
    except OSError as error:
        raise OSError(f"{path}: no figure can be written there ({error})") from error
