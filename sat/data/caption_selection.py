"""Choose the images and captions of the records that are prepared."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sat.data.annotations.record import SPLITS, Record

logger = logging.getLogger(__name__)


def filter_by_length(records: Sequence[Record], split: str, max_len: int) -> list[Record]:
    """The records of a split without captions of more than `max_len` words.

    A training image without a shorter caption is left out. A validation or test image stays, with
    its captions cut, because every image is evaluated. `raw` keeps all captions for the scores.
    """
    kept: list[Record] = []
    images, captions, long, cut = 0, 0, 0, 0
    for record in records:
        if record.split != split:
            continue
        nonempty = tuple(words for words in record.captions if words)
        fitting = tuple(words for words in nonempty if len(words) <= max_len)
        images, captions = images + 1, captions + len(record.captions)
        long += len(nonempty) - len(fitting)
        if nonempty and not fitting and split != "train":
            fitting, cut = tuple(words[:max_len] for words in nonempty), cut + 1
        if fitting:
            kept.append(replace(record, captions=fitting))
    if not images:
        named = Counter(record.split for record in records)
        raise ValueError(
            f"the {split} split has no images (found: {dict(named)}): add annotations with one,"
            " give --splits FILE, or divide all images by larger shares, as --split 0.6,0.2,0.2"
        )
    if not kept:
        raise ValueError(
            f"the {split} split has no captions of up to {max_len} words ({images} images,"
            f" {captions} captions): raise --max_len"
        )
    logger.info("%s: %d images, %d captions", split, images, captions)
    if long or len(kept) < images:
        logger.warning(
            "%s: %d captions are longer than %d words; of the images without a shorter one %d"
            " are kept with captions cut and %d are left out",
            *(split, long, max_len, cut, images - len(kept)),
        )
    return kept


def check_images_exist(records: Iterable[Record]) -> None:
    """Raise `FileNotFoundError` if images are missing, with the first path and their number."""
    missing = [record.path for record in records if not record.path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}: there is no such image, and {len(missing) - 1} more are missing: check"
            " the image folder, or leave them out with --on_bad_image skip"
        )


def choose_references(records: Sequence[Record]) -> list[Record]:
    """The records with the texts that captions are scored against, where those are not `raw`.

    Scores split texts at blanks. In languages without blanks the words of the annotation take the
    place of the raw text: if the raw text of more than 1 % of the captions has fewer than half as
    many parts as the annotation has words.
    """
    pairs = [pair for record in records for pair in zip(record.captions, record.raw)]
    unsplit = sum(2 * len(raw.split()) < len(words) for words, raw in pairs)
    if unsplit <= 0.01 * len(pairs):
        return list(records)
    logger.info("captions are scored by the words of the annotation: its texts have no blanks")
    return [replace(r, references=tuple(map(" ".join, r.captions))) for r in records]


def sample_captions(
    captions: Sequence[tuple[str, ...]], number: int, generator: random.Random
) -> list[tuple[str, ...]]:
    """Draw exactly `number` captions; if there are fewer, take all and repeat some."""
    if len(captions) < number:
        again = [generator.choice(captions) for _ in range(number - len(captions))]
        return [*captions, *again]
    return generator.sample(captions, number)


def present(records: Iterable[Record]) -> list[str]:
    """The splits to prepare: a set may lack the test split, with a line of warning."""
    found = {record.split for record in records}
    if "test" not in found:
        logger.warning("no image is in the test split: train and val alone are prepared")
    return [split for split in SPLITS if split in {"train", "val", *found}]
