"""From a photo file to the numbers the encoder wants, and back: the only code that does this.

B images, S side of the square picture. Preparing, training, evaluating and captioning all read,
resize and normalise here, so that they cannot differ. torch is imported where tensors come in.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps

try:
    import simplejpeg
except ImportError:  # an extra, for speed alone
    simplejpeg = None

if TYPE_CHECKING:
    pass


logger = logging.getLogger(__name__)

ORIENTATION = ExifTags.Base.Orientation
WITH_ALPHA = ("RGBA", "RGBa", "LA", "PA")


def read_image(source: str | Path | Image.Image) -> Image.Image:
    """The photo as 8-bit RGB, upright as its EXIF tag says, transparent parts over white.

    Grey, black-and-white, palette, CMYK (inverted Adobe files too), YCbCr, 16-bit, 32-bit and
    floating-point photos are converted; of an animation the first frame counts. Colour profiles
    are not applied. Raises `FileNotFoundError` for a missing file and `ValueError`, with the file's
    name, for one that is no photo, or a broken or truncated one.
    """
    if isinstance(source, Image.Image):
        return _read(source, getattr(source, "filename", "") or "the photo")
    with _open(source) as image:
        return _read(image, source)


def read_image_array(path: str | Path) -> np.ndarray:
    """The pixels uint8[H, W, 3] of `read_image`: JPEGs are read faster where simplejpeg is there.

    It decodes by libjpeg-turbo as Pillow does, so the pixels are the same; what is not plainly in
    order is left to Pillow. Raises as `read_image` does.
    """
    with _open(path) as image:
        if simplejpeg is not None and image.format == "JPEG" and image.mode == "RGB":
            try:
                if _is_upright(image):
                    return simplejpeg.decode_jpeg(Path(path).read_bytes(), strict=True)
            except Exception:  # Pillow reads some of these, and says of the others what is wrong
                pass
        return np.array(_read(image, path))


def _open(path: str | Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no such photo; check the path") from error
    except Exception as error:  # as below
        raise _unreadable(path, error) from error


def _read(image: Image.Image, name: object) -> Image.Image:
    """Decode, turn upright and convert; whatever a decoder throws comes out as one sentence."""
    try:
        image.load()
        return _to_rgb(_upright(image, name))
    except MemoryError:
        raise
    except Exception as error:  # decoders of broken files raise nearly anything
        raise _unreadable(name, error) from error


def _unreadable(name: object, error: Exception) -> ValueError:
    kind = type(error).__name__
    return ValueError(f"{name}: cannot be read as a photo ({kind}): {error}")


def _upright(image: Image.Image, name: object) -> Image.Image:
    """The image turned as its EXIF orientation says; a damaged tag must not cost the photo."""
    try:
        # exif_transpose would copy the image all the same
        return image if _is_upright(image) else ImageOps.exif_transpose(image)
    except Exception as error:  # as above: EXIF readers raise nearly anything
        logger.warning("%s: EXIF data cannot be read (%s); taken as upright", name, error)
        return image


def _is_upright(image: Image.Image) -> bool:
    return image.getexif().get(ORIENTATION, 1) == 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert copies in any case


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values of more than 8 bits as uint8, scaled where Pillow would clip them to white.

    Which value is white? For 16-bit modes 65535; modes that do not say it ("I": whole numbers,
    "F": floating-point) get the smallest of the usual ranges that holds all values, and are
    stretched from their darkest to their brightest value if none does.
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
"""what a folder's photos end in; a photo that is named itself may end in anything"""


def find_images(names: Iterable[str]) -> list[Path]:
    """The photos that files, folders and globs name, in that order.

    A folder stands for the photos right inside it, sorted, as a glob's are. A file that does not
    exist is left for its reader to complain of. Raises `ValueError` for a folder or a glob without
    any photo.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            photos = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            nothing = f"no file in it ends in {', '.join(SUFFIXES)}"
        elif glob.has_magic(name) and not path.exists():
            matches = (Path(match) for match in glob.iglob(name, recursive=True))
            photos = sorted(match for match in matches if match.is_file())
            nothing = "no file matches it; check the pattern and the folder it starts from"
        else:
            photos = [path]
        if not photos:
            raise ValueError(f"{name} holds no photos: {nothing}")
        found += photos
    return found
