"""What the four scripts share: log lines, errors as one line, and how memory is kept."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACK_VARIABLE = "SAT_TRACEBACK"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


@contextmanager
def main_errors() -> Iterator[None]:
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
