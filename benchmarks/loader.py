"""Reading training batches: from cached features and from pixels, and what training waits for it.

    python -m benchmarks.loader [--device cuda] [--quick]

The tutorial's loader reads one picture for each caption and turns it into normalised floats there.
Files are as the library writes them, and lie in the system's cache after the first round.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks import measure, pair, stand_in
from benchmarks.train_step import CONFIG
from sat.config.model import IMAGENET_MEAN, IMAGENET_STD
from sat.config.training import TrainConfig
from sat.data.dataloader import CaptionBatchSampler, training_loader
from sat.data.dataset import CaptionDataset
from sat.models.decoder import DecoderWithAttention

BATCH, SIDE = 32, 256


class TutorialDataset(Dataset):
    """A caption, its picture read anew, scaled and normalised in single precision."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"TRAIN_IMAGES_{stand_in.NAME}.hdf5"
        read = (folder / f"TRAIN_{kind}_{stand_in.NAME}.json" for kind in ("CAPTIONS", "CAPLENS"))
        self.captions, self.lengths = (json.loads(path.read_text()) for path in read)
        self.file: h5py.File | None = None
        self.mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self.std = torch.tensor(IMAGENET_STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        if self.file is None:
            self.file = h5py.File(self.path, "r")
        picture = self.file["images"][index // stand_in.PER_IMAGE]
        image = (torch.FloatTensor(picture / 255.0) - self.mean) / self.std
        return image, torch.LongTensor(self.captions[index]), torch.tensor(self.lengths[index])


def our_loader(dataset: CaptionDataset, size: int, workers: int) -> DataLoader:
    return training_loader(dataset, CaptionBatchSampler(dataset.lengths, size), workers=workers)


def read(loader: Iterable[Any], batches: int) -> float:
    """Seconds that so many batches take after the first, which pays for starting the workers."""
    iterator: Iterator[Any] = iter(loader)
    next(iterator)
    began = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return time.perf_counter() - began


def waiting(
    dataset: CaptionDataset,
    regions: int,
    size: int,
    batches: int,
    quick: bool,
    device: torch.device,
) -> tuple[float, float]:
    """Captions a second of training from these features, attention looking at so many regions, and
    its share of waiting for batches."""
    config = TrainConfig(**CONFIG)  # type: ignore[arg-type]
    sizes = pair.sizes_for(quick, regions, pair.NATIVE)
    decoder = pair.decoder(DecoderWithAttention, sizes, pair.OURS).to(device)
    model = pair.captioner(decoder).train()
    optimizer = torch.optim.Adam(decoder.parameters(), fused=True)
    iterator = iter(our_loader(dataset, size, 0))
    pair.learn(model, optimizer, next(iterator), config)
    waited, began = 0.0, time.perf_counter()
    for _ in range(batches):
        asked = time.perf_counter()
        batch = next(iterator)
        waited += time.perf_counter() - asked
        pair.learn(model, optimizer, batch, config)
    passed = time.perf_counter() - began
    return batches * size / passed, waited / passed


def rates(folder: Path, data: dict[str, CaptionDataset], size: int, rounds: int) -> list[list]:
    """A row for each kind of data and number of workers, all in turn with the tutorial's."""
    shapes = [(name, workers) for name in data for workers in (0, 1, 2)]
    counts = {name: _whole_batches(data[name], size) for name in data}
    calls: list[Callable[[], object]] = [
        partial(read, our_loader(data[name], size, workers), counts[name])
        for name, workers in shapes
    ]
    theirs = DataLoader(TutorialDataset(folder), batch_size=size, shuffle=True, num_workers=1)
    count = min(counts.values())
    calls.append(partial(read, theirs, count))
    *ours, reference = measure.in_turn(calls, rounds, torch.device("cpu"))
    slow = count * size / reference.median
    lines = []
    for (name, workers), taken in zip(shapes, ours):
        number = counts[name] * size
        fast = number / taken.median
        spread = f"{number / taken.high:.0f} to {number / taken.low:.0f}"
        lines.append(
            [name, workers, f"{fast:.0f} ({spread})", f"{slow:.0f}", measure.ratio(fast, slow)]
        )
    return lines


def _whole_batches(dataset: CaptionDataset, size: int) -> int:
    return len(dataset) // size - 2


def report(quick: bool, device: torch.device) -> str:
    """The tables."""
    size, rounds, images, side = (4, 2, 6, 32) if quick else (BATCH, 2, 400, SIDE)
    dim = pair.sizes_for(quick).features
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = stand_in.prepared(folder, images, side, pair.sizes_for(quick).vocabulary)
        cached = pixels.reading(stand_in.features(folder, images, pair.NATIVE, dim))
        data = {f"features 8×8×{dim}": cached, f"pixels {side}×{side}": pixels}
        lines = rates(folder, data, size, rounds)
        shares = []
        for kind, regions in (("8×8", pair.NATIVE), ("14×14", 196)):
            rate, share = waiting(cached, regions, size, 4 if quick else 16, quick, device)
            shares.append([kind, f"{rate:.0f}", f"{share:.1%}"])
    peaks = measure.measure_peaks(device, quick)
    return "\n\n".join(
        [
            f"## Loader\n\n{measure.machine(device, peaks)} Batches of {size}, captions (each with "
            f"its image) a second, {rounds} rounds in turn.",
            measure.table(("data", "workers", "ours", "tutorial's, 1 worker", "ratio"), lines),
            "Training on cached 8×8 features (our reading, float32, batches of like length), no "
            "worker, and how much of that time it waits for the next batch:",
            measure.table(("attention looks at", "captions/s in training", "waiting"), shares),
        ]
    )


def main() -> None:
    flags = measure.options(__doc__).parse_args()
    print(report(flags.quick, measure.begin(flags)))


if __name__ == "__main__":
    main()
