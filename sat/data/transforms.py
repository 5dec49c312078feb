"""Resize images as the model expects them. (The model itself normalizes their pixels.)

B images, S side of the square image in pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from sat.config.model import Preprocessing


def resize(image: Image.Image | np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Crop and scale an RGB image, or its pixels uint8[H, W, 3], to uint8[3, S, S].

    Bilinear, antialiased when the image shrinks. `squash` ignores the aspect ratio. `crop` scales
    the shorter side to S and keeps the central square. `inner_crop` scales it to 8/7 S first (256
    for 224), as ImageNet classifiers are tested. Raises `ValueError` for images of another mode.
    """
    if isinstance(image, Image.Image) and image.mode != "RGB":
        raise ValueError(f"the image's mode is {image.mode}, not RGB: pass it through read_image")
    size = (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size
    box = visible_box(size, preprocessing)
    if box == (0, 0, *size):
        return _scaled(np.array(image), preprocessing.size)  # torch wants it writable
    whole = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    side = (preprocessing.size, preprocessing.size)
    small = whole.resize(side, Image.Resampling.BILINEAR, box=box)
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))  # (3, S, S)


def _scaled(pixels: np.ndarray, side: int) -> np.ndarray:
    """Scale uint8[H, W, 3] to uint8[3, S, S] with torch's version of Pillow's filter.

    It is three times as fast and differs by one value at most. It is not used after a crop, because
    Pillow's filter also sees the pixels around the box.
    """
    import torch

    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)  # (1, 3, H, W)
    size = (side, side)
    small = torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
    return small[0].contiguous().numpy()


def visible_box(
    image_size: tuple[int, int], preprocessing: Preprocessing
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of the part that the model sees, in pixels of the image.

    `image_size` is (width, height). Attention maps belong over this box: the whole image for
    `squash`, the central square for `crop`, the inner 7/8 of that for `inner_crop`.
    """
    width, height = image_size
    if preprocessing.resize == "squash":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height) * (7 / 8 if preprocessing.resize == "inner_crop" else 1)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
