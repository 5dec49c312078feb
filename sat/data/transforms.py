"""Resize images as the model expects them. (The model itself normalizes their pixels.)

S side of the square image in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from sat.config.model import Preprocessing
from sat.config.resize import ResizeRule

MAX_SCALED_PIXELS = 2**24
"""of an image that is scaled as a whole before it is cropped; only very narrow ones have more"""


class View(NamedTuple):
    """The part of a scaled image that the model sees; all in pixels of the scaled image."""

    width: int
    height: int
    left: int  # of the part seen; negative where there is black beside the image
    top: int
    right: int
    bottom: int


def resize(image: Image.Image | np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Scale, crop and pad an RGB image, or its pixels uint8[H, W, 3], to uint8[3, S, S].

    Filters are antialiased when the image shrinks. The steps are those of torchvision and of
    Hugging Face's image processors. Raises `ValueError` for images of another mode.
    """
    if isinstance(image, Image.Image) and image.mode != "RGB":
        raise ValueError(f"the image's mode is {image.mode}, not RGB: pass it through read_image")
    size = (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size
    rule, side = preprocessing.resize_rule, preprocessing.size
    view = _view(size, rule)
    x, y = max(view.left, 0), max(view.top, 0)
    seen = (x, y, min(view.right, view.width), min(view.bottom, view.height))
    if view.width * view.height > MAX_SCALED_PIXELS:
        part = _part_scaled(image, view, seen, rule.resample)
    else:
        pixels = np.require(image, requirements="W")  # torch wants it writable
        whole = _scaled(pixels, view, rule.resample)
        part = whole[:, y : seen[3], x : seen[2]]
    if part.shape[1:] == (side, side):
        return np.ascontiguousarray(part)
    square = np.empty((3, side, side), np.uint8)
    square[:] = np.reshape(rule.fill, (3, 1, 1))
    square[:, : view.bottom - view.top, : view.right - view.left] = 0
    x, y = x - view.left, y - view.top
    square[:, y : y + part.shape[1], x : x + part.shape[2]] = part
    return square


def visible_box(
    image_size: tuple[int, int], preprocessing: Preprocessing
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the square that the model sees, in pixels of the image.

    `image_size` is (width, height). Attention maps belong over this box. It is the whole image for
    `squash`, and reaches beyond the image where that is padded.
    """
    view, side = _view(image_size, preprocessing.resize_rule), preprocessing.size
    x, y = image_size[0] / view.width, image_size[1] / view.height
    return view.left * x, view.top * y, (view.left + side) * x, (view.top + side) * y


def _view(image_size: tuple[int, int], rule: ResizeRule) -> View:
    width, height = image_size
    if rule.scale == "size":
        height, width = rule.to
    elif rule.scale == "max_size":
        scale = min(rule.to[0] / height, rule.to[1] / width)
        height, width = max(int(height * scale), 1), max(int(width * scale), 1)
    elif rule.scale == "shortest_edge":
        short, long = min(width, height), max(width, height)
        shorter, exact = rule.to[0], float(rule.to[0])
        if rule.to[1] and long / short * shorter > rule.to[1]:
            exact = rule.to[1] * short / long
            shorter = max(round(exact), 1)
        longer = long if short == shorter else max(int(exact * long / short), 1)
        width, height = (shorter, longer) if width <= height else (longer, shorter)
    crop_height, crop_width = rule.crop or (height, width)
    left, top = _centered(width, crop_width), _centered(height, crop_height)
    return View(width, height, left, top, left + crop_width, top + crop_height)


def _centered(length: int, crop: int) -> int:
    """The start of a centered crop of a side, rounded as torchvision does."""
    return (length - crop) // 2 if crop <= length else -((crop - length) // 2)


def _scaled(pixels: np.ndarray, view: View, resample: str) -> np.ndarray:
    """Scale uint8[H, W, 3] to uint8[3, height, width] of the view with torch's filters.

    They are those of torchvision and of Hugging Face's processors. The bilinear one is three times
    as fast as Pillow's and differs by one value at most.
    """
    import torch

    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)  # (1, 3, H, W)
    exact = resample == "nearest"
    small = torch.nn.functional.interpolate(
        image,
        (view.height, view.width),
        mode="nearest-exact" if exact else resample,
        antialias=not exact,
    )
    return small[0].contiguous().numpy()


def _part_scaled(
    image: Image.Image | np.ndarray, view: View, seen: tuple[int, int, int, int], resample: str
) -> np.ndarray:
    """The part `seen` of the scaled image, uint8[3, h, w], by Pillow; the rest is not computed."""
    whole = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    left, top, right, bottom = seen
    x, y = whole.width / view.width, whole.height / view.height
    box = (left * x, top * y, min(right * x, whole.width), min(bottom * y, whole.height))
    number = Image.Resampling[resample.upper()]
    part = whole.resize((right - left, bottom - top), number, box=box)
    return np.asarray(part).transpose(2, 0, 1)
