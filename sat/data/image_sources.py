"""The forms in which people have an image: a path, an address, bytes, an array, a tensor."""

from __future__ import annotations

import http.client
import io
import logging
import os
import time
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO, Union

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)

ImageSource = Union[str, Path, bytes, BinaryIO, Image.Image, np.ndarray, "torch.Tensor"]  # type: ignore[name-defined]  # noqa: F821
"""path or address (http, https, file), encoded bytes, open file, Pillow image, uint8[H, W, 3] or
uint8[H, W], or tensor [3, H, W] (uint8, or floats from 0 to 1)"""

SAMPLES = Path(__file__).parents[1] / "samples"
"""images that come with the library: cat.jpg, coffee.jpg, astronaut.jpg"""
SCHEMES = ("http://", "https://", "file://")
DOWNLOAD_MB, DOWNLOAD_SECONDS = 64, 30
"""largest file that is downloaded, and the longest time that it may take"""
LONGEST_NAME = 200
"""characters of a name in a message"""


def open_source(source: Any) -> tuple[Path | BinaryIO | Image.Image, str]:
    """A file to decode, or an image in memory, and the source's name for messages.

    A path where nothing is may be the name of a sample image of the library (cat.jpg). Raises
    `ValueError` for what is no image, or an address that cannot be read.
    """
    if isinstance(source, Image.Image):
        return source, str(getattr(source, "filename", "") or "the image")
    if isinstance(source, str) and source.lower().startswith(SCHEMES):
        return io.BytesIO(_download(source)), shortened(source)
    if isinstance(source, (str, os.PathLike)):
        return _path_or_sample(Path(source)), shortened(str(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(bytes(source)), f"the image ({len(source)} bytes)"
    if hasattr(source, "read"):
        data = source.read()
        if not isinstance(data, bytes):
            raise ValueError("the file is open as text: open it with mode 'rb'")
        return io.BytesIO(data), shortened(str(getattr(source, "name", "the file")))
    if isinstance(source, np.ndarray):
        return Image.fromarray(_checked(source)), "the array"
    if hasattr(source, "detach"):
        return Image.fromarray(_checked(_channels_last(source))), "the tensor"
    raise ValueError(
        f"a {type(source).__name__} is no image: give a path, an address, bytes, an open file, a "
        "Pillow image, an array uint8[H, W, 3] or a tensor [3, H, W]"
    )


def _path_or_sample(path: Path) -> Path:
    """The path, or where nothing is there, the sample image of the library by that name."""
    sample = SAMPLES / path
    if os.path.exists(path) or not os.path.isfile(sample):  # which take names that are too long
        return path
    logger.info("%s is not there: the sample image of that name is taken", path)
    return sample


def shortened(name: str) -> str:
    """At most `LONGEST_NAME` characters of a name."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


def _download(address: str) -> bytearray:
    """The bytes at an address; `ValueError` where it is silent, missing or too large."""
    most, data = DOWNLOAD_MB * 2**20, bytearray()  # adding to bytes would copy them each time
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    try:
        with urllib.request.urlopen(address, timeout=DOWNLOAD_SECONDS) as reply:
            while block := reply.read1(2**16):
                data += block
                if len(data) > most:
                    raise ValueError(f"it holds over {DOWNLOAD_MB} MB")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not there after {DOWNLOAD_SECONDS} s")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ValueError(f"{shortened(address)}: cannot be downloaded ({error})") from error
    return data


def _channels_last(tensor: Any) -> np.ndarray:
    """uint8[H, W, 3] of a tensor [3, H, W] or [1, H, W]."""
    array = tensor.detach().cpu()
    if array.ndim != 3 or array.shape[0] not in (1, 3) or not array.numel():
        raise ValueError(f"the tensor is {list(array.shape)}: give [3, H, W], one image")
    if array.is_floating_point():
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"the tensor holds floats from {low:.3g} to {high:.3g}: give 0 to 1, or uint8"
            )
        array = (array.float() * 255).round().byte()
    values: np.ndarray = array.permute(1, 2, 0).numpy()
    return values[..., 0] if values.shape[2] == 1 else values


def _checked(array: np.ndarray) -> np.ndarray:
    grey_or_rgb = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not grey_or_rgb or 0 in array.shape:
        raise ValueError(
            f"the array is {array.dtype}{list(array.shape)}: give uint8[H, W, 3] (or 4) or "
            "uint8[H, W]"
        )
    return np.ascontiguousarray(array)
