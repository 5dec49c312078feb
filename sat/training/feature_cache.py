"""Encode every image once, read features instead of pixels: training with a frozen encoder.

I images, W views (the image, and mirrored), P regions, D features.
"""

from __future__ import annotations

import collections
import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from sat.atomic_io import atomic_write, check_space, check_writable
from sat.captioner import Captioner
from sat.config.model import Preprocessing
from sat.data.checks import SOURCE, check_features
from sat.data.dataloader import Batch, evaluation_loader
from sat.data.dataset import MIRRORED, CaptionDataset
from sat.data.manifest import fingerprint
from sat.data.progress import Progress
from sat.distributed import barrier, gather_in_order, on_rank_zero, rank, share
from sat.models.weights import digest

logger = logging.getLogger(__name__)


def cache_key(module: nn.Module, preprocessing: Preprocessing, views: int) -> str:
    """Sixteen hexadecimal digits that change with any weight or layer, preprocessing or views."""
    return digest(module, repr((preprocessing, views, module)))[:16]


@torch.inference_mode()
def cache_features(
    encode: Callable[[Tensor], Tensor],
    dataset: CaptionDataset,
    key: str,
    *,
    mirror: bool = False,
    folder: str | Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    progress: Progress = iter,
) -> Path:
    """The HDF5 file of the split's features float16[I, W, P, D], written unless it is there.

    `encode` takes uint8[B, 3, S, S] to float[B, P, D]; `key` (see `cache_key`) names what made
    the features and stands in the file's name. The file lies beside the images, or in `folder`;
    there its name tells the images of different folders apart. A file that is damaged, or of images
    of other content, is written anew: each rank encodes its share, rank zero writes. Raises
    `OSError` when the folder cannot be written or the disk is too small for them, before they are
    encoded.
    """
    images = dataset.path("IMAGES", ".hdf5")
    path = dataset.path("FEATURES", f"_{key}.hdf5")
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        source = hashlib.sha256(str(images.resolve()).encode()).hexdigest()[:8]
        path = Path(folder, f"{path.stem}_{source}{path.suffix}")
    source, views = fingerprint(images), [0, MIRRORED][: 1 + mirror]

    def is_there() -> bool:
        if not path.exists():
            return False
        first = encode(dataset.image(0)[None])
        return _is_whole(path, source, (dataset.num_images, len(views), *first.shape[1:]))

    def encode_views(batch: Batch) -> np.ndarray:
        pixels = [batch.images.flip(-1) if view else batch.images for view in views]
        features = torch.stack([encode(view).half().cpu() for view in pixels], dim=1)
        if not features.isfinite().all():
            raise ValueError(
                "features exceed half precision (65504): train without --cache_features"
            )
        return features.numpy()

    if on_rank_zero(is_there):
        return path
    loader = evaluation_loader(dataset, batch_size, workers=workers, share=share())
    parts = gather_in_order(map(encode_views, progress(loader)))
    if rank() == 0:
        _write(path, parts, dataset.num_images, source, images)
    else:
        collections.deque(parts, maxlen=0)  # takes part in the rounds
    barrier()
    return path


def _write(path: Path, parts: Iterator[np.ndarray], count: int, source: str, images: Path) -> None:
    """Write the features of `count` images, which come in parts, in their order."""
    check_writable(path.parent, "name another folder of features with --cache_dir")
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        written = 0
        for features in parts:
            if written == 0:
                file.attrs[SOURCE] = source
                shape = (count, *features.shape[1:])
                needed = 2 * math.prod(shape)
                logger.info("features of %d images: %.2f GB in %s", count, needed / 1e9, path)
                remedy = "free some space, or train without --cache_features"
                check_space(path.parent, needed, f"features of {count} images", remedy)
                stored = file.create_dataset("features", shape, dtype="float16")
            stored[written : written + len(features)] = features
            written += len(features)
        if fingerprint(images) != source:
            raise ValueError(f"{images} changed while its features were encoded: start again")


def _is_whole(path: Path, source: str, shape: tuple[int, ...]) -> bool:
    """Whether the features can be read; a line in the log says so, or what is wrong with them."""
    try:
        check_features(path, source, shape)
    except (ValueError, OSError) as error:
        logger.info("%s", error)
        return False
    logger.info("reading the features in %s", path)
    return True


def with_features(
    captioner: Captioner,
    dataset: CaptionDataset,
    *,
    mirror: bool,
    folder: str | None,
    bar: Callable[..., Any],
) -> CaptionDataset:
    """The dataset with cached features in place of images, encoded now unless they are there.

    Where the last blocks of the encoder learn, the cache holds the activations of the frozen ones.
    Raises `ValueError` where no part of the encoder is frozen.
    """
    frozen = captioner.model.frozen_part()
    if frozen is None:
        raise ValueError("the whole encoder learns: train without --cache_features")
    captioner.model.encoder.eval()
    device, encode = captioner.device, frozen.encode

    def encode_on_device(images: Tensor) -> Tensor:
        return encode(images.to(device))

    key = cache_key(frozen.module, captioner.preprocessing, 1 + mirror)
    progress = partial(bar, desc=f"encoding {dataset.split}", unit="batch")
    how: dict[str, Any] = {"mirror": mirror, "folder": folder, "progress": progress}
    path = cache_features(encode_on_device, dataset, key, **how)
    return dataset.reading(path)
