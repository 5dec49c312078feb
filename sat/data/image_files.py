"""Find image files and read them as upright 8-bit RGB.

Preparing, evaluating and captioning all read images here, so that they see the same pixels.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

try:
    import simplejpeg
except ImportError:  # an extra, for speed alone
    simplejpeg = None

logger = logging.getLogger(__name__)

ORIENTATION = ExifTags.Base.Orientation
BAD_EXIF = "%s: EXIF data cannot be read (%s); taken as upright"
WITH_ALPHA = ("RGBA", "RGBa", "LA", "PA")


def read_image(source: str | Path | Image.Image) -> Image.Image:
    """Read an image as 8-bit RGB, turned upright by its EXIF tag, with transparency over white.

    Grey, black-and-white, palette, CMYK (inverted Adobe files too), YCbCr, 16-bit, 32-bit and
    floating-point images are converted. Of an animation the first frame is read. Color profiles
    are not applied. Raises `FileNotFoundError` for a missing file, and `ValueError` with the file's
    name for a file that is broken, truncated or not an image.
    """
    if isinstance(source, Image.Image):
        return _read(source, getattr(source, "filename", "") or "the image")
    with _open(source) as image:
        return _read(image, source)


def read_image_array(path: str | Path) -> np.ndarray:
    """The pixels uint8[H, W, 3] of `read_image`, faster for JPEGs if simplejpeg is installed.

    Both decode by libjpeg-turbo, so the pixels are the same. On 640x480 JPEGs of 155 kB, reading
    and resizing to 256 takes 4.2 ms with simplejpeg and 5.3 ms without (minima of 25 runs in turn,
    one thread of a shared 2-core machine). Raises as `read_image` does.
    """
    with _open(path) as image:
        plain = image.format == "JPEG" and image.mode == "RGB"
        if simplejpeg is not None and plain and _is_upright(image, path):
            with suppress(ValueError):  # Pillow reads some of these, and names the fault of others
                pixels: np.ndarray = simplejpeg.decode_jpeg(Path(path).read_bytes(), strict=True)
                return pixels
        return np.array(_read(image, path))


def _open(path: str | Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such image; check the path") from error
    except Exception as error:  # decoders of broken files raise nearly anything
        raise _unreadable(path, error) from error


def _read(image: Image.Image, name: object) -> Image.Image:
    """Decode, turn upright and convert; errors of decoders become a `ValueError`."""
    try:
        image.load()
        return _to_rgb(_upright(image, name))
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken files raise nearly anything
        raise _unreadable(name, error) from error


def _unreadable(name: object, error: Exception) -> ValueError:
    kind = type(error).__name__
    return ValueError(f"{name}: cannot be read as an image ({kind}): {error}")


def _upright(image: Image.Image, name: object) -> Image.Image:
    """Turn the image by its EXIF orientation; log a damaged tag and keep the image as it is."""
    if _is_upright(image, name):
        return image  # exif_transpose would copy it
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # EXIF readers raise nearly anything
        logger.warning(BAD_EXIF, name, error)
        return image


def _is_upright(image: Image.Image, name: object) -> bool:
    """True unless an EXIF orientation says otherwise; a damaged tag is logged."""
    try:
        return bool(image.getexif().get(ORIENTATION, 1) == 1)
    except Exception as error:  # EXIF readers raise nearly anything
        logger.warning(BAD_EXIF, name, error)
        return True


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert copies in any case


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Scale grey values of more than 8 bits to uint8; Pillow would clip them to white.

    White is 65535 in 16-bit modes. In modes without a fixed range ("I": integers, "F": floats) it
    is the top of the smallest usual range that holds all values. If none does, the values are
    stretched from the darkest to the brightest.
    """
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some of its values are not finite numbers")
    usual = {"I": (255, 65535), "F": (1, 255, 65535)}.get(mode, (65535,))
    low, high = values.min(), values.max()
    white = next((white for white in usual if low >= 0 and high <= white), None)
    if white is None:
        values, white = values - low, (high - low) or 1
    return np.round(values * (255 / white)).astype(np.uint8)


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""endings of the images in a folder; an image that is named itself may have any"""


def find_images(names: Iterable[str]) -> list[Path]:
    """The images that files, folders and globs name, in that order.

    A folder stands for the images directly in it, sorted; those of a glob are sorted too. A missing
    file is kept, so that `read_image` can report it. Raises `ValueError` for a folder or a glob
    without any image.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            images = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            nothing = f"no file in it ends in {', '.join(SUFFIXES)}"
        elif glob.has_magic(name) and not path.exists():
            matches = (Path(match) for match in glob.iglob(name, recursive=True))
            images = sorted(match for match in matches if match.is_file())
            nothing = "no file matches it; check the pattern and the folder it starts from"
        else:
            images = [path]
        if not images:
            raise ValueError(f"{name} holds no images: {nothing}")
        found += images
    return found
