"""How cost grows: time and memory of a training step and of a search, over one size at a time.

    python -m benchmarks.growth [--device cuda] [--quick] [--picture docs/growth.png]

Our decoder from features that are there (14×14×2048, 32 captions of 10 words, 10,000 words, five
beams), all sizes but one as they are. The slope is the exponent between the last two points: 1 is
linear, less says that a fixed cost is still seen. Memory is the peak above what the process held
before, each point in a process of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure

from benchmarks import decode, measure, pair, train_step
from sat.config.decoding import DecodingConfig
from sat.decoding.generate import generate
from sat.models.decoder import DecoderWithAttention

STEP = {"words in the vocabulary": 10_000, "captions": 32, "regions": 196, "words a caption": 10}
SEARCH = {"beams": 5, "images": 32}
POINTS = {
    "words in the vocabulary": (1_000, 10_000, 50_000),
    "captions": (8, 32, 128),
    "regions": (49, 196, 576),
    "words a caption": (5, 10, 20, 40),
    "beams": (1, 5, 20),
    "images": (1, 8, 64),
}


class Point(NamedTuple):
    """What a call of one size costs."""

    size: int
    seconds: float
    peak_bytes: float | None


def step(sizes: dict[str, int], quick: bool, device: torch.device) -> Callable[[], object]:
    """A training step of these sizes."""
    whole = pair.sizes_for(quick, sizes["regions"])
    whole = whole._replace(vocabulary=sizes["words in the vocabulary"])
    batch = train_step.batch_of(sizes["captions"], whole, device)
    lengths = torch.full_like(batch.lengths, sizes["words a caption"] + 2)
    captions, _ = pair.random_captions(sizes["captions"], whole.vocabulary, lengths.cpu())
    batch = batch._replace(captions=captions.to(device), lengths=lengths)
    return partial(train_step.our_step(whole, device, pair.TUTORIAL)[1], batch)


def search(sizes: dict[str, int], quick: bool, device: torch.device) -> Callable[[], object]:
    """A search of these sizes, all images together."""
    whole = pair.sizes_for(quick)
    model = pair.captioner(decode.decoder(DecoderWithAttention, whole, pair.TUTORIAL, device))
    features = pair.random_features(sizes["images"], whole, device)
    return partial(generate, model, features, DecodingConfig(beam_size=sizes["beams"]))


def line(
    name: str, build: Callable, sizes: dict[str, int], quick: bool, device: torch.device
) -> list[Point]:
    """The costs at each of the `POINTS` of one size."""
    points = POINTS[name][:2] if quick else POINTS[name]
    calls = [build(sizes | {name: size}, quick, device) for size in points]
    times = measure.in_turn(calls, 1 if quick else 3, device)
    held = [
        None if quick else measure.peak_memory(build, sizes | {name: size}, quick, device)
        for size in points
    ]
    return [Point(*parts) for parts in zip(points, (time.median for time in times), held)]


def slope(points: list[Point]) -> float:
    """The exponent of time between the last two points."""
    before, last = points[-2:]
    return math.log(last.seconds / before.seconds) / math.log(last.size / before.size)


def draw(lines: dict[str, list[Point]], picture: Path) -> None:
    """A panel for each line, time and memory over size."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(2, 3).flat, lines.items()):
        sizes = [point.size for point in points]
        axes.plot(sizes, [1e3 * point.seconds for point in points], "o-", color="tab:blue")
        axes.set(xlabel=name.partition(": ")[2], title=name.partition(": ")[0])
        axes.set_ylabel("ms", color="tab:blue")
        axes.set_ylim(bottom=0)
        if all(point.peak_bytes for point in points):
            twin = axes.twinx()
            twin.plot(
                sizes, [point.peak_bytes / 1e6 for point in points], "s--", color="tab:orange"
            )
            twin.set_ylabel("MB", color="tab:orange")
            twin.set_ylim(bottom=0)
    figure.savefig(picture, dpi=120)


def report(quick: bool, device: torch.device, picture: Path | None) -> str:
    """The table, and the picture where one is wanted."""
    lines = {}
    for what, build, sizes in (("training step", step, STEP), ("search", search, SEARCH)):
        for name in sizes:
            lines[f"{what}: {name}"] = line(name, build, sizes, quick, device)
    if picture is not None:
        draw(lines, picture)
    rows = [
        [
            name,
            ", ".join(f"{point.size:,}" for point in points),
            ", ".join(measure.seconds(point.seconds) for point in points),
            f"{slope(points):.2f}",
            ", ".join(measure.megabytes(point.peak_bytes) for point in points),
        ]
        for name, points in lines.items()
    ]
    machine = measure.machine(device, measure.measure_peaks(device, quick))
    head = ("what: over", "sizes", "time", "slope", "peak memory")
    return f"## How cost grows\n\n{machine}\n\n{measure.table(head, rows)}"


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--picture", type=Path, help="where to draw the lines")
    flags = parser.parse_args()
    print(report(flags.quick, measure.begin(flags), flags.picture))


if __name__ == "__main__":
    main()
