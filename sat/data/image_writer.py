"""Photos → one HDF5 file of pictures, decoded by threads, written in order.

S side of the square pictures. Decoders and torch let go of Python's lock while they work, so
threads are enough and nothing has to be copied between processes.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import numpy as np

from sat.config.model import Preprocessing
from sat.data.image_files import read_image_array
from sat.data.transforms import resize

logger = logging.getLogger(__name__)

Progress = Callable[..., Iterable[Any]]
Size = tuple[int, int]
Item = TypeVar("Item")
Result = TypeVar("Result")


class PreparedImage(NamedTuple):
    """What the model sees of a photo."""

    pixels: np.ndarray  # uint8[3, S, S]
    photo_size: Size  # width and height of the upright photo


def write_images(
    path: Path,
    photos: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    captions_per_image: int,
    workers: int | None = None,
    skip_bad: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[Size | None]:
    """Width and height of every photo, None for those that were skipped; writes `path`.

    The file is the tutorial's: one contiguous uint8[I, 3, S, S] named `images`, the attribute
    `captions_per_image`, and ours, `resize`. With `skip_bad` it is chunked, for it may shrink:
    photos that cannot be read are left out and logged; else the first of them raises `ValueError`
    or `FileNotFoundError`. Memory does not grow with the number of photos.
    """
    shape = (3, preprocessing.size, preprocessing.size)
    growing: dict[str, Any] = {"maxshape": (None, *shape), "chunks": (1, *shape)}
    decode = partial(_decode, preprocessing=preprocessing)
    sizes: list[Size | None] = []
    written = 0
    with h5py.File(path, "w") as file, closing(in_order(decode, photos, workers)) as results:
        file.attrs["captions_per_image"] = np.int64(captions_per_image)
        file.attrs["resize"] = preprocessing.resize
        images = file.create_dataset(
            "images", (len(photos), *shape), np.uint8, **(growing if skip_bad else {})
        )
        for result in progress(results):
            if isinstance(result, PreparedImage):
                images[written] = result.pixels
                sizes.append(result.photo_size)
                written += 1
            elif skip_bad:
                sizes.append(None)
                logger.warning("skipped: %s", result)
            else:
                remedy = "repair it, or leave such photos out with --on_bad_image skip"
                raise type(result)(f"{result}; {remedy}") from result
        if written < len(photos):
            images.resize(written, axis=0)
    return sizes


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """`work(item)` for each item, in order, done ahead by `workers` threads (default: all cores).

    Never more than two items for each thread are taken and not yet handed on, so that a slow
    reader does not fill the memory.
    """
    workers = workers or os.cpu_count() or 1
    window: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                window.append(pool.submit(work, item))
                if len(window) == 2 * workers:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()


def _decode(
    photo: Path, preprocessing: Preprocessing
) -> PreparedImage | ValueError | FileNotFoundError:
    """The picture, or the error as a value: its turn in the order comes later."""
    try:
        pixels = read_image_array(photo)
    except (ValueError, FileNotFoundError) as error:
        return error
    return PreparedImage(resize(pixels, preprocessing), (pixels.shape[1], pixels.shape[0]))
