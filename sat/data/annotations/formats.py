"""`read_annotations`: the records of annotation files and folders in any of the `FORMATS`."""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sat.config.checks import check
from sat.data.annotations import coco, flickr, folders, karpathy, tables
from sat.data.annotations.boxes import add_boxes
from sat.data.annotations.clean import clean
from sat.data.annotations.record import Record
from sat.data.annotations.source import HEAD_BYTES, ImageFolders, Source, check_exists, read_text
from sat.data.annotations.splits import assign_splits, read_splits

logger = logging.getLogger(__name__)


class Format(NamedTuple):
    recognize: Callable[[Source], bool]
    read: Callable[[Source], Iterator[Record]]


FORMATS = {
    "karpathy": Format(karpathy.recognize, karpathy.read),
    "coco": Format(coco.recognize, coco.read),
    "json": Format(tables.recognize_list, tables.read_list),
    "jsonl": Format(lambda source: source.is_lines, tables.read_lines),
    "flickr": Format(flickr.recognize, flickr.read),
    "csv": Format(tables.recognize_table, tables.read_table),
    "imagefolder": Format(lambda source: bool(tables.metadata(source.path)), tables.read_metadata),
    "text_files": Format(folders.recognize_texts, folders.read_texts),
    "webdataset": Format(lambda source: bool(folders.shards(source.path)), folders.read_shards),
}
"""adding a format is one entry; the first that recognizes a file reads it"""


def read_annotations(
    paths: Sequence[str | Path],
    image_folders: Sequence[str | Path],
    workspace: Callable[[], Path],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    splits: Sequence[str | Path] = (),
    fractions: str | None = None,
    boxes: Sequence[str | Path] = (),
    side: int = 256,
) -> list[Record]:
    """The records of all files, with their splits, captions split into words and unfit ones gone.

    As many image folders as files: each file's images are looked for in its own folder, then in
    those that share no name with it. As many files of `boxes` as files, "none" where one has none,
    add objects in pixels of images of `side` pixels.
    `workspace` gives a folder for images that have to be unpacked. The rest is told by the flags of
    sat-prepare. Ids that several files use get the name of the file before them. Raises
    `ValueError` for no files, files of no known layout or given twice and `FileNotFoundError` for
    missing ones.
    """
    check(len(paths) > 0, "annotations", paths, "give at least one file or folder")
    if boxes and len(boxes) != len(paths):
        raise ValueError(
            f"boxes are {len(boxes)} files, annotations {len(paths)}: give one for each, or none"
        )
    for file, count in Counter(map(os.path.realpath, paths)).items():
        if count > 1:
            raise ValueError(f"{file}: is given {count} times as annotations: give it once")
    groups: list[tuple[Path, list[Record]]] = []
    roots = [Path(folder) for folder in image_folders]
    paired = len(roots) == len(paths) > 1
    gc.disable()  # there are no reference cycles, and the search for them takes a fifth of the time
    try:
        for number, path in enumerate(map(Path, paths)):
            own = [path] if path.is_dir() else [] if roots else [path.parent]
            first = [*own, *(roots[number : number + 1] if paired else roots)]
            others = [root for root in roots if paired and _share_no_name(roots[number], root)]
            source = Source(path, ImageFolders(first, others), columns or {}, workspace)
            records = list(find_format(source, format).read(source))
            if not records:
                raise ValueError(f"{path}: holds no rows or images: add some, or leave it out")
            if boxes and str(boxes[number]) != "none":
                records = add_boxes(records, Path(boxes[number]), side)
            groups.append((path, records))
        named = read_splits(splits)
        remedy = "it names no image, give ids or file names"
        check(bool(named) or not splits, "splits", [str(path) for path in splits], remedy)
        return clean(assign_splits(_join(groups), named, fractions))
    finally:
        gc.enable()


def _share_no_name(one: Path, other: Path) -> bool:
    """True if both folders hold something, and nothing of the same name."""
    folders = (folder.glob("[!.]*") if folder.is_dir() else () for folder in (one, other))
    names, others = ({path.name for path in paths} for paths in folders)
    return bool(names and others) and names.isdisjoint(others)


def find_format(source: Source, name: str | None) -> Format:
    """The format of that name, or the first that recognizes the file."""
    if name is not None and name not in FORMATS:
        raise ValueError(f"format is {name!r}: choose one of {', '.join(FORMATS)}")
    check_exists(source.path)
    if source.path.is_file() and source.path.stat().st_size == 0:
        raise ValueError(f"{source.path}: is empty: write or download it again")
    if name is None:
        found = (name for name, each in FORMATS.items() if each.recognize(source))
        name = next(found, None)
    if name is None:
        if source.path.is_file():
            read_text(source.path, HEAD_BYTES)  # raises if it is no UTF-8
        raise ValueError(
            f"{source.path}: its layout is not recognized: name one of {', '.join(FORMATS)} with"
            " --format, and columns that have other names with --columns image=…,caption=…"
        )
    logger.info("%s: read as %s", source.path, name)
    return FORMATS[name]


def _join(groups: Sequence[tuple[Path, list[Record]]]) -> list[Record]:
    """The records of all files, with ids of their own."""
    owner: dict[Path, Path] = {}
    users: dict[str, set[Path]] = {}
    for path, records in groups:
        _check_ids(records, path)
        for record in records:
            users.setdefault(str(record.image_id), set()).add(path)
            if owner.setdefault(record.path, path) != path:
                raise ValueError(f"{record.path} is in both {owner[record.path]} and {path}")
    if all(len(files) == 1 for files in users.values()):
        return [record for _, records in groups for record in records]
    logger.info("several files use the same image ids: each gets its file's name before it")
    return [
        replace(record, image_id=f"{name}/{record.image_id}")
        for name, (_, records) in zip(_short_names([path for path, _ in groups]), groups)
        for record in records
    ]


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that differ: captions, a/captions or captions.csv."""
    whole = [Path(os.path.abspath(path)).parts for path in paths]
    stems = [(*parts[:-1], Path(parts[-1]).stem) for parts in whole]
    longest = max(map(len, whole))
    ends = (
        ["/".join(parts[-count:]) for parts in names]
        for names in (stems, whole)
        for count in range(1, longest + 1)
    )
    return next(names for names in ends if len(set(names)) == len(names))


def _check_ids(records: Sequence[Record], path: Path) -> None:
    """Raise `ValueError` for ids that are no numbers or texts or UTF-8, or stand for two images."""
    odd = next((r.image_id for r in records if type(r.image_id) not in (int, str)), None)
    if odd is not None:
        raise ValueError(f"{path}: image id {odd!r} is neither a whole number nor a text")
    for record in records:
        try:
            f"{record.image_id}{record.path.name}".encode()
        except UnicodeEncodeError:
            remedy = "is not UTF-8: rename the image"
            raise ValueError(f"{path}: the name {str(record.path)!r} {remedy}") from None
    for repeated, count in Counter(str(r.image_id) for r in records).most_common(1):
        if count > 1:
            raise ValueError(
                f"{path}: image id {repeated} occurs {count} times: scores are per image, so"
                " every image needs an id of its own"
            )
