"""Communication between the processes of one run, which torchrun starts.

Every rank calls the same functions in the same order. Without torchrun there is one rank, and each
of them returns at once what it was given. The engine is torch's: gloo between CPUs, and for all
that is small; NCCL for the gradients of GPUs.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from sat import torchrun
from sat.stop_signals import STOP_SIGNALS, Stopped, note_stops

T = TypeVar("T")
LOST = ("gloo", "pair closure")
"""in the errors of gloo that have no type of their own: its sources' paths, a pair it gave up"""
POLL_INTERVAL = timedelta(seconds=0.02)

_store: dist.Store | None = None
_arrived: list[int] = []
"""stop signals that this rank got"""
_agreed: list[int] = []
"""stop signals that some rank got, as of the latest sum"""
_ended: list[Any] = []
"""groups that ended, kept: where torch 2.6 deletes one, it holds Python's lock while it waits for
the group's threads, and one of these may wait for that lock"""


def rank() -> int:
    """The number of this process in the process group, from 0."""
    return dist.get_rank() if _is_group() else 0


def ranks() -> int:
    """The number of processes in the process group."""
    return dist.get_world_size() if _is_group() else 1


def share() -> tuple[int, int]:
    """`rank` and `ranks`, as loaders take them."""
    return rank(), ranks()


def _is_group() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def process_group(timeout: float) -> Iterator[None]:
    """A block in which the processes that torchrun started are one run; else without effect.

    A stop signal to any of them is raised in all of them, by `raise_stop`. Raises `ConnectionError`
    when another rank ends, or says nothing for `timeout` seconds, while this one waits for it.
    """
    global _store
    if not torchrun.is_launched() or _is_group():
        yield
        return
    _arrived.clear()
    _agreed.clear()
    limit = timedelta(seconds=timeout)
    with note_stops(_arrived), naming_lost_rank(timeout):
        store, rank, ranks = next(iter(dist.rendezvous("env://", timeout=limit)))
        _store = dist.PrefixStore(_agree_on_name(store, rank, ranks, timeout), store)
        how: dict[str, Any] = {"store": _store, "rank": rank, "world_size": ranks}
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=limit, **how)
        yield
        barrier()
        _ended.append(dist.group.WORLD)
        dist.destroy_process_group()


def _agree_on_name(store: dist.Store, rank: int, ranks: int, timeout: float) -> str:
    """A name for this group that no group before it had, the same on all ranks.

    torchrun keeps its store when it starts ranks again, with all that those before them wrote
    there, and its count of restarts differs between machines. So each rank asks by a word that is
    new, and only a rank zero that lives answers it.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"sat/asks/{rank}", own)
        name: str = store.get(f"sat/answer/{own}").decode()
        store.set(f"sat/{name}/{rank}", "knows")
        return f"sat/{name}"
    end = time.monotonic() + timeout
    while True:
        for other in range(1, ranks):
            if store.check([f"sat/asks/{other}"]):  # perhaps by one that is dead: asked again below
                store.set(f"sat/answer/{store.get(f'sat/asks/{other}').decode()}", own)
        try:
            store.wait([f"sat/{own}/{other}" for other in range(1, ranks)], POLL_INTERVAL)
        except dist.DistStoreError:
            if time.monotonic() > end:
                raise
        else:
            return f"sat/{own}"


@contextmanager
def naming_lost_rank(timeout: float) -> Iterator[None]:
    """Turn torch's errors of a lost connection into one sentence."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(part in str(error) for part in LOST):
            raise
        raise ConnectionError(
            f"rank {torchrun.rank()} lost another of the {torchrun.ranks()} ranks, which ended or "
            f"was silent for {timeout:g} s (--ddp_timeout): see torchrun's report, then start "
            "again; a training run goes on with --resume auto"
        ) from error


def is_first_error() -> bool:
    """True on the rank that asks first: its error is shown, not those that follow from it.

    Before the ranks have met, it is true on the first of each machine.
    """
    if _store is None:
        return torchrun.local_rank() == 0
    try:
        return _store.add("errors", 1) == 1
    except RuntimeError:  # the store is gone too
        return True


def barrier() -> None:
    """Wait until all ranks are here."""
    all_reduce_sum({})


def all_reduce_sum(values: dict[T, float]) -> dict[T, float]:
    """The sums over all ranks of values that have the same names on all of them.

    Besides, all ranks learn of the stop signals that any of them got: see `raise_stop`.
    """
    if not _is_group():
        return values
    signals = [float(number in _arrived) for number in STOP_SIGNALS]
    sums = torch.tensor([*values.values(), *signals], dtype=torch.float64)
    dist.all_reduce(sums)
    totals = sums.tolist()
    _agreed[:] = [number for number, n in zip(STOP_SIGNALS, totals[len(values) :]) if n]
    return dict(zip(values, totals))


def all_ranks_sum(values: Tensor) -> Tensor:
    """The sums over all ranks of values float[...], in place and on their device."""
    if _is_group():
        dist.all_reduce(values)
    return values


def raise_stop() -> None:
    """Raise `Stopped`, on all ranks or none, if one had got a stop signal at the latest sum."""
    if _agreed:
        raise Stopped(_agreed[0])


def on_rank_zero(function: Callable[[], T]) -> T:
    """The value that the function returns on rank zero, or the error it raises there, on all."""
    if not _is_group():
        return function()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = function()
        except Exception as error:  # raised below, on all ranks
            outcome[1] = error
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    value: T = outcome[0]
    return value


def merge(entries: dict[int, T]) -> dict[int, T]:
    """The entries of all ranks, in the order of their keys, on every rank."""
    if not _is_group():
        return entries
    found: list[dict[int, T]] = [{}] * ranks()
    dist.all_gather_object(found, entries)
    merged = {key: value for part in found for key, value in part.items()}
    return {key: merged[key] for key in sorted(merged)}


def in_rounds(items: Iterable[T]) -> Iterator[T]:
    """This rank's items; between two of them all ranks stop together if a stop signal has come."""
    return (item for item in _rounds(items) if item is not None)


def gather_in_order(items: Iterable[T]) -> Iterator[T]:
    """On rank zero the first items of all ranks, their second ones, ...; elsewhere nothing."""
    for item in _rounds(items):
        found: list[Any] | None = [item]
        if _is_group():
            found = [None] * ranks() if rank() == 0 else None
            dist.gather_object(item, found)
        yield from (one for one in found or [] if one is not None)


def _rounds(items: Iterable[T]) -> Iterator[T | None]:
    """This rank's items, then None as long as another rank still has some."""
    if not _is_group():
        yield from items
        return
    iterator = iter(items)
    while True:
        item = next(iterator, None)
        left = all_reduce_sum({"left": float(item is not None)})["left"]
        raise_stop()
        if not left:
            return
        yield item


def seed_draws(*key: int, apart: bool = False) -> None:
    """Seed torch's draws by the key, `apart` from those of the other ranks or as theirs.

    The draws of a step so depend on nothing before it: no rank's random state need be saved.
    Without effect in a process alone, whose draws go on from its saved state.
    """
    if _is_group():
        entropy = (*key, 1 + rank() if apart else 0)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]))
