"""Which photos a command line means, and what their figures are called. No photo is opened here."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""what a folder's photos end in; a photo that is named itself may end in anything"""


def find_photos(names: Iterable[str]) -> list[Path]:
    """The photos that files, folders and globs name, in that order.

    A folder stands for the photos right inside it, sorted, as a glob's are. A file that does not
    exist is left for its reader to complain of. Raises `ValueError` for a folder or a glob without
    any photo.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            photos = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            nothing = f"no file in it ends in {', '.join(SUFFIXES)}"
        elif glob.has_magic(name) and not path.exists():
            matches = (Path(match) for match in glob.iglob(name, recursive=True))
            photos = sorted(match for match in matches if match.is_file())
            nothing = "no file matches it; check the pattern and the folder it starts from"
        else:
            photos = [path]
        if not photos:
            raise ValueError(f"{name} holds no photos: {nothing}")
        found += photos
    return found


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
