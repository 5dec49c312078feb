"""Which captions of the records are prepared, and whose words make the vocabulary."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sat.data.annotations import Record

logger = logging.getLogger(__name__)


def usable(records: Sequence[Record], split: str, max_len: int) -> list[Record]:
    """The split's records with the captions that fit; `raw` keeps all, as scores need them.

    Captions of more than `max_len` words are left out. A training image without another one goes
    with them; a validation or test image stays, with its captions cut, for it must be evaluated.
    """
    kept, images, captions, long, cut = [], 0, 0, 0, 0
    for record in records:
        if record.split != split:
            continue
        spoken = tuple(words for words in record.captions if words)
        fitting = tuple(words for words in spoken if len(words) <= max_len)
        images, captions = images + 1, captions + len(record.captions)
        long += len(spoken) - len(fitting)
        if spoken and not fitting and split != "train":
            fitting, cut = tuple(words[:max_len] for words in spoken), cut + 1
        if fitting:
            kept.append(replace(record, captions=fitting))
    if not kept:
        raise ValueError(
            f"the {split} split has no captions of up to {max_len} words ({images} images,"
            f" {captions} captions): check the splits of the annotation file, or raise --max_len"
        )
    logger.info("%s: %d images, %d captions as written", split, images, captions)
    if long or len(kept) < images:
        logger.warning(
            "%s: %d captions are longer than %d words; of the images without a shorter one %d"
            " are kept with captions cut and %d are left out",
            *(split, long, max_len, cut, images - len(kept)),
        )
    return kept


def words_counted(
    records: Iterable[Record], training: Iterable[Record], splits: str
) -> Iterable[Sequence[str]]:
    """The captions whose words are counted for the vocabulary.

    "train": those that are trained on. "all": every one of every split, too long ones included, as
    the tutorial does; its word map then knows words of the test captions.
    """
    counted = records if splits == "all" else training
    return (words for record in counted for words in record.captions)


def choose(
    captions: Sequence[tuple[str, ...]], number: int, generator: random.Random
) -> list[tuple[str, ...]]:
    """Exactly `number` captions: a sample of more, or all of fewer and some of them again."""
    if len(captions) < number:
        again = [generator.choice(captions) for _ in range(number - len(captions))]
        return [*captions, *again]
    return generator.sample(captions, number)
