"""What the benchmarks on a GPU share: how much is measured, in which precision, and the clock."""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from benchmarks import measure, pair
from benchmarks.pipeline import Scale

CAPTIONS, IMAGES = 566_435, 113_287
"""of COCO's training split (Karpathy's), which rates are scaled up to"""
TEST_IMAGES = 5_000
PRECISIONS = ("float32", "TF32", "bfloat16")
DEFAULTS = "torch's defaults"
"""TF32 in convolutions, float32 in other products: how the tutorial's code runs today"""
WINDOWS = 3
"""parts of a measured run, each with a rate of its own"""
ERROR = "**Error**"
"""begins what the page says of something that failed"""


class Setting(NamedTuple):
    """How much is measured."""

    pipeline: Scale = Scale()  # encoder, batch size and side of the pictures
    words: int = 9490
    features: int = 4000  # images with cached features, about 1 GB
    pictures: int = 1000
    captioned: int = 400  # images captioned at beam 5
    wide: int = 256  # images encoded or captioned together
    warm_up: int = 6  # batches
    seconds: float = 2.4  # for which a rate is measured
    rounds: int = 4  # of a single call
    few: int = 16  # images that the reference captions
    workers: int = 6


QUICK = Setting(
    pipeline=Scale(batch=5, images=8, side=64, backbone="resnet18", rounds=1, ours=2),
    words=60,
    features=12,
    pictures=12,
    captioned=12,
    wide=6,
    warm_up=1,
    seconds=0.05,
    rounds=1,
    few=2,
    workers=1,
)


@contextmanager
def products(precision: str) -> Iterator[None]:
    """How float32 matrix products and convolutions are rounded on CUDA in the block."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    exact = (precision in ("float32", DEFAULTS), precision == "float32")
    for flag, whole in zip(flags, exact):
        flag.allow_tf32 = not whole
    try:
        yield
    finally:
        for flag, value in zip(flags, before):
            flag.allow_tf32 = value


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """The block's products in the precision named, bfloat16 by autocast."""
    half = precision == "bfloat16"
    with products(precision), torch.autocast(device.type, torch.bfloat16, enabled=half):
        yield


def config_precision(precision: str) -> str:
    """What a recipe calls it: TF32 is no choice of a recipe but of torch."""
    return "bfloat16" if precision == "bfloat16" else "float32"


def forget_peak(device: torch.device) -> None:
    """Count peak memory from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float | None:
    """The most bytes that tensors held on the card since `forget_peak`; None on the CPU."""
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


class Way(NamedTuple):
    """One way of training, a row."""

    name: str
    precision: str
    batch: int
    workers: int
    cells: int = 196  # that attention looks at
    reading: dict[str, str] = pair.TUTORIAL
    together: int = 1  # captions of an image that come together
    compiled: bool = False


class Pace(NamedTuple):
    """A rate: median of the windows, lowest and highest; and what it took."""

    rate: float  # a second
    low: float
    high: float
    waiting: float  # share of the time spent on waiting for batches
    peak: float | None  # bytes

    def __str__(self) -> str:
        return f"{self.rate:.0f} ({self.low:.0f} to {self.high:.0f})"


def pace(
    step: Callable[[Any], object],
    batches: Iterator[Any],
    count: Callable[[Any], int],
    setting: Setting,
    device: torch.device,
) -> Pace:
    """How much of what `count` counts in a batch is done a second by taking steps."""
    forget_peak(device)  # the warm-up's count too: it meets the longest captions
    for _ in range(setting.warm_up):
        step(next(batches))
    rates, waited, passed = [], 0.0, 0.0
    for _ in range(WINDOWS):
        measure.wait(device)
        done, began, now = 0, time.perf_counter(), 0.0
        while not done or now - began < setting.seconds / WINDOWS:
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            step(batch)
            done += count(batch)
            now = time.perf_counter()
        measure.wait(device)  # once, as a run that logs every hundred steps
        now = time.perf_counter()
        passed += now - began
        rates.append(done / (now - began))
    middle = statistics.median(rates)
    return Pace(middle, min(rates), max(rates), waited / passed, peak(device))


def minutes(rate: float, number: int = CAPTIONS) -> str:
    """How long so many take at the rate."""
    return f"{number / rate / 60:.1f} min"


def endless(batches: Any) -> Iterator[Any]:
    """Epoch after epoch of a loader."""
    while True:
        yield from batches


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The lines of a Markdown table one by one, so that a section cut off keeps those it has."""
    yield measure.table(head, [])
    for row in rows:
        yield measure.table(head, [row]).rpartition("\n")[2]


def tried(
    what: str, width: int, rows: Callable[..., Iterable[Sequence[object]]], *arguments: Any
) -> Iterator[Sequence[object]]:
    """The rows of `rows(*arguments)`; a failure ends them with a row that tells it.

    The traceback goes to stderr, whose last lines the page shows too.
    """
    try:
        yield from rows(*arguments)
    except Exception as error:
        traceback.print_exc()
        first = str(error).partition("\n")[0].replace("|", "/")[:200]
        told = f"{ERROR}: {type(error).__name__}: {first}"
        yield [what, told, *[""] * (width - 2)]
    finally:
        free()


def free() -> None:
    """Give back what the last row held on the card, so that the next one's peak is its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
