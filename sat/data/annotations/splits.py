"""Which split an image belongs to: by a file of names, by the annotation, or by a hash."""

from __future__ import annotations

import bisect
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from sat.data.annotations.names import Names
from sat.data.annotations.record import SPLIT_OF, SPLITS, Record, split_of
from sat.data.annotations.source import read_json, read_text

logger = logging.getLogger(__name__)

FRACTIONS = "0.8,0.1,0.1"
"""the shares of train, val and test for images that are in no split"""
REMEDY = f"give --splits FILE, or divide the images by their names with --split {FRACTIONS}"


def split_by_names(path: Path) -> Callable[[str], str | None]:
    """A function from an image's name to the split that the names of files and folders tell.

    The name of the annotation file `path` comes first, then the image's folders, then the folder of
    the file. A folder of annotations has its own name last: a set in it may be divided.
    """
    path = path.absolute()
    own = split_in_name(path.stem)
    if path.is_dir():
        return lambda image: split_of_folders(image) or own
    return lambda image: own or split_of_folders(image) or split_of(path.parent.name)


def split_in_name(name: str) -> str | None:
    """The only split named in a file's name: captions_val2017, Flickr_8k.devImages."""
    words = re.findall(r"[a-z]+|[A-Z][a-z]+|[A-Z]+", name)
    found = {split for word in words if (split := split_of(word))}
    return found.pop() if len(found) == 1 else None


def split_of_folders(path: str) -> str | None:
    """The split that the first folder of an image's name is called by: validation/1.jpg."""
    splits = (split_of(part) for part in path.replace("\\", "/").split("/")[:-1])
    return next((split for split in splits if split), None)


def read_splits(paths: Sequence[str | Path]) -> dict[str, str]:
    """The split of each image, by its id or file name, in the order of the files.

    A JSON file is Karpathy's or {split: [ids or names]}; any other lists one name a line, and the
    split stands in its own name (Flickr_8k.trainImages.txt).
    """
    found: dict[str, str] = {}
    for path in map(Path, paths):
        for key, split in _split_lines(path):
            if found.setdefault(key, split) != split:
                raise ValueError(
                    f"{path}: image {key!r} is in two splits, {found[key]!r} and {split!r}"
                )
    return found


def _split_lines(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix.lower() != ".json":
        split = split_in_name(path.stem)
        if split is None:
            raise ValueError(f"{path}: names no split: rename it to train.txt, val.txt or test.txt")
        yield from ((line.strip(), split) for line in read_text(path).splitlines() if line.strip())
        return
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is neither Karpathy's JSON nor an object of split: [ids]")
    images = content.get("images")
    if isinstance(images, list) and images and isinstance(images[0], dict):
        for image in images:
            for key in ("cocoid", "filename"):
                if key in image and isinstance(image.get("split"), str):
                    yield str(image[key]), image["split"]
        return
    for split, keys in content.items():
        if not isinstance(keys, list):
            raise ValueError(f"{path}: {split!r} is no list of ids: give an object of split: [ids]")
        yield from ((str(key), split) for key in keys)


def assign_splits(
    records: Sequence[Record], splits: Mapping[str, str], fractions: str | None
) -> list[Record]:
    """The records with the split that a file of splits or the annotation gives, or a drawn one.

    `fractions` draws all of them by name, or by id where several have one name; without it, those
    whose annotation says nothing are drawn by `FRACTIONS`. Images of an unknown split, or missing
    from `splits`, are left out with a line of warning. With `splits`, the records come in its
    order. Raises `ValueError` if none is left.
    """
    shares = parse_fractions(fractions or FRACTIONS)
    order, listed = {key: number for number, key in enumerate(splits)}, Names(splits)
    count_of = Counter(record.path.name for record in records)
    kept: list[tuple[int, Record]] = []
    left_out: Counter[str] = Counter()
    drawn = 0
    for record in records:
        names = (str(record.image_id), record.path.name, record.path.stem)
        key = next(filter(None, map(listed.find, names)), "")
        name = splits.get(key) if splits else record.split
        if fractions or (name is None and not splits):
            own = record.path.name if count_of[record.path.name] == 1 else str(record.image_id)
            name, drawn = _drawn(own, shares), drawn + 1
        if split := split_of(name):
            kept.append((order.get(key, 0), replace(record, split=split)))
        else:
            left_out[repr(name)[:60]] += 1
    unlisted = left_out.pop("None", 0)
    if unlisted == len(records):
        raise ValueError(
            f"none of the {len(splits)} names of --splits is an image's, as {next(iter(splits))!r}"
            f" for {str(records[0].image_id)!r}: give image ids or file names"
        )
    if unlisted:
        logger.warning("%d images are not named in --splits and are left out", unlisted)
    for name, count in left_out.items():
        logger.warning(
            "%d images of split %s are left out; known splits are %s",
            *(count, name, ", ".join(SPLIT_OF)),
        )
    if drawn:
        logger.info("%d images are divided %s by their names", drawn, fractions or FRACTIONS)
    if not kept:
        raise ValueError(f"none of the {len(records)} images has a known split: {REMEDY}")
    return [record for _, record in sorted(kept, key=lambda pair: pair[0])]


def parse_fractions(text: str) -> list[float]:
    """The shares of train, val and test in "0.8,0.1,0.1"; test may be left out."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or min(shares) < 0 or not abs(sum(shares) - 1) < 1e-6:
        raise ValueError(
            f"split is {text!r}: give the shares of train, val and test that add up to 1, as in"
            " 0.8,0.1,0.1"
        )
    return shares


def _drawn(name: str, shares: Sequence[float]) -> str:
    """The split of a name, the same on every machine and whatever other images there are."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    position = int.from_bytes(digest, "big") / 2**64
    return SPLITS[bisect.bisect(list(accumulate(shares[:-1])), position)]
