"""Timing in turn, this machine's peaks, peak memory, and tables: what all benchmarks share."""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

NOT_MEASURED = "not measured"
LIMIT_OF_MMAP = "MALLOC_MMAP_THRESHOLD_"


class Timing(NamedTuple):
    """Seconds of one call, over the rounds: median and quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{seconds(self.median)} ({seconds(self.low)} to {seconds(self.high)})"


class Peaks(NamedTuple):
    """The most that this device did in front of us: the denominators of every floor."""

    flops: float  # float32 matrix product, operations a second
    half_flops: float  # bfloat16 matrix product
    bandwidth: float  # copying 256 MB, bytes read and written a second


def options(doc: str | None) -> argparse.ArgumentParser:
    """The flags every benchmark has."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--device", default="auto", help="auto: CUDA where there is one")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run?")
    return parser


def begin(flags: argparse.Namespace) -> torch.device:
    """The device that the flags mean, with its threads set and the random numbers fixed."""
    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    if flags.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(flags.device)


def wait(device: torch.device) -> None:
    """Return when everything asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(
    calls: Sequence[Callable[[], object]], rounds: int, device: torch.device, warm_up: int = 1
) -> list[Timing]:
    """Seconds of each call, made in turn A B A B ... after a warm-up of each.

    What else the machine does then falls on all of them alike. A call that returns a number says
    by it how many seconds it measured itself.
    """
    found: list[list[float]] = [[] for _ in calls]
    for number in range(-warm_up, rounds):
        for call, times in zip(calls, found):
            gc.collect()
            wait(device)
            began = time.perf_counter()
            own = call()
            wait(device)
            passed = time.perf_counter() - began
            if number >= 0:
                times.append(own if isinstance(own, float) else passed)
    return [timing(times) for times in found]


def timing(times: Sequence[float]) -> Timing:
    """Median and quartiles; lowest and highest where there are too few for quartiles."""
    if len(times) < 4:
        return Timing(statistics.median(times), min(times), max(times))
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, low, high)


def measure_peaks(device: torch.device, quick: bool = False) -> Peaks:
    """The best of several products of square matrices and of several copies."""
    side = 256 if quick else 4096 if device.type == "cuda" else 2048
    numbers = 2**18 if quick else 2**26
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    copy = _best(lambda: target.copy_(source), device)

    def product(dtype: torch.dtype) -> float:
        one = torch.randn(side, side, device=device).to(dtype)
        out = torch.empty_like(one)
        return 2 * side**3 / _best(lambda: torch.mm(one, one, out=out), device)

    return Peaks(product(torch.float32), product(torch.bfloat16), 8 * numbers / copy)


def _best(call: Callable[[], object], device: torch.device, times: int = 8) -> float:
    best = math.inf
    for _ in range(times):
        wait(device)
        began = time.perf_counter()
        call()
        wait(device)
        best = min(best, time.perf_counter() - began)
    return best


class Held(NamedTuple):
    """What a call in a process of its own came to."""

    peak: float | None  # bytes above what the process held before the call
    result: Any


def peak_memory(build: Callable[..., Callable[[], Any]], *arguments: Any) -> float | None:
    """Bytes by which `build(*arguments)()` raises a fresh process above what it held before."""
    return in_a_process(build, *arguments).peak


def in_a_process(build: Callable[..., Callable[[], Any]], *arguments: Any) -> Held:
    """`build(*arguments)()` in a fresh process, its memory watched from after the build.

    On the CPU the resident pages (None where the system does not tell them), on CUDA the
    allocator's. `getrusage` will not do: the ru_maxrss of a process starts at its parent's size.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    threads = torch.get_num_threads()
    child = context.Process(target=_alone, args=(sender, threads, build, arguments))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError as error:
        name = getattr(build, "__name__", build)
        raise RuntimeError(f"{name}{arguments} failed in a process of its own") from error
    finally:
        child.join()


def _alone(sender: Any, threads: int, build: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    call = build(*arguments)
    gc.collect()
    forget = Path("/proc/self/clear_refs")
    if torch.cuda.is_available() and torch.cuda.memory_allocated() > 0:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        sender.send(Held(float(torch.cuda.max_memory_allocated() - before), result))
    elif forget.exists():
        forget.write_text("5")  # the peak so far
        before = resident("VmRSS")
        result = call()
        sender.send(Held(resident("VmHWM") - before, result))
    else:
        sender.send(Held(None, call()))


def resident(name: str = "VmRSS") -> float:
    """Bytes that this process holds (VmRSS), or held at most since it was last asked (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(name))
    return 1024.0 * int(line.split()[1])


def machine(device: torch.device, peaks: Peaks) -> str:
    """One line on what the numbers below it were measured with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    threads = torch.get_num_threads()
    return (
        f"{name}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}; peaks: "
        f"{peaks.flops / 1e9:.0f} GFLOP/s (float32), {peaks.half_flops / 1e9:.0f} GFLOP/s "
        f"(bfloat16), {peaks.bandwidth / 1e9:.1f} GB/s (copy); load {_load()}; "
        f"glibc malloc {'tuned' if LIMIT_OF_MMAP in os.environ else 'as it comes'}, for both sides."
        + ("" if device.type == "cuda" else f" GPU: {NOT_MEASURED}.")
    )


def processor() -> str:
    """The processor as the system calls it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [list(map(str, row)) for row in rows]
    lines = [list(head), ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(value: float) -> str:
    """Three digits, in the unit that suits."""
    if value >= 1000:
        return f"{value:.0f} s"
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
    unit, scale = next((pair for pair in units if value >= pair[1]), units[-1])
    return f"{value / scale:.3g} {unit}"


def megabytes(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value / 1e6:.0f} MB"


def ratio(reference: float | None, ours: float | None) -> str:
    """How many times the reference's is ours."""
    return NOT_MEASURED if reference is None or not ours else f"{reference / ours:.2f}×"
