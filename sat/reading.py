"""Read files that others wrote: whatever is wrong with one is a sentence with its name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NOT_OF_THE_CONTENT = (FileNotFoundError, PermissionError, ImportError, MemoryError)


def check_regular(path: Path) -> Path:
    """The path; `ValueError` for a folder, pipe or device, which could be read for ever."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file: give the file itself")
    return path


@contextmanager
def reading(path: str | Path, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises for the content of a file into one `ValueError`.

    It is a sentence with the file's name and the remedy; the error itself is its cause. An error
    that is the user's and names the file already stays as it is.
    """
    try:
        yield
    except NOT_OF_THE_CONTENT:
        raise
    except Exception as error:  # its kind differs between libraries and their versions
        if isinstance(error, (OSError, ValueError)) and str(path) in str(error):
            raise
        sentence = " ".join(str(error).split()).partition(". ")[0]  # torch adds unsafe advice
        reason = sentence[:300] or type(error).__name__
        raise ValueError(f"{path} cannot be read ({reason}): {remedy}") from error


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a file of JSON, or one `ValueError`."""
    with reading(path, remedy):
        return dict(json.loads(check_regular(path).read_text(encoding="utf-8")))
