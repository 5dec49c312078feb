"""Stop a command in an orderly way: Ctrl-C, and the signals of `kill`, a closed terminal, Slurm."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOP_SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]

AGAIN_SECONDS = 0.02
"""after which a stop that Python dropped is raised again"""


class Stopped(KeyboardInterrupt):
    """Raised where the stop signal `number` arrives."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """The code with which shells expect a command to end after a stop."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)


@contextmanager
def stop_signals() -> Iterator[None]:
    """In the block every stop signal raises `Stopped`; those that are ignored stay so (nohup).

    An error that C code raises in its place (h5py: a `TypeError`) becomes `Stopped` too; those of
    files and values, as of a full disk, do not. A stop that arrives in a destructor, out of which
    Python lets no error, is raised again when that is done.
    """
    arrived: list[int] = []

    def stop(number: int, frame: Any) -> None:
        arrived.append(number)
        raise Stopped(number)

    ignored = [number for number in STOP_SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
    handled = [number for number in STOP_SIGNALS if number not in ignored]
    with _handled_by(stop, handled), _dropped_stops_raised_again():
        try:
            yield
        except Exception as error:
            if arrived and not isinstance(error, (OSError, ValueError)):
                raise Stopped(arrived[0]) from error
            raise


@contextmanager
def note_stops(arrived: list[int]) -> Iterator[None]:
    """In the block a stop signal only adds its number to `arrived`."""
    with _handled_by(lambda number, frame: arrived.append(number), list(_handlers())):
        yield


@contextmanager
def defer_stop() -> Iterator[None]:
    """Hold back a stop until the block is done, so that a step is made wholly or not at all.

    It then goes to the handler that was there before; a second signal goes there at once.
    """
    arrived: list[int] = []
    before = _handlers()

    def hold(number: int, frame: Any) -> None:
        arrived.append(number)
        if len(arrived) > 1:
            before[number](number, frame)

    with _handled_by(hold, list(before)):
        yield
    if arrived:
        before[arrived[0]](arrived[0], None)


def ignore_stop_signals(_worker: int = 0) -> None:
    """Leave stopping to the main process; for processes that read data."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _handlers() -> dict[int, Any]:
    """The functions that handle stop signals now, by the signal's number."""
    found = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    return {number: handler for number, handler in found.items() if callable(handler)}


@contextmanager
def _dropped_stops_raised_again() -> Iterator[None]:
    before = sys.unraisablehook

    def raise_again(dropped: Any) -> None:
        if isinstance(dropped.exc_value, Stopped):
            number = [dropped.exc_value.number]
            threading.Timer(AGAIN_SECONDS, _thread.interrupt_main, number).start()
        else:
            before(dropped)

    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def _handled_by(handler: Any, numbers: list[Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
