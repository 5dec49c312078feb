"""Replace a checkpoint folder: a crash at any time leaves the old one or the new one whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from sat.atomic_io import flush
from sat.hub import CONFIG as CONFIG

WEIGHTS = "model.safetensors"
HF_WEIGHTS = (f"{WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def folder_to_replace(folder: str | Path) -> Path:
    """The folder that a path, or a link, leads to; `ValueError` if it is the current one."""
    folder = Path(folder).resolve()
    if Path.cwd().is_relative_to(folder):
        raise ValueError(
            f"the folder is {folder}, in which this command runs: name one inside it, since it is "
            "replaced as a whole"
        )
    return folder


def previous_of(folder: Path) -> Path:
    """The name under which the old folder stands while the new one takes its place."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.old")


def replace_folder(new: Path, folder: Path, own: Sequence[str] = ()) -> None:
    """Rename `new` to `folder`; at any time one whole version stands there or at `previous_of`.

    What else lies in `folder` is kept, but for files of the names `own`.
    """
    mode = new.stat().st_mode & 0o666  # the umask's; safetensors lets only the owner read
    for path in new.iterdir():
        path.chmod(mode)
    for path in [*new.iterdir(), new]:
        flush(path)
    old = previous_of(folder)
    if folder.exists():
        _keep_others(folder, new, own)
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _keep_others(old: Path, new: Path, own: Sequence[str]) -> None:
    for path in old.iterdir():
        kept = new / path.name
        if kept.exists() or any(fnmatch(path.name, pattern) for pattern in own):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, kept, symlinks=True, copy_function=_link)
        else:
            _link(path, kept)


def _link(source: str | Path, target: str | Path) -> None:
    """A second name of the file, or a copy where the file system has no such names."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def remove(folder: str | Path) -> None:
    """Remove the checkpoint, and the older one that a stopped save may have left beside it."""
    for path in (Path(folder), previous_of(Path(folder))):
        shutil.rmtree(path, ignore_errors=True)


def exists(folder: str | Path) -> bool:
    """True when the folder holds a checkpoint."""
    folder = Path(folder)
    return (folder / CONFIG).exists() or (previous_of(folder) / CONFIG).exists()


def find_complete(folder: str | Path) -> Path:
    """The folder, or its predecessor if the machine stopped between the two renames."""
    folder = Path(folder)
    for path in (folder, previous_of(folder)):
        weights = any((path / name).exists() for name in (WEIGHTS, *HF_WEIGHTS))
        if (path / CONFIG).exists() and weights:
            return path
    raise FileNotFoundError(
        f"{folder} is not a checkpoint folder (no {CONFIG} and {WEIGHTS} in it): "
        "give the best/ or last/ folder of a run"
    )
