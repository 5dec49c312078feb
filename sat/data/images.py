"""From a photo file to the numbers the encoder wants, and back: the only code that does this.

B images, S side of the square picture. Preparing, training, evaluating and captioning all read,
resize and normalise here, so that they cannot differ. torch is imported where tensors come in.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps

from sat.config import Preprocessing

try:
    import simplejpeg
except ImportError:  # an extra, for speed alone
    simplejpeg = None

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

ORIENTATION = ExifTags.Base.Orientation
WITH_ALPHA = ("RGBA", "RGBa", "LA", "PA")


def read_photo(source: str | Path | Image.Image) -> Image.Image:
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


def read_pixels(path: str | Path) -> np.ndarray:
    """The pixels uint8[H, W, 3] of `read_photo`: JPEGs are read faster where simplejpeg is there.

    It decodes by libjpeg-turbo as Pillow does, so the pixels are the same; what is not plainly in
    order is left to Pillow. Raises as `read_photo` does.
    """
    with _open(path) as image:
        if simplejpeg is not None and image.format == "JPEG" and image.mode == "RGB":
            try:
                if _is_upright(image):
                    return simplejpeg.decode_jpeg(Path(path).read_bytes(), strict=True)
            except Exception:  # Pillow reads some of these, and says of the others what is wrong
                pass
        return np.array(_read(image, path))


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


def normalise(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
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


def denormalise(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """uint8[B, 3, S, S]: the pixels that `normalise` was given."""
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
