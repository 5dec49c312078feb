"""Progress bars: their type, and the ones that commands show."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TextIO

from tqdm import tqdm

from sat import torchrun
from sat.stop_signals import defer_stop

Progress = Callable[..., Iterable[Any]]
"""wraps an iterable and shows how far it got, as tqdm does; `iter` shows nothing"""
Bar = Callable[..., Any]
"""makes a bar, as `progress_bar`"""


def progress_bar(items: Iterable[Any] | None = None, *, disable: bool = False, **how: Any) -> Any:
    """A bar of tqdm, invisible if asked or where stderr is no terminal, so that logs stay short.

    Of the processes that torchrun starts, only rank zero shows it.
    """
    disable = disable or torchrun.rank() > 0
    with defer_stop():  # tqdm's own end fails on a bar that was stopped while it was made
        return tqdm(items, disable=disable or None, **how)


quiet: Bar = partial(progress_bar, disable=True)


def print_above(text: str, file: TextIO | None = None) -> None:
    """Print a line above the bars that are shown."""
    tqdm.write(text, file=file)
