"""What the four scripts share: where log lines go, and errors as one line, not a traceback."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACK_VARIABLE = "SAT_TRACEBACK"
USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


@contextmanager
def main_errors() -> Iterator[None]:
    """Wraps a script's main: errors a user can mend end as one line on stderr and exit code 1.

    These are the errors our functions raise with a sentence (a wrong value, a missing file, a full
    disk, a missing extra, a NaN). Others are bugs and keep their traceback; with SAT_TRACEBACK=1
    in the environment all do. Ctrl-C exits with 130, as shells expect.
    """
    set_up_logging()
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
