"""Read annotation files as records: an image, its split and its captions."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_OF: dict[str, Split] = {
    "train": "train",
    "restval": "train",  # COCO's validation images that Karpathy's split gives to training
    "val": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Record:
    """One image and everything known about it."""

    image_id: int | str
    path: Path
    split: Split
    captions: tuple[tuple[str, ...], ...]
    """the words of each caption, as tokenized in the annotation file"""
    raw: tuple[str, ...]
    """the original text of the same captions"""
    boxes: list[dict[str, Any]] | None = None
    """named objects, if known: {"words": [...], "noun": ..., "box": [x0, y0, x1, y1]}"""


def read_karpathy(
    json_path: str | Path, image_folder: str | Path, dataset: str = "flickr8k"
) -> list[Record]:
    """The records of a file in Karpathy's layout, in the file's order.

    `restval` counts as train; images of other splits are left out and logged. The path of an image
    is folder/filepath/filename for coco, else folder/filename. Its id is the `cocoid` for coco,
    else the `imgid`, else the file name. A caption without `raw` is its tokens joined by blanks.
    Raises `ValueError` if the file has another layout. Images are not opened here; see
    `check_images_exist`.
    """
    records: list[Record] = []
    left_out: Counter[str] = Counter()
    for number, image in enumerate(_images(json_path)):
        where = f"{json_path}: image {number}"
        if not isinstance(image, dict):
            raise ValueError(f"{where} is {image!r}: each must be an object with split, filename …")
        split = _get(image, "split", str, where)
        if split in SPLIT_OF:
            records.append(_record(image, SPLIT_OF[split], Path(image_folder), dataset, where))
        else:
            left_out[split] += 1
    for split, count in left_out.items():
        logger.warning(
            "%s: %d images of split %r are left out; known splits are %s",
            *(json_path, count, split, ", ".join(SPLIT_OF)),
        )
    _check_ids(records, json_path)
    return records


def check_images_exist(records: Iterable[Record]) -> None:
    """Raise `FileNotFoundError` if images are missing, with the first path and their number."""
    missing = [record.path for record in records if not record.path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}: there is no such image, and {len(missing) - 1} more are missing: check"
            " the image folder, or leave them out with --on_bad_image skip"
        )


def _images(json_path: str | Path) -> list[Any]:
    try:
        content = orjson.loads(Path(json_path).read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{json_path}: there is no such annotation file") from error
    except ValueError as error:
        raise ValueError(f"{json_path}: is not a UTF-8 JSON file ({error})") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise ValueError(
            f"{json_path}: holds no list 'images': give a file in Karpathy's layout"
            " (dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json)"
        )
    return images


def _record(image: dict[str, Any], split: Split, folder: Path, dataset: str, where: str) -> Record:
    filename = _get(image, "filename", str, where)
    if dataset == "coco":
        path = folder / _get(image, "filepath", str, where) / filename
        image_id = image.get("cocoid", image.get("imgid", filename))
    else:
        path = folder / filename
        image_id = image.get("imgid", filename)
    captions, raw = [], []
    for sentence in _get(image, "sentences", list, where):
        tokens = sentence.get("tokens") if isinstance(sentence, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(word, str) for word in tokens):
            raise ValueError(
                f"{where} ({filename}) has a sentence without a list 'tokens' of words"
            )
        captions.append(tuple(map(sys.intern, tokens)))  # COCO repeats each word 250 times
        raw.append(sentence.get("raw", " ".join(tokens)))
    return Record(image_id, path, split, tuple(captions), tuple(raw), image.get("boxes"))


def _get(image: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """The value of `key`, checked to exist and to be of type `kind`."""
    if key not in image:
        raise ValueError(f"{where} has no {key!r}: Karpathy's layout needs one")
    if not isinstance(image[key], kind):
        raise ValueError(f"{where} has {key!r} {image[key]!r}: it must be a {kind.__name__}")
    return image[key]


def _check_ids(records: list[Record], json_path: str | Path) -> None:
    repeated, count = next(iter(Counter(r.image_id for r in records).most_common(1)), (None, 0))
    if count > 1:
        raise ValueError(
            f"{json_path}: image id {repeated!r} occurs {count} times: scores are per image, so"
            " every image needs an id of its own"
        )
