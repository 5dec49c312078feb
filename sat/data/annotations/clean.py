"""Captions that can be trained on: texts with words, split, without the special words."""

from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sat.data.annotations.record import Record
from sat.data.annotations.words import split_words
from sat.data.vocabulary import SPECIAL_WORDS

logger = logging.getLogger(__name__)

SPECIAL = re.compile("|".join(SPECIAL_WORDS))
LETTER = re.compile(r"[^\W\d_]")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def clean(records: Sequence[Record]) -> list[Record]:
    """The records with words for each caption; unfit captions and images are left out and counted.

    Captions that are no text or have no letters are left out, and so are images without a caption
    left. `<start>`, `<end>`, `<pad>` and `<unk>` are taken out of captions.
    """
    counts: Counter[str] = Counter()
    kept: list[Record] = []
    for record in records:
        pairs = list(_pairs(record, counts))
        if pairs:
            words, raw = zip(*pairs)
            kept.append(replace(record, captions=words, raw=raw))
        else:
            counts["images without a caption are left out"] += 1
    for what, count in counts.items():
        logger.warning("%d %s", count, what)
    if not kept:
        raise ValueError(f"none of the {len(records)} images has a caption: check the annotations")
    return kept


def _pairs(record: Record, counts: Counter[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The words and the text of each fit caption."""
    texts: tuple[Any, ...] = record.raw
    for words, text in zip(record.captions or (None,) * len(texts), texts):
        if not isinstance(text, str) or not text.strip():
            counts["captions that are empty or no text are left out"] += 1
            continue
        if not text.isprintable():
            text = CONTROL.sub(" ", text).strip()
        if ("<" in text and SPECIAL.search(text)) or (
            words and any(word in SPECIAL_WORDS for word in words)
        ):
            counts["captions hold <start>, <end>, <pad> or <unk>, which are taken out"] += 1
            text = " ".join(SPECIAL.sub(" ", text).split())
            words = words and tuple(word for word in words if word not in SPECIAL_WORDS)
        if words is None:
            words = split_words(text) if LETTER.search(text) else ()
        if words:
            yield tuple(map(sys.intern, words)), text  # COCO repeats each word 250 times
        else:
            counts["captions without words are left out"] += 1
