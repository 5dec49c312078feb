"""One training step of the decoder: forward, backward, clipping, Adam. Ours and the reference.

    python -m benchmarks.train_step [--device cuda] [--quick]

Ours is the step that training makes; the reference is `tests/support/reference_decoder.py` with
torch's plain Adam and the tutorial's loss. Before anything is timed, both take a step from the same
weights without dropout, and their losses and the gradients of every weight must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks import measure, pair
from benchmarks.floor import Phase, Sizes, floor, seconds_of, training_step
from sat.config.training import TrainConfig
from sat.data.dataloader import Batch
from sat.models.decoder import DecoderWithAttention

BATCH = 32
CONFIG = {"alpha_c": 1.0, "penalty_scaling": "mean", "grad_clip": 5.0}
AGREE, NOTHING = 1e-3, 1e-6
"""how far losses and gradients may be apart, relatively; gradients too small a share to compare"""

Step = Callable[[Batch], dict[str, float]]


class Row(NamedTuple):
    """One comparison: what ours gets and what the reference gets."""

    name: str
    regions: int = 196
    cells: int = 196  # of the features that ours is given
    reading: dict[str, str] = pair.TUTORIAL
    precision: str = "float32"

    def sizes(self, quick: bool) -> Sizes:
        return pair.sizes_for(quick, self.regions, self.cells, self.reading["output"] == "deep")


ROWS = (
    Row("14×14 as given"),
    Row("14×14 from the native 8×8", cells=pair.NATIVE),
    Row("8×8", pair.NATIVE, pair.NATIVE),
    Row("14×14, our reading (tanh, deep output)", reading=pair.OURS),
    Row("14×14, bfloat16 (an approximation)", precision="bfloat16"),
)


def batch_of(size: int, sizes: Sizes, device: torch.device) -> Batch:
    """Features and captions, the same each time."""
    captions, lengths = pair.random_captions(size, sizes.vocabulary)
    images = pair.random_features(size, sizes, device)
    return Batch(images, captions.to(device), lengths, torch.arange(size))


def for_reference(batch: Batch, sizes: Sizes) -> Batch:
    """The batch with all regions in it."""
    lengths = batch.lengths.to(batch.images.device)
    return batch._replace(images=pair.enlarged(batch.images, sizes.regions), lengths=lengths)


def our_step(
    sizes: Sizes,
    device: torch.device,
    reading: dict[str, str],
    precision: str = "float32",
    compiled: bool = False,
) -> tuple[nn.Module, Step]:
    """The decoder, and one step of training on a batch."""
    decoder = pair.decoder(DecoderWithAttention, sizes, reading).to(device)
    decoder.compiled = compiled
    model = pair.captioner(decoder)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=4e-4, fused=True)
    config = TrainConfig(precision=precision, **CONFIG)  # type: ignore[arg-type]

    def step(batch: Batch) -> dict[str, float]:
        return pair.learn(model, optimizer, batch, config)

    return decoder, step


def reference_step(
    sizes: Sizes, device: torch.device, reading: dict[str, str]
) -> tuple[nn.Module, Step]:
    """The reference, and one step as the tutorial takes it, with the norm clipped as ours is."""
    decoder = pair.decoder(pair.ReferenceDecoder, sizes, reading).to(device)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=4e-4)

    def step(batch: Batch) -> dict[str, float]:
        logits, alphas = decoder(batch.images, batch.captions, batch.lengths)
        likelihood = _packed_loss(logits, batch.captions, batch.lengths)
        penalty = (1 - alphas.sum(dim=1)).square().mean()
        optimizer.zero_grad()
        (likelihood + CONFIG["alpha_c"] * penalty).backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), CONFIG["grad_clip"])
        optimizer.step()
        return {"cross_entropy": likelihood.item(), "penalty": penalty.item()}

    return decoder, step


def _packed_loss(logits: Tensor, captions: Tensor, lengths: Tensor) -> Tensor:
    words = (lengths - 1).cpu()
    scores = pack_padded_sequence(logits, words, batch_first=True, enforce_sorted=False).data
    targets = pack_padded_sequence(
        captions[:, 1:], words, batch_first=True, enforce_sorted=False
    ).data
    return nn.functional.cross_entropy(scores, targets)


def agreement(row: Row, size: int, quick: bool, device: torch.device) -> str:
    """Loss and gradients of a step without dropout; `RuntimeError` if they differ.

    The loss alone would not tell one activation from another, as attention matters little while
    weights are random; each weight's gradient does.
    """
    sizes, batch = row.sizes(quick), batch_of(size, row.sizes(quick), device)
    ours, our = our_step(sizes, device, row.reading, row.precision)
    reference, other = reference_step(sizes, device, row.reading)
    ours.eval(), reference.eval()
    figures = [our(batch), other(for_reference(batch, sizes))]
    losses = [found["cross_entropy"] + found["penalty"] for found in figures]
    apart = abs(losses[0] - losses[1]) / losses[1]
    slopes = [{k: w.grad for k, w in part.named_parameters()} for part in (ours, reference)]
    whole = torch.stack([slope.norm() for slope in slopes[1].values()]).norm()
    turned = max(
        float((slopes[0][name] - slope).norm() / slope.norm())
        for name, slope in slopes[1].items()
        if slope.norm() > NOTHING * whole
    )
    told = f"loss {losses[0]:.5f}, apart by {apart:.0e}; gradients by {turned:.0e} at most"
    if row.precision == "float32" and max(apart, turned) > AGREE:
        raise RuntimeError(f"{row.name}: {told}: a benchmark of something wrong")
    return told


def compare(
    row: Row, size: int, rounds: int, quick: bool, device: torch.device
) -> list[measure.Timing]:
    """Ours and the reference in turn, with dropout."""
    sizes, batch = row.sizes(quick), batch_of(size, row.sizes(quick), device)
    other = for_reference(batch, sizes)
    _, ours = our_step(sizes, device, row.reading, row.precision)
    _, reference = reference_step(sizes, device, row.reading)
    return measure.in_turn([partial(ours, batch), partial(reference, other)], rounds, device)


def alone(
    whose: str, row: Row, size: int, quick: bool, device: torch.device
) -> Callable[[], dict[str, float]]:
    """One side's first step, for its peak memory in a process of its own."""
    sizes = row.sizes(quick)
    batch = batch_of(size, sizes, device)
    if whose == "ours":
        _, step = our_step(sizes, device, row.reading, row.precision)
        return partial(step, batch)
    _, step = reference_step(sizes, device, row.reading)
    return partial(step, for_reference(batch, sizes))


def phases_of(row: Row, size: int, quick: bool) -> list[Phase]:
    sizes = row.sizes(quick)
    _, lengths = pair.random_captions(size, sizes.vocabulary)
    words = lengths - 1
    return training_step(sizes, size, int(words.sum()), int(words.max()))


def report(quick: bool, device: torch.device) -> str:
    """The tables: time, where the floor is, and peak memory."""
    size, rounds = (4, 2) if quick else (BATCH, 3)
    peaks = measure.measure_peaks(device, quick)
    lines, memory = [], []
    for row in ROWS:
        told = agreement(row, size, quick, device)
        ours, reference = compare(row, size, rounds, quick, device)
        rate = peaks.half_flops if row.precision == "bfloat16" else peaks.flops
        least = floor(phases_of(row, size, quick), peaks._replace(flops=rate))
        lines.append(
            [
                *(row.name, ours, reference, measure.ratio(reference.median, ours.median)),
                *(f"{size / ours.median:.0f}", measure.seconds(least)),
                *(measure.ratio(ours.median, least), told),
            ]
        )
        if row.cells != row.regions or row.precision != "float32" or (quick and memory):
            continue
        held = [measure.peak_memory(alone, who, row, size, quick, device) for who in SIDES]
        memory.append([row.name, *map(measure.megabytes, held), measure.ratio(held[1], held[0])])
    where = [
        [
            *(phase.name, f"{phase.flops / 1e9:.1f}", f"{phase.bytes / 1e9:.2f}"),
            measure.seconds(seconds_of(phase, peaks)),
        ]
        for phase in phases_of(ROWS[0], size, quick)
    ]
    state = 3 * 4 * pair.sizes_for(quick).parameters
    return "\n\n".join(
        [
            f"## Decoder training step\n\n{measure.machine(device, peaks)} Batch {size}, {rounds} "
            "rounds in turn; median, lowest and highest.",
            measure.table(HEAD, lines),
            "Where the floor of the first row is:",
            measure.table(("phase", "GFLOP", "GB", "at least"), where),
            "Peak memory of the first step above what the process held before it, each side in a "
            f"process of its own; {measure.megabytes(state)} of each are gradients and Adam's "
            "state.",
            measure.table(("features", "ours", "reference", "reference / ours"), memory),
        ]
    )


SIDES = ("ours", "reference")
HEAD = (
    *("features", "ours", "reference", "ratio", "captions/s, ours", "floor", "ours / floor"),
    "agreement before timing",
)


def main() -> None:
    flags = measure.options(__doc__).parse_args()
    print(report(flags.quick, measure.begin(flags)))


if __name__ == "__main__":
    main()
