"""Find image files and read them as upright 8-bit RGB.

Preparing, evaluating and captioning all read images here, so that they see the same pixels.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from sat.data.image_sources import SCHEMES, ImageSource, open_source, shortened

try:
    import simplejpeg
except ImportError:  # an extra, for speed alone
    simplejpeg = None

logger = logging.getLogger(__name__)

ORIENTATION = ExifTags.Base.Orientation
BAD_EXIF = "%s: EXIF data cannot be read (%s); taken as upright"
FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "MPO", "AVIF"),
    *("HEIF", "ICO", "PCX", "TGA", "SGI", "QOI"),
)
"""the only kinds of files that are decoded, as far as Pillow and its plugins can: an EPS or PDF
would start another program"""
MAX_MEGAPIXELS = 100
ROWS_AT_ONCE = 256
SMALLER = "shrink it, or allow it with max_megapixels"
WITH_ALPHA = ("RGBA", "RGBa", "LA", "PA")


def read_image(source: ImageSource, max_megapixels: float = MAX_MEGAPIXELS) -> Image.Image:
    """Read an image as 8-bit RGB, turned upright by its EXIF tag, with transparency over white.

    `source` is anything that `image_sources.open_source` takes: a path, an address, bytes, a file,
    a Pillow image, an array or a tensor.

    Grey, black-and-white, palette, CMYK (inverted Adobe files too), YCbCr, 16-bit, 32-bit and
    floating-point images are converted. Of an animation the first frame is read. Color profiles
    are not applied. Raises `FileNotFoundError` for a missing file, and `ValueError` with the file's
    name for a file that is broken, truncated or not an image.
    """
    opened, name = open_source(source)
    if isinstance(opened, Image.Image):
        return _read(opened, name, max_megapixels)
    with _open(opened, name) as image:
        return _read(image, name, max_megapixels)


def read_image_array(path: str | Path) -> np.ndarray:
    """The pixels uint8[H, W, 3] of `read_image`, faster for JPEGs if simplejpeg is installed.

    Both decode by libjpeg-turbo, so the pixels are the same. On 640x480 JPEGs of 155 kB, reading
    and resizing to 256 takes 4.2 ms with simplejpeg and 5.3 ms without (minima of 25 runs in turn,
    one thread of a shared 2-core machine). Raises as `read_image` does.
    """
    with _open(Path(path), path) as image:
        _check_size(image, path, MAX_MEGAPIXELS)
        plain = image.format == "JPEG" and image.mode == "RGB"
        if simplejpeg is not None and plain and _is_upright(image, path):
            with suppress(ValueError):  # Pillow reads some of these, and names the fault of others
                pixels: np.ndarray = simplejpeg.decode_jpeg(Path(path).read_bytes(), strict=True)
                return pixels
        return np.array(_read(image, path, MAX_MEGAPIXELS))


def allow_megapixels(max_megapixels: float) -> None:
    """Lift Pillow's own limit, for all of the process, where larger images are allowed."""
    if max_megapixels > MAX_MEGAPIXELS:
        Image.MAX_IMAGE_PIXELS = None


def _open(file: Path | BinaryIO, name: object) -> Image.Image:
    Image.init()  # registers what plugins add
    try:
        if isinstance(file, Path) and file.is_fifo():
            raise ValueError("it is a pipe, which may stay silent: give the file itself")
        return Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN])
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: there is no such image; check the path") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error}: {SMALLER}") from error
    except Exception as error:  # decoders of broken files raise nearly anything
        raise _unreadable(name, error) from error


def _read(image: Image.Image, name: object, max_megapixels: float) -> Image.Image:
    """Decode, turn upright and convert; errors of decoders become a `ValueError`."""
    _check_size(image, name, max_megapixels)
    try:
        image.load()
        return _to_rgb(_upright(image, name))
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken files raise nearly anything
        raise _unreadable(name, error) from error


def _check_size(image: Image.Image, name: object, max_megapixels: float) -> None:
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        raise ValueError(
            f"{name}: has {megapixels:.12g} megapixels, more than {max_megapixels:.12g}: {SMALLER}"
        )


def _unreadable(name: object, error: Exception) -> ValueError:
    kind = type(error).__name__
    return ValueError(f"{name}: cannot be read as an image ({kind}): {shortened(str(error))}")


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
    """Scale gray values of more than 8 bits to uint8; Pillow would clip them to white.

    White is 65535 in 16-bit modes. In modes without a fixed range ("I": integers, "F": floats) it
    is the top of the smallest usual range that holds all values. If none does, the values are
    stretched from the darkest to the brightest.
    """
    if not np.isfinite(values).all():
        raise ValueError("some of its values are not finite numbers")
    usual = {"I": (255, 65535), "F": (1, 255, 65535)}.get(mode, (65535,))
    low, high = float(values.min()), float(values.max())
    top = next((top for top in usual if low >= 0 and high <= top), None)
    black, white = (low, (high - low) or 1) if top is None else (0.0, top)
    scaled = np.empty(values.shape, np.uint8)
    for rows, result in zip(_row_blocks(values), _row_blocks(scaled)):
        result[:] = np.round((rows.astype(np.float64) - black) * (255 / white))
    return scaled


def _row_blocks(values: np.ndarray) -> list[np.ndarray]:
    """Views of a few rows each, so that their copies as float64 are small."""
    return np.array_split(values, -(-len(values) // ROWS_AT_ONCE))


SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".avif", ".heic"),
)
"""endings of the images in a folder, as far as Pillow opens them; an image that is named itself may
have any"""
MOST_NAMED = 5


def find_images(names: Iterable[str]) -> list[Path | str]:
    """The images that files, folders, globs and addresses (of `SCHEMES`) name, in that order.

    A folder stands for the images directly in it, sorted; those of a glob are sorted too. A missing
    file is kept, so that `read_image` can report it. Raises `ValueError` for a folder or a glob
    without any image.
    """
    found: list[Path | str] = []
    for name in names:
        path = Path(name)
        images: Sequence[Path | str] = [path]
        if name.lower().startswith(SCHEMES):
            images = [name]
        elif path.is_dir():
            images = _images_in(path)
            nothing = f"no file in it ends in {', '.join(SUFFIXES)}"
        elif glob.has_magic(name) and not path.exists():
            matches = (Path(match) for match in glob.iglob(name, recursive=True))
            images = sorted(match for match in matches if match.is_file())
            nothing = "no file matches it; check the pattern and the folder it starts from"
        if not images:
            raise ValueError(f"{name} holds no images: {nothing}")
        found += images
    return found


def _images_in(folder: Path) -> list[Path]:
    """The images directly in a folder, sorted; other files are named in a line of the log."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    kind_of = Image.registered_extensions()  # what Pillow and its plugins can open here
    known = {suffix for suffix in SUFFIXES if kind_of.get(suffix) in FORMATS}
    images = [
        path for path in files if path.suffix.lower() in known and not path.name.startswith("._")
    ]
    skipped = sorted(path.name for path in set(files).difference(images))
    if skipped and images:
        logger.info("%s: no images, skipped: %s", folder, ", ".join(skipped[:MOST_NAMED]))
    return images
