"""Replace a folder by a new one so that a stop of the machine at any time loses neither."""

from __future__ import annotations

import shutil
from pathlib import Path

from sat.atomic_io import flush


def previous_of(folder: Path) -> Path:
    """The name under which the old folder stands while the new one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def replace_folder(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; at any time one whole version stands there or at `previous_of`."""
    mode = new.stat().st_mode & 0o666  # the umask's; safetensors lets only the owner read
    for path in new.iterdir():
        path.chmod(mode)
    for path in [*new.iterdir(), new]:
        flush(path)
    old = previous_of(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
