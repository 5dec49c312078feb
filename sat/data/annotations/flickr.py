"""Flickr8k.token.txt and Flickr30k's results_20130124.token: name#number, a tab, a caption."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sat.data.annotations.names import Names
from sat.data.annotations.record import Record
from sat.data.annotations.source import Source, read_text
from sat.data.annotations.splits import read_splits, split_by_names

LINE = re.compile(r"\s*(.+?)#(\d+)[\t ](.*)")
SPLIT_LISTS = "Flickr*8k.*Images.txt"
ODD_ENDING = re.compile(r"(\.(?:jpg|jpeg|png))\.\d+$", re.IGNORECASE)


def recognize(source: Source) -> bool:
    """True for a text whose first line is name#number, a tab and a caption."""
    first = next((line for line in source.head.splitlines() if line.strip()), "")
    return LINE.fullmatch(first) is not None and "\t" in first


def read(source: Source) -> Iterator[Record]:
    """The records in the order of their first lines, with the splits of lists beside the file.

    Flickr8k names one image 2258277193_586949ec62.jpg.1: the last number is dropped. The lists
    are Flickr_8k.trainImages.txt, Flickr_8k.devImages.txt and Flickr_8k.testImages.txt.
    """
    lists = sorted(source.path.parent.glob(SPLIT_LISTS))
    splits, named = read_splits(lists), split_by_names(source.path)
    listed = Names(splits)
    images: dict[str, list[str]] = {}
    for number, line in enumerate(read_text(source.path).split("\n"), start=1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"{source.path}: line {number} is {line[:60]!r}: each must be name#number, a tab"
                " and a caption"
            )
        images.setdefault(ODD_ENDING.sub(r"\1", match[1]), []).append(match[3])
    for name, captions in images.items():
        path = source.images.find(name, str(source.path))
        split = splits.get(listed.find(name) or name, "none") if lists else named(name)
        yield Record(name, path, split, (), tuple(captions))
