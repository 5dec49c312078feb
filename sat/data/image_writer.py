"""Decode and resize images by threads and write them to one HDF5 file, in order.

S side of the square images. Decoders and torch release Python's lock while they work, so threads
are enough and nothing has to be copied between processes.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from sat.config.model import Preprocessing
from sat.data.image_files import read_image_array
from sat.data.progress import Progress
from sat.data.transforms import resize

logger = logging.getLogger(__name__)

BYTES_PER_CHUNK, BYTES_OF_HEADERS = 128, 4096
"""at most, of what HDF5 writes besides the pixels"""
Size = tuple[int, int]
Item = TypeVar("Item")
Result = TypeVar("Result")


def write_images(
    path: Path,
    paths: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    captions_per_image: int,
    workers: int | None = None,
    skip_bad: bool = False,
    progress: Progress = iter,
) -> list[Size | None]:
    """Write the images to `path`; return width and height of each, None if it was skipped.

    The file has the tutorial's layout: one contiguous uint8[I, 3, S, S] named `images` and the
    attribute `captions_per_image`, to which we add `resize`. With `skip_bad`, images that cannot be
    read are left out and logged (the data set is chunked then, because it may shrink). Otherwise
    the first of them raises `ValueError` or `FileNotFoundError`. Memory does not grow with the
    number of images.
    """
    shape = (3, preprocessing.size, preprocessing.size)
    growing: dict[str, Any] = {"maxshape": (None, *shape), "chunks": (1, *shape)}
    decode = partial(_decode, preprocessing=preprocessing)
    sizes: list[Size | None] = []
    written = 0
    with h5py.File(path, "w") as file, closing(in_order(decode, paths, workers)) as results:
        file.attrs["captions_per_image"] = np.int64(captions_per_image)
        file.attrs["resize"] = preprocessing.resize
        images = file.create_dataset(
            "images", (len(paths), *shape), np.uint8, **(growing if skip_bad else {})
        )
        _reserve(file, images.size + BYTES_PER_CHUNK * len(paths) + BYTES_OF_HEADERS)
        for result in progress(results):
            if isinstance(result, tuple):
                images[written], size = result
                sizes.append(size)
                written += 1
            elif skip_bad:
                sizes.append(None)
                logger.warning("skipped: %s", result)
            else:
                remedy = "repair it, or leave such images out with --on_bad_image skip"
                raise type(result)(f"{result}; {remedy}") from result
        if written < len(paths):
            images.resize(written, axis=0)
        file.flush()
        end = file.id.get_filesize()
    os.truncate(path, end)  # HDF5 leaves what is reserved beyond it
    return sizes


def _reserve(file: h5py.File, size: int) -> None:
    """Take bytes of the disk for a file, or raise `OSError`, where the system has a call for it.

    HDF5 that meets a full disk later cannot close the file, and crashes as Python ends.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.id.get_vfd_handle(), 0, size)


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Generator[Result, None, None]:
    """`work(item)` for each item, in order, computed ahead by threads (default: one per core).

    At most two items per thread are in progress, so that a slow consumer does not fill the memory.
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
    path: Path, preprocessing: Preprocessing
) -> tuple[np.ndarray, Size] | ValueError | FileNotFoundError:
    """The image as the model sees it, uint8[3, S, S], and width and height of the upright one.

    An error comes as a value, which is raised or logged in order.
    """
    try:
        pixels = read_image_array(path)
    except (ValueError, FileNotFoundError) as error:
        return error
    return resize(pixels, preprocessing), (pixels.shape[1], pixels.shape[0])
