"""Replace a checkpoint folder: a crash at any time leaves the old one or the new one whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from sat.atomic_io import flush

CONFIG, WEIGHTS, TRAINER = "config.json", "model.safetensors", "trainer.pt"
HF_WEIGHTS = (f"{WEIGHTS}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


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
