"""What the four scripts share: log lines, errors as one line, and how memory is kept."""

from __future__ import annotations

import argparse
import ast
import ctypes
import dataclasses
import inspect
import itertools
import logging
import os
import sys
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def add_flags(
    parser: Any,
    cls: type,
    *,
    skip: tuple[str, ...] = (),
    given_only: bool = False,
) -> None:
    """Give `parser` (jsonargparse) one flag for each field of `cls`, its docstring as the help.

    With `given_only` a flag left out leaves no value, so that other defaults can stand.
    """
    described = _field_docstrings(cls)
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        if item.name in skip:
            continue
        switch = {"nargs": "?", "const": True} if hints[item.name] is bool else {}
        parser.add_argument(
            f"--{item.name}",
            **switch,
            type=hints[item.name],
            default=argparse.SUPPRESS if given_only else item.default,
            help=described.get(item.name, ""),
        )


def given(flags: Any, cls: type) -> dict[str, Any]:
    """The fields of `cls` that the flags of `add_flags` have a value for."""
    names = (item.name for item in dataclasses.fields(cls))
    return {name: flags[name] for name in names if name in flags}


def _field_docstrings(cls: type) -> dict[str, str]:
    """The string written under each field of a dataclass."""
    body = ast.parse(inspect.getsource(cls)).body[0].body  # type: ignore[attr-defined]
    return {
        above.target.id: below.value.value
        for above, below in itertools.pairwise(body)
        if isinstance(above, ast.AnnAssign)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def name_figures(photos: list[Path], output: str | None) -> list[Path | None]:
    """Where each photo's figure goes: STEM_att.png in a folder, or the very file for one photo.

    `output` is a file when it has an extension, else a folder. Without it the figure of one photo
    goes to the current folder, and several photos have none, since they may be thousands. Photos of
    the same name get different figures. Raises `ValueError` when one file is to hold many figures.
    """
    if output is None and len(photos) != 1:
        return [None] * len(photos)
    folder = Path(output or "")
    if folder.suffix and not folder.is_dir():
        if len(photos) != 1:
            raise ValueError(f"output is {output} for {len(photos)} photos: name a folder instead")
        return [folder]
    names: dict[str, None] = {}
    for name in (photo.stem for photo in photos):
        while name in names:
            name += "_2"
        names[name] = None
    return [folder / f"{name}_att.png" for name in names]


TRACEBACK_VARIABLE = "SAT_TRACEBACK"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


@contextmanager
def cli_errors() -> Iterator[None]:
    """Wraps a script's main: errors a user can mend end as one line on stderr and exit code 1.

    These are the errors our functions raise with a sentence (a wrong value, a missing file, a full
    disk, a missing extra, a NaN). Others are bugs and keep their traceback; with SAT_TRACEBACK=1
    in the environment all do. Ctrl-C exits with 130, as shells expect.
    """
    set_up_logging()
    keep_freed_memory()
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except USER_ERRORS as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None


def set_up_logging() -> None:
    """Send log lines to stderr: all that `sat` tells, but only the warnings of other packages."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("sat").setLevel(logging.INFO)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to 2 GB: convolutions on the CPU are twice as fast then.

    It would give large pieces back to the system at once, which fills new ones with zeros. Where
    the environment says how it shall be (MALLOC_...), or there is no glibc, nothing is done.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 2**30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
