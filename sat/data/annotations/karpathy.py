"""Karpathy's layout: dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sat.data.annotations.record import Record
from sat.data.annotations.source import Source
from sat.data.annotations.splits import split_by_names
from sat.data.annotations.words import split_words


def recognize(source: Source) -> bool:
    """True for an object with a list "images" whose first one has "sentences"."""
    content = source.json_by_name
    images = content.get("images") if isinstance(content, dict) else None
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, dict) and "sentences" in first


def read(source: Source) -> Iterator[Record]:
    """The records in the file's order.

    The path of an image is filepath/filename, or filename. Its id is the `cocoid`, else the
    `imgid`, else the file name (with its folder if several are equal). A sentence without `raw` is
    its tokens joined by blanks; one without `tokens` is split into words. An image without `split`
    has the one that names of files and folders tell.
    """
    images = source.json.get("images") if isinstance(source.json, dict) else None
    if not isinstance(images, list) or not images:
        raise ValueError(
            f"{source.path}: holds no list 'images': give a file in Karpathy's layout"
            " (dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json)"
        )
    split_of = split_by_names(source.path)
    names = Counter(str(image.get("filename")) for image in images if isinstance(image, dict))
    for number, image in enumerate(images):
        where = f"{source.path}: image {number}"
        if not isinstance(image, dict):
            raise ValueError(f"{where} is {image!r}: each must be an object with split, filename …")
        filename = _get(image, "filename", str, where)
        name = f"{image['filepath']}/{filename}" if image.get("filepath") else filename
        split = split_of(name) if image.get("split") is None else _get(image, "split", str, where)
        own_id = filename if names[filename] == 1 else name
        sentences = [
            _sentence(sentence, f"{where} ({filename})")
            for sentence in _get(image, "sentences", list, where)
        ]
        yield Record(
            image.get("cocoid", image.get("imgid", own_id)),
            source.images.find(name, where),
            split,
            tuple(words for words, _ in sentences),
            tuple(raw for _, raw in sentences),
            _boxes(image.get("boxes"), where),
        )


def _sentence(sentence: Any, where: str) -> tuple[tuple[str, ...], Any]:
    """The words and the raw text."""
    content = sentence if isinstance(sentence, dict) else {}
    raw = content.get("raw")
    tokens = content.get("tokens", split_words(raw) if isinstance(raw, str) else None)
    if not isinstance(tokens, (list, tuple)) or not all(isinstance(word, str) for word in tokens):
        raise ValueError(f"{where} has a sentence without a list 'tokens' of words")
    return tuple(tokens), raw if isinstance(raw, str) else " ".join(tokens)


def _boxes(boxes: Any, where: str) -> list[dict[str, Any]] | None:
    """The named objects, checked to be as `Record.boxes` says."""
    for box in boxes if isinstance(boxes, list) else [] if boxes is None else [boxes]:
        corners = box.get("box") if isinstance(box, dict) else None
        numbers = isinstance(corners, list) and all(isinstance(n, (int, float)) for n in corners)
        if not numbers or len(corners or ()) != 4 or not isinstance(box.get("words"), list):
            raise ValueError(
                f"{where} has the box {str(box)[:60]}: give 'words' and 'box' [x0, y0, x1, y1]"
            )
    return boxes


def _get(image: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """The value of `key`, checked to exist and to be of type `kind`."""
    if key not in image:
        raise ValueError(f"{where} has no {key!r}: Karpathy's layout needs one")
    if not isinstance(image[key], kind):
        raise ValueError(f"{where} has {key!r} {image[key]!r}: it must be a {kind.__name__}")
    return image[key]
