"""Beam search: many images at once against the reference, which serves one at a time.

    python -m benchmarks.decode [--device cuda] [--quick]

Decoding alone, from features that are there. Both search with the same random weights, made to end
their captions after about ten words; the captions must be identical before a time is shown.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import measure, pair
from benchmarks.floor import Sizes, floor, search
from sat.config.decoding import DecodingConfig
from sat.decoding.generate import generate
from sat.models.decoder import DecoderWithAttention

IMAGES = 32
BATCH_SIZES = (1, 4, 16, 64)
AT_ONE = 4
"""images captioned by themselves, for the comparison at batch 1"""


class Row(NamedTuple):
    """One comparison."""

    name: str
    beam: int
    images: int = IMAGES
    batch: int = IMAGES
    cells: int = 196  # of the features that ours is given
    reading: dict[str, str] = pair.TUTORIAL


ROWS = (
    *(Row(f"{IMAGES} images, beam {beam}", beam) for beam in (5, 3, 1)),
    *(Row(f"one image, beam {beam}", beam, AT_ONE, 1) for beam in (5, 3, 1)),
    Row("14×14 from the native 8×8, beam 5", 5, cells=pair.NATIVE),
    Row("our reading (tanh, deep output), beam 5", 5, reading=pair.OURS),
)


def decoder(
    kind: type, sizes: Sizes, reading: dict[str, str], device: torch.device
) -> torch.nn.Module:
    """Ours or the reference, made to end its captions."""
    ours = pair.decoder(DecoderWithAttention, sizes, reading)
    pair.teach_to_end(ours)
    if kind is not DecoderWithAttention:
        weights = ours.state_dict()
        ours = pair.decoder(kind, sizes, reading)
        ours.load_state_dict(weights)
    return ours.to(device).eval()


def together(
    ours: torch.nn.Module, features: Tensor, beam: int, batch: int
) -> list[tuple[list[int], float]]:
    """Words and score of each image's caption, `batch` images at a time."""
    model, options = pair.captioner(ours), DecodingConfig(beam_size=beam)
    found = [best[0] for part in features.split(batch) for best in generate(model, part, options)]
    return [(caption.words, caption.score) for caption in found]


def one_by_one(
    reference: torch.nn.Module, features: Tensor, beam: int, widths: list[list[int]] | None = None
) -> list[tuple[list[int], float]]:
    """The same from the reference; `widths` gets each image's number of beams, step by step."""
    start, end = reference.fc.out_features - 2, reference.fc.out_features - 1
    best, counted = [], []
    hook = reference.decode_step.register_forward_pre_hook(
        lambda module, given: counted.append(len(given[0]))
    )
    for image in features:
        counted.clear()
        words, score, ended = max(
            reference.beam_search(image, beam, start, end), key=lambda caption: caption[1]
        )
        best.append((words[1 : -1 if ended else None], score))
        if widths is not None:
            widths.append(counted.copy())
    hook.remove()
    return best


def compare(
    row: Row, rounds: int, quick: bool, device: torch.device, peaks: measure.Peaks
) -> list[object]:
    """The row of the table; `RuntimeError` where the captions differ."""
    sizes = pair.sizes_for(quick, cells=row.cells, deep=row.reading["output"] == "deep")
    build = partial(decoder, sizes=sizes, reading=row.reading, device=device)
    ours, reference = build(DecoderWithAttention), build(pair.ReferenceDecoder)
    features = pair.random_features(row.images, sizes, device)
    others = pair.enlarged(features, sizes.regions)
    ways: list[Callable[..., list]] = [
        partial(together, ours, features, row.beam, row.batch),
        partial(one_by_one, reference, others, row.beam),
    ]
    widths: list[list[int]] = []
    told = compare_captions(row.name, ways[0](), ways[1](widths=widths))
    mine, theirs = measure.in_turn(ways, rounds, device, warm_up=0)  # both have run
    least = _floor(sizes, widths, row.batch, peaks)
    each = [measure.Timing(*(part / row.images for part in time)) for time in (mine, theirs)]
    return [
        *(row.name, *each, measure.ratio(theirs.median, mine.median)),
        *(measure.seconds(least / row.images), measure.ratio(mine.median, least), told),
    ]


def _floor(sizes: Sizes, searched: list[list[int]], batch: int, peaks: measure.Peaks) -> float:
    starts = range(0, len(searched), batch)
    return sum(floor(search(sizes, searched[start : start + batch]), peaks) for start in starts)


def compare_captions(name: str, mine: list, theirs: list) -> str:
    """How many captions there are and how long; `RuntimeError` unless they are identical."""
    different = [(one, other) for one, other in zip(mine, theirs) if one[0] != other[0]]
    if different:
        raise RuntimeError(f"{name}: {len(different)} captions differ, first {different[0]}")
    lengths = sorted(len(words) for words, _ in mine)
    distinct = len({tuple(words) for words, _ in mine})
    return (
        f"all {len(mine)} identical, {distinct} distinct, {lengths[0]} to {lengths[-1]} words, "
        f"mean {sum(lengths) / len(lengths):.1f}"
    )


def by_batch_size(
    rounds: int, quick: bool, device: torch.device
) -> tuple[list[measure.Timing], list[float | None]]:
    """Seconds an image at each batch size, the sizes in turn, and the peak memory of one batch."""
    sizes = BATCH_SIZES[:2] if quick else BATCH_SIZES
    ours = decoder(DecoderWithAttention, pair.sizes_for(quick), pair.TUTORIAL, device)
    features = pair.random_features(max(sizes), pair.sizes_for(quick), device)
    counts = [min(max(sizes), max(2 * AT_ONE, size)) for size in sizes]
    calls = [partial(together, ours, features[:n], 5, size) for n, size in zip(counts, sizes)]
    times = measure.in_turn(calls, rounds, device)
    each = [measure.Timing(*(part / n for part in time)) for time, n in zip(times, counts)]
    memory = [measure.peak_memory(alone, "ours", size, quick, device) for size in sizes]
    return each, memory


def alone(whose: str, images: int, quick: bool, device: torch.device) -> Callable[[], object]:
    """One side's search at beam 5, for its peak memory."""
    sizes = pair.sizes_for(quick)
    features = pair.random_features(images, sizes, device)
    if whose == "ours":
        ours = decoder(DecoderWithAttention, sizes, pair.TUTORIAL, device)
        return partial(together, ours, features, 5, images)
    reference = decoder(pair.ReferenceDecoder, sizes, pair.TUTORIAL, device)
    return partial(one_by_one, reference, features[:1], 5)


def report(quick: bool, device: torch.device) -> str:
    """The tables."""
    rounds, peaks = 2 if quick else 3, measure.measure_peaks(device, quick)
    rows = [row._replace(images=4, batch=min(row.batch, 4)) for row in ROWS] if quick else ROWS
    lines = [compare(row, rounds, quick, device, peaks) for row in rows]
    each, memory = by_batch_size(rounds, quick, device)
    slow = measure.peak_memory(alone, "reference", 1, quick, device)
    sizes = [
        [size, time, measure.megabytes(held), measure.ratio(each[0].median, time.median)]
        for size, time, held in zip(BATCH_SIZES, each, memory)
    ]
    return "\n\n".join(
        [
            f"## Beam search\n\n{measure.machine(device, peaks)} Seconds an image, {rounds} rounds "
            "in turn; median, lowest and highest.",
            measure.table(HEAD, lines),
            "Beam 5 on 14×14 by batch size, and the peak memory of one batch above its features "
            f"(the reference, one image: {measure.megabytes(slow)}):",
            measure.table(("batch", "an image", "peak memory", "gain over batch 1"), sizes),
        ]
    )


HEAD = ("search", "ours", "reference", "ratio", "floor", "ours / floor", "captions")


def main() -> None:
    flags = measure.options(__doc__).parse_args()
    print(report(flags.quick, measure.begin(flags)))


if __name__ == "__main__":
    main()
