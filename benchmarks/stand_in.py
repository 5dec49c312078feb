"""Photos and prepared data made on the spot, for benchmarks that read files."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from skimage import data

from benchmarks.pair import random_captions
from sat.data.dataset import CaptionDataset

NAME = "flickr8k_5_cap_per_img_5_min_word_freq"
PER_IMAGE = 5
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
MAX_LENGTH = 52


def photos(folder: Path, number: int) -> list[Path]:
    """JPEG files of 640×480 pixels, about as large as COCO's: parts of real photos, and grain."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in _present()]
    paths = []
    for i in range(number):
        source = sources[i % len(sources)]
        width = int(source.width * random.uniform(0.6, 1.0))
        height = min(source.height, width * 3 // 4)
        left = int(random.integers(source.width - width + 1))
        top = int(random.integers(source.height - height + 1))
        part = source.crop((left, top, left + width, top + height))
        pixels = np.asarray(part.resize((640, 480), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = random.normal(0, 6, (480, 640, 1)).astype(np.float32)
        paths.append(folder / f"{i:05d}.jpg")
        Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(paths[-1], quality=95)
    return paths


def _present() -> list[str]:
    """Those of scikit-image's photos that it brings along, so that nothing is downloaded."""
    return [name for name in PHOTOS if any(Path(data.data_dir).glob(f"{name}.*"))]


def prepared(
    folder: Path, images: int, side: int, vocabulary: int, lengths: np.ndarray | None = None
) -> CaptionDataset:
    """Training data in the prepared layout: noise for pictures, five random captions of each.

    The captions' `lengths` are COCO's unless given.
    """
    path = folder / f"TRAIN_IMAGES_{NAME}.hdf5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["captions_per_image"] = PER_IMAGE
        pictures = file.create_dataset("images", (images, 3, side, side), np.uint8)
        for i in range(images):
            pictures[i] = random.integers(0, 256, (3, side, side), dtype=np.uint8)
    given = None if lengths is None else torch.from_numpy(lengths)
    captions, found = random_captions(images * PER_IMAGE, vocabulary, given)
    padded = np.zeros((len(captions), MAX_LENGTH), dtype=np.int64)
    padded[:, : captions.shape[1]] = captions.numpy()
    write_captions(folder, padded, found.numpy())
    return CaptionDataset(folder, NAME, "train")


def write_captions(folder: Path, captions: np.ndarray, lengths: np.ndarray, times: int = 1) -> None:
    """The two JSON files as `json.dump` writes them, everything in them so many times."""
    text = json.dumps(captions.tolist())[1:-1]
    (folder / f"TRAIN_CAPTIONS_{NAME}.json").write_text(f"[{', '.join([text] * times)}]")
    (folder / f"TRAIN_CAPLENS_{NAME}.json").write_text(json.dumps(lengths.tolist() * times))


def features(folder: Path, images: int, regions: int, dim: int) -> Path:
    """A file as `cache_features` writes it, of random half-precision features in one view."""
    path = folder / f"features_{regions}.hdf5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("features", (images, 1, regions, dim), np.float16)
        for i in range(images):
            stored[i, 0] = random.random((regions, dim), dtype=np.float32)
    return path
