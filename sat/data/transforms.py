"""Resize an image as the model expects it, and normalize its pixels.

B images, S side of the square image in pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sat.config.model import Preprocessing

if TYPE_CHECKING:
    import torch


def resize(photo: Image.Image | np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The part of an RGB photo, or its uint8[H, W, 3], that the model sees, as uint8[3, S, S].

    Bilinear, and antialiased when it shrinks. `squash` ignores the aspect ratio; `crop` is the same
    as scaling the shorter side to S and keeping the central square, `inner_crop` as scaling it to
    8/7 S first (256 for 224), as ImageNet classifiers are tested. `ValueError` for other modes.
    """
    is_array = isinstance(photo, np.ndarray)
    if not is_array and photo.mode != "RGB":
        found = f"the photo's mode is {photo.mode}, not RGB"
        raise ValueError(f"{found}: pass it through read_photo")
    width, height = photo.shape[1::-1] if is_array else photo.size
    box = visible_box((width, height), preprocessing)
    if box == (0, 0, width, height):
        return _scaled(photo if is_array else np.array(photo), preprocessing.size)
    image = Image.fromarray(photo) if is_array else photo
    side = (preprocessing.size, preprocessing.size)
    small = image.resize(side, Image.Resampling.BILINEAR, box=box)
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))  # (3, S, S)


def _scaled(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8[3, S, S] of uint8[H, W, 3] by torch's reading of Pillow's filter, which is three times
    as fast and apart by one value at most. It cannot look beyond a box, as Pillow does."""
    import torch

    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)  # (1, 3, H, W)
    size = (side, side)
    small = torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
    return small[0].contiguous().numpy()


def visible_box(
    photo_size: tuple[int, int], preprocessing: Preprocessing
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what the model sees, in pixels of a photo of (width, height).

    Attention maps belong over this box: all of the photo for `squash`, its central square for
    `crop`, the inner 7/8 of that for `inner_crop`.
    """
    width, height = photo_size
    if preprocessing.resize == "squash":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height) * (7 / 8 if preprocessing.resize == "inner_crop" else 1)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def normalize(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """float32[B, 3, S, S] as the encoder was trained on, from uint8 pixels, on their device.

    Raises `TypeError` for anything but uint8: pixels that were already scaled once and are scaled
    again make every photo look alike to the model.
    """
    import torch

    if images.dtype != torch.uint8:
        raise TypeError(
            f"images are {images.dtype}, not torch.uint8: pass the pixels (0 to 255) as they were"
            " read, they are scaled here and must not be scaled twice"
        )
    mean, std = _statistics(preprocessing, images.device)
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


def denormalize(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """uint8[B, 3, S, S]: the pixels that `normalize` was given."""
    import torch

    mean, std = _statistics(preprocessing, images.device)
    pixels = images.to(torch.float32).mul(std).add_(mean).mul_(255)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _statistics(
    preprocessing: Preprocessing, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each channel, float32[3, 1, 1]."""
    import torch

    mean = torch.tensor(preprocessing.mean, dtype=torch.float32, device=device)
    std = torch.tensor(preprocessing.std, dtype=torch.float32, device=device)
    return mean.view(3, 1, 1), std.view(3, 1, 1)
