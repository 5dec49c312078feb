"""One figure per caption: the image, then the attention map of each word laid over it.

T words, h and w cells of the attention grid. Panels are composed to RGB pixels; matplotlib places
them and sets the text. `Figure` is used directly, so that no display is needed; pyplot, which has
global state, is imported only to open windows.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends import BackendFilter, backend_registry
from matplotlib.figure import Figure
from PIL import Image

from sat.atomic_io import atomic_write
from sat.attention_panels import STYLES, upsample_map
from sat.config.figure import FigureConfig
from sat.data.image_files import read_image
from sat.figure_layout import (
    GAP_INCHES,
    TITLE_POINTS,
    WORD_POINTS,
    AttentionResult,
    Layout,
    arrange,
    headings,
)

SETTINGS = threading.Lock()
"""held while a figure is saved: matplotlib's settings are those of the whole process"""
FORMATS = ("png", "pdf", "svg", "jpg", "jpeg", "tif", "tiff", "webp")
MOST_MEGAPIXELS = 500
"""of a figure: it is held in memory, at 4 bytes a pixel"""
LONGEST_SIDE = {"webp": 16383, "jpg": 65500, "jpeg": 65500}
"""pixels of width and height that a format has room for"""


def visualize_att(
    result: AttentionResult | str | Path | Image.Image,
    output: Any = None,
    alphas: Any = None,
    rev_word_map: Mapping[int, str] | None = None,
    smooth: bool = True,
    *,
    show: bool = False,
    **choices: Any,
) -> Figure:
    """Draw the image, then one panel per word that is bright where attention was high.

    Maps cover `result.box`, the part of the image that the model saw; the rest is dark. Brightness
    is weight / largest weight of the map, so a uniform map is fully bright. `smooth=False` shows
    the cells of the grid. `output` is written whole or not at all, in the format of its extension;
    `show` opens a window; `choices` are fields of `FigureConfig` (style, dpi, columns, title,
    probabilities). Raises `ValueError` or `OSError`.

    The tutorial's call `visualize_att(image_path, seq, alphas, rev_word_map, smooth)` works too:
    ids with their start and end, the map [h, w] of each, and the word of each id.
    """
    if rev_word_map is not None:
        result, output = _of_tutorial(result, output, alphas, rev_word_map), None
    elif isinstance(result, (str, Path, Image.Image)):
        raise ValueError("an image is given without rev_word_map: give it, or a caption's result")
    config = FigureConfig(smooth=smooth, **choices)
    _check(result)
    path = None if output is None else check_output(output)
    layout = arrange(result, config)
    _check_size(layout, config.dpi, path)
    plt = pyplot_with_windows() if show else None
    figure = _draw(result, layout, plt.figure if plt else Figure, config)
    if path:
        _save(figure, path, config.dpi)
    if plt:
        plt.show()
        if not plt.isinteractive():
            plt.close(figure)
    return figure


def _of_tutorial(
    image: Any, ids: Sequence[int], alphas: Any, rev_word_map: Mapping[int, str]
) -> AttentionResult:
    """A caption's result from the arguments of the tutorial; start and end are no words."""
    photo = read_image(image)
    shown = [i for i, n in enumerate(ids) if rev_word_map[int(n)] not in ("<start>", "<end>")]
    words = [rev_word_map[int(ids[i])] for i in shown]
    maps = np.asarray(alphas, dtype=np.float32)[shown]
    result: Any = SimpleNamespace(
        text=" ".join(words),
        words=words,
        finished=True,
        alphas=maps,
        photo=photo,
        box=(0, 0, *photo.size),
        word_log_probs=(),
    )
    return result


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

    if plt.get_backend().lower() in backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE):
        raise OSError(
            f"matplotlib's backend {plt.get_backend()!r} opens no windows: leave show out and save"
            " the figure, or run this where there is a display"
        )
    return plt


def _check(result: AttentionResult) -> None:
    alphas = np.asarray(result.alphas)
    if len(alphas) != (count := len(result.words)) or (count and alphas.ndim != 3):
        raise ValueError(f"alphas are {list(alphas.shape)} for {count} words: give [{count}, h, w]")
    odd = alphas[~((alphas >= 0) & np.isfinite(alphas))]
    if odd.size:
        raise ValueError(f"alphas hold {odd[0]}: give weights, finite and not below 0")


def _check_size(layout: Layout, dpi: int, path: Path | None) -> None:
    """Raise `ValueError` for a figure that memory, or the format of its file, has no room for."""
    width, height = (int(side * dpi) for side in layout.size)
    kind = path.suffix[1:].lower() if path else ""
    limit, other = "", ""
    if width * height / 1e6 > MOST_MEGAPIXELS:
        limit = f"over {MOST_MEGAPIXELS} megapixels"
    elif max(width, height) > (longest := LONGEST_SIDE.get(kind, math.inf)):
        limit, other = f".{kind} takes {longest} a side", ", or a .png"
    if limit:
        raise ValueError(
            f"dpi is {dpi}: the figure of {layout.columns} columns would have {width} x {height} "
            f"pixels, {limit}: choose a smaller dpi or other columns{other}"
        )


def _draw(
    result: AttentionResult,
    layout: Layout,
    new_figure: Callable[..., Figure],
    config: FigureConfig,
) -> Figure:
    w, h = (max(round(side * config.dpi), 1) for side in layout.panel)
    image = result.photo.convert("RGB").resize((w, h), Image.Resampling.LANCZOS, reducing_gap=3.0)
    x, y = w / result.photo.width, h / result.photo.height
    box = (result.box[0] * x, result.box[1] * y, result.box[2] * x, result.box[3] * y)
    masks = (upsample_map(alpha, box, image.size, config.smooth) for alpha in result.alphas)
    lay_over = STYLES[config.style]
    figure = new_figure(figsize=layout.size)
    words = headings(result, config)
    for i, panel in enumerate([np.asarray(image), *(lay_over(image, mask) for mask in masks)]):
        axes = figure.add_axes(layout.place(i))
        axes.imshow(panel, aspect="auto")
        axes.set_axis_off()
        if i:
            axes.set_title(words[i - 1], fontsize=WORD_POINTS, y=1, pad=3, parse_math=False)
    if layout.title:
        title, top = "\n".join(layout.title), 1 - GAP_INCHES / 2 / layout.size[1]
        figure.suptitle(title, y=top, va="top", fontsize=TITLE_POINTS, parse_math=False)
    return figure


def _save(figure: Figure, path: Path, dpi: int) -> None:
    """Write the figure, whole or not at all; PDF and SVG keep text as text."""
    kind = path.suffix[1:].lower()
    options: dict[str, Any] = {}
    if kind in ("jpg", "jpeg"):
        options["pil_kwargs"] = {"quality": 92}
    text_as_text = matplotlib.rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file, SETTINGS, text_as_text:
            figure.savefig(file, format=kind, dpi=dpi, **options)
    except OSError as error:
        raise OSError(f"{path}: no figure can be written there ({error})") from error
