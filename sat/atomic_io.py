"""Write files that appear whole under their name, or not at all."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import shutil
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot flush folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(new: Path, path: Path) -> None:
    """Rename a file, in the same folder system, so that a power cut leaves the old or the new."""
    flush(new)
    os.replace(new, path)
    flush(path.parent)


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Name the path, and what is free, where a disk that is full ends the writing of it."""
    try:
        yield
    except Exception as error:  # h5py and safetensors have kinds of their own
        full = os.strerror(errno.ENOSPC)
        known = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not known and full not in str(error):
            raise
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            f"{path} cannot be written: {full} ({free / 1e6:.1f} MB are free): make room"
        ) from error


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file beside `path` and rename it to `path` when the block ends well.

    If the block fails, the temporary file is removed and `path` stays as it was. Those of processes
    that were killed are removed first: they may be as large as the data.
    """
    path = Path(path)
    for left in left_by_killed(path.parent, f".{path.name}."):
        left.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{this_process()}.tmp")
    try:
        with naming_full_disk(path):
            yield temporary
            replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def this_process() -> str:
    """The host, as eight digits, and the number of this process, for names of temporary files."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}-{os.getpid()}"


def left_by_killed(folder: Path, prefix: str) -> list[Path]:
    """The paths in a folder whose name is `prefix` and `this_process()` of one that has died.

    Processes of other hosts, which share the folder, cannot be asked: what they left stays.
    """
    start = f"{prefix}{this_process().partition('-')[0]}-"
    paths = list(folder.glob(f"{glob.escape(start)}*"))
    numbers = [re.match(r"\d+", path.name[len(start) :]) for path in paths]
    return [path for path, one in zip(paths, numbers) if one and not _is_alive(int(one[0]))]


def _is_alive(process: int) -> bool:
    """Whether there is a process of this number; always true on Windows, which cannot be asked."""
    try:
        if os.name != "nt":
            os.kill(process, 0)
    except PermissionError:
        return True  # of another user
    except (ProcessLookupError, OverflowError):
        return False
    return True


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text to `path`, whole or not at all."""
    with atomic_write(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON to `path`, whole or not at all; missing folders are made.

    Names of files are UTF-8, whatever the locale; a byte of them that is none becomes U+FFFD.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, indent=1)
    atomic_write_text(path, text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def check_writable(folder: Path, remedy: str) -> None:
    """Raise `OSError` unless files can be written to the folder, or to one that it is made in."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is no folder: {remedy}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"{existing} cannot be written: {remedy}")


def check_space(folder: str | Path, needed: int, purpose: str, remedy: str) -> None:
    """Raise `OSError` when the disk of `folder` has fewer free bytes than `needed`."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"{folder}: {purpose} need {needed / 1e9:.4g} GB and {free / 1e9:.4g} GB are free:"
            f" {remedy}"
        )
