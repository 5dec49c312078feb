"""Preparing photos and reading captions: ours, and the tutorial's way in one process.

    python -m benchmarks.prepare [--quick]

The photos are 640×480 JPEGs cut from scikit-image's. The tutorial's way decodes each wholly,
resizes it with the same filter and writes it, one after another. Both files are compared first.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from benchmarks import measure, stand_in
from benchmarks.pair import random_captions
from sat.config.model import Preprocessing
from sat.data.dataset import CaptionDataset
from sat.data.image_writer import write_images

COCO_IMAGES, DISTINCT = 113_200, 2000
"""566,000 captions, 2,000 different ones over and over"""
SIDE = 256


def ours(photos: list[Path], target: Path, workers: int) -> None:
    write_images(target, photos, Preprocessing(size=SIDE), captions_per_image=5, workers=workers)


def tutorial(photos: list[Path], target: Path) -> None:
    """Decode, resize and write, photo by photo."""
    with h5py.File(target, "w") as file:
        file.attrs["captions_per_image"] = 5
        images = file.create_dataset("images", (len(photos), 3, SIDE, SIDE), dtype="uint8")
        for i, path in enumerate(photos):
            photo = Image.open(path).convert("RGB")
            photo = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            pixels = np.array(photo).transpose(2, 0, 1)
            assert pixels.shape == (3, SIDE, SIDE)
            images[i] = pixels


def difference(one: Path, other: Path) -> str:
    """How far apart the pixels of two prepared files are."""
    with h5py.File(one) as first, h5py.File(other) as second:
        apart = np.abs(first["images"][:].astype(int) - second["images"][:])
    return f"pixels apart by {apart.mean():.3f} on average, {apart.max()} at most (of 255)"


def pictures(folder: Path, rounds: int, number: int) -> tuple[str, str]:
    """The table of the pictures' rates, and the sentence about their memory."""
    photos = stand_in.photos(folder / "photos", number)
    one, two, other = (folder / f"{name}.hdf5" for name in ("one", "two", "tutorial"))
    calls: list[Callable[[], object]] = [
        partial(ours, photos, one, 1),
        partial(ours, photos, two, 2),
        partial(tutorial, photos, other),
    ]
    *mine, theirs = measure.in_turn(calls, rounds, torch.device("cpu"))
    lines = [
        [
            f"{count} worker{'s' * (count > 1)}",
            _rate(number, time),
            _rate(number, theirs),
            measure.ratio(theirs.median, time.median),
            difference(path, other),
        ]
        for count, time, path in ((1, mine[0], one), (2, mine[1], two))
    ]
    head = ("pictures", "ours, images/s", "tutorial's way", "ratio", "and the result")
    held = [measure.peak_memory(warm, photos * times, folder / "memory.hdf5") for times in (1, 4)]
    size = sum(path.stat().st_size for path in photos) / number / 1000
    told = (
        f"{number} photos of {size:.0f} kB on average. Peak memory of {number} photos with two "
        f"workers: {measure.megabytes(held[0])}; of {4 * number}: {measure.megabytes(held[1])}."
    )
    return measure.table(head, lines), told


def warm(photos: list[Path], target: Path) -> Callable[[], object]:
    """What `peak_memory` measures: the whole pipeline, after one photo has loaded its parts."""
    ours(photos[:1], target, 2)
    return partial(ours, photos, target, 2)


def _rate(number: int, taken: measure.Timing) -> str:
    return f"{number / taken.median:.0f} ({number / taken.high:.0f} to {number / taken.low:.0f})"


def write_coco(folder: Path, images: int) -> float:
    """Prepared captions of so many images, of pictures never written; the bytes of their file."""
    captions, lengths = random_captions(DISTINCT, 9490)
    padded = np.zeros((len(captions), stand_in.MAX_LENGTH), dtype=np.int64)
    padded[:, : captions.shape[1]] = captions.numpy()
    stand_in.write_captions(folder, padded, lengths.numpy(), times=5 * images // DISTINCT)
    with h5py.File(folder / f"TRAIN_IMAGES_{stand_in.NAME}.hdf5", "w") as file:
        file.attrs["captions_per_image"] = 5
        file.create_dataset("images", (images, 3, SIDE, SIDE), np.uint8)  # a hole in the file
    return (folder / f"TRAIN_CAPTIONS_{stand_in.NAME}.json").stat().st_size


def load_ours(folder: Path) -> list[float]:
    """Seconds of opening the data set, and the bytes kept afterwards."""
    before, began = measure.resident(), time.perf_counter()
    dataset = CaptionDataset(folder, stand_in.NAME, "train")
    taken = time.perf_counter() - began
    assert len(dataset) % 5 == 0
    return [taken, measure.resident() - before]


def load_json(folder: Path) -> list[float]:
    """The same with `json.load`, as the tutorial does."""
    before, began = measure.resident(), time.perf_counter()
    with (folder / f"TRAIN_CAPTIONS_{stand_in.NAME}.json").open() as file:
        captions = json.load(file)
    with (folder / f"TRAIN_CAPLENS_{stand_in.NAME}.json").open() as file:
        lengths = json.load(file)
    taken = time.perf_counter() - began
    assert len(captions) == len(lengths)
    return [taken, measure.resident() - before]


def loading(folder: Path, rounds: int, images: int) -> tuple[str, str]:
    """The table of loading captions, each in fresh processes in turn."""
    size = write_coco(folder, images)
    loads = (load_ours, load_json)
    found: list[list[measure.Held]] = [[], []]
    for _ in range(rounds):
        for load, times in zip(loads, found):
            times.append(measure.in_a_process(partial, load, folder))
    taken = [measure.timing([held.result[0] for held in times]) for times in found]
    kept, peak = (
        [max(pick(held) for held in times) for times in found]
        for pick in (lambda held: held.result[1], lambda held: held.peak)
    )
    lines = [
        ["seconds", *taken, measure.ratio(taken[1].median, taken[0].median)],
        ["memory kept", *map(measure.megabytes, kept), measure.ratio(kept[1], kept[0])],
        ["memory at the peak", *map(measure.megabytes, peak), measure.ratio(peak[1], peak[0])],
    ]
    head = ("captions", "ours", "json.load", "ratio")
    return (
        measure.table(head, lines),
        f"{5 * images:,} captions, a CAPTIONS file of {measure.megabytes(size)}:",
    )


def report(quick: bool, device: torch.device) -> str:
    """The tables."""
    rounds, number = (1, 8) if quick else (3, 256)
    with tempfile.TemporaryDirectory() as folder:
        rates, told = pictures(Path(folder), rounds, number)
        table, size = loading(Path(folder), rounds, 400 if quick else COCO_IMAGES)
    peaks = measure.measure_peaks(device, quick)
    start = f"## Preparing\n\n{measure.machine(device, peaks)} {rounds} rounds in turn."
    return "\n\n".join([f"{start} {told}", rates, size, table])


def main() -> None:
    flags = measure.options(__doc__).parse_args()
    measure.begin(flags)
    print(report(flags.quick, torch.device("cpu")))


if __name__ == "__main__":
    main()
