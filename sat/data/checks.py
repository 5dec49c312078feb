"""Checks of prepared files as they are opened: each error is one sentence with the file's name.

An HDF5 file can name other files of the machine as its content (external storage, external links,
virtual datasets): these are refused before they are opened. orjson bounds the depth of JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import orjson

from sat.reading import check_regular, reading

REMEDY = "prepare the data again"
SOURCE = "images"
"""attribute of a file of features: the fingerprint of their images"""
FEATURES_BLOCK = 64
"""images whose features are checked together"""


def read_captions(path: Path) -> np.ndarray:
    """int32[N, T] from a JSON list of lists of one length."""
    captions = _integers(path, 2, "a list of captions of one length")
    if captions.size and not 0 <= captions.min() <= captions.max() < 2**31:
        raise ValueError(f"{path} holds ids from {captions.min()} to {captions.max()}: {REMEDY}")
    return captions.astype(np.int32)


def read_lengths(path: Path, width: int) -> np.ndarray:
    """int64[N] from a JSON list: tokens of each caption, from 2 (start and end) to `width`."""
    lengths = _integers(path, 1, "a list of lengths")
    if lengths.size and not 2 <= lengths.min() <= lengths.max() <= width:
        raise ValueError(
            f"{path} holds lengths from {lengths.min()} to {lengths.max()}, not from 2 to {width}, "
            f"the width of the captions: {REMEDY}"
        )
    return lengths.astype(np.int64)


def check_ids(path: Path, captions: np.ndarray, vocab_size: int) -> None:
    """Raise `ValueError` where a caption holds an id that the vocabulary lacks."""
    if captions.size and captions.max() >= vocab_size:
        raise ValueError(
            f"{path} holds token {captions.max()}, but the vocabulary has {vocab_size}: {REMEDY}"
        )


def read_references(path: Path, num_images: int) -> list[dict[str, Any]]:
    """The entry of each image, its "captions" as they are scored: as written, or their tokens."""
    with reading(path, REMEDY):
        content = orjson.loads(check_regular(path).read_bytes())
        key = "tokens" if content.get("scored") == "tokens" else "captions"
        images = [image | {"captions": image[key]} for image in content["images"]]
        if len(images) != num_images:
            raise ValueError(f"it is of {len(images)} images, not {num_images}")
        for image in images:
            texts, known = image["captions"], "image_id" in image and "file_name" in image
            if not known or type(texts) is not list or {str} != set(map(type, texts)):
                raise ValueError(f"it has no captions of image {image.get('image_id')!r}")
        return images


def read_images_header(path: Path) -> tuple[int, int, int, str]:
    """The captions per image, N, S and the resize rule of images uint8[N, 3, S, S].

    They must lie in the file itself.
    """
    with reading(path, REMEDY), h5py.File(check_regular(path), "r") as file:
        images = _own_dataset(file, "images")
        if images is None or images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError("it has no images of type uint8[N, 3, S, S] of its own")
        if images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(f"its images are uint8{list(images.shape)}, not [N, 3, S, S]")
        per_image = file.attrs.get("captions_per_image")
        if not isinstance(per_image, (int, np.integer)) or per_image < 1:
            raise ValueError(f"its captions_per_image is {per_image!r}")
        resize = str(file.attrs.get("resize", "squash"))
        return int(per_image), len(images), images.shape[-1], resize


def check_features(path: Path, source: str, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless a file holds finite float16 features of this shape.

    `source` is the fingerprint of the images that they must be of.
    """
    with reading(path, "encode the images again"), h5py.File(check_regular(path), "r") as file:
        if file.attrs.get(SOURCE) != source:
            raise ValueError("its images are not, or not known to be, those of today")
        features = _own_dataset(file, "features")
        if features is None or (features.dtype, features.shape) != (np.float16, shape):
            raise ValueError(f"it has no features of type float16{list(shape)} of its own")
        for start in range(0, len(features), FEATURES_BLOCK):
            if not np.isfinite(features[start : start + FEATURES_BLOCK]).all():
                raise ValueError("it holds NaN or infinite features")


def _own_dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The dataset of this name whose numbers lie in this very file, or None."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None  # a soft or external link, or nothing: not followed
    found = file[name]
    own = isinstance(found, h5py.Dataset) and not found.external and not found.is_virtual
    return found if own else None


def _integers(path: Path, dimensions: int, what: str) -> np.ndarray:
    data = check_regular(path).read_bytes()
    try:
        content: Any = orjson.loads(data)
        values = np.array(content)
        if values.ndim != dimensions or values.dtype.kind != "i":
            raise ValueError(f"its values are {values.dtype} in {values.ndim} dimensions")
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not {what}: {REMEDY}") from error
    return values
