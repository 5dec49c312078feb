"""Read files that others wrote: whatever is wrong with one is a sentence with its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_regular(path: Path) -> Path:
    """The path; `ValueError` for a folder, pipe or device, which could be read for ever."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file: give the file itself")
    return path


@contextmanager
def reading(path: str | Path, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises for the content of a file into one `ValueError`.

    It is a sentence with the file's name and the remedy; the error itself is its cause. Errors that
    name the file stay, if they are the user's (a missing file, no permission, a `ValueError`).
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # its kind differs between libraries and their versions
        if isinstance(error, (OSError, ValueError)) and str(path) in str(error):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{path} cannot be read ({reason}): {remedy}") from error
