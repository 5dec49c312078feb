"""One writer a folder: a lock that ends with its process."""

from __future__ import annotations

import datetime
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK = ".lock"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from writing to the folder while the block runs.

    The file `.lock` names the process. Raises `FileExistsError` if another one holds the lock; that
    of a process that died is taken over, with a line in the log. Without effect on Windows, and on
    file systems that have no locks.
    """
    if fcntl is None:
        yield
        return
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by workers
        except (BlockingIOError, PermissionError):
            file.seek(0)
            raise FileExistsError(
                f"{folder}: {file.read() or 'another process'} writes to it: wait for its end, or "
                "choose another folder"
            ) from None
        except OSError as error:  # a file system without locks
            logger.warning("%s: no lock (%s): let no other process write to it", folder, error)
        file.seek(0)
        if died := file.read():
            logger.info("%s: %s ended without a word; going on", folder, died)
        file.truncate(0)
        now = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {now},")
        file.flush()
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
