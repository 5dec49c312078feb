"""Attention maps laid over an image, as pixels.

H and W of the image in pixels, h and w cells of the attention grid.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import matplotlib
import numpy as np
from PIL import Image
from skimage.filters import gaussian
from skimage.transform import resize

Box = tuple[float, float, float, float]

DARK_BRIGHTNESS, DARK_DESATURATION, LIGHT_WHITE = 0.30, 0.8, 0.35
"""where the map is 0: brightness, and share of color lost; where it is 1: share of white added"""
HEAT_COLORS, HEAT_OPACITY = "turbo", 0.55
"""matplotlib's color map, and its share of each pixel"""


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
    rows, columns = (_weights(*sizes, smooth) for sizes in zip(shape, cells.shape))
    grown = rows @ cells @ columns.T
    whole = np.zeros((size[1], size[0]), dtype=np.float32)
    seen = grown[max(-top, 0) :, max(-left, 0) :]  # the box of a padded image reaches beyond it
    inside = whole[max(top, 0) : top + shape[0], max(left, 0) : left + shape[1]]
    inside += seen[: inside.shape[0], : inside.shape[1]]
    return whole / max(grown.max(), np.finfo(np.float32).tiny)


@functools.lru_cache(maxsize=8)
def _weights(pixels: int, cells: int, smooth: bool) -> np.ndarray:
    """The share float32[pixels, cells] of each cell of one axis in each of its pixels.

    Interpolation and blur are linear and treat one axis after the other, so products with these
    matrices do the same to a map; the blur itself would take time as the cube of the figure's side.
    """
    shape = (pixels, cells)
    one_each = np.eye(cells, dtype=np.float32)
    grown = resize(one_each, shape, order=int(smooth), mode="edge", anti_aliasing=False)
    return gaussian(grown, sigma=(pixels / cells / 3, 0), mode="nearest") if smooth else grown


def heatmap(image: Image.Image, mask: np.ndarray) -> np.ndarray:
    """Lay colors from blue (0) to red (1) of `mask` float[H, W] over the image: uint8[H, W, 3]."""
    pixels = np.asarray(image, dtype=np.float32)
    colors = 255 * matplotlib.colormaps[HEAT_COLORS](mask)[..., :3]
    return np.round(pixels + HEAT_OPACITY * (colors - pixels)).astype(np.uint8)


STYLES: dict[str, Callable[[Image.Image, np.ndarray], np.ndarray]] = {
    "brightness": highlight,
    "heatmap": heatmap,
}
