"""Read pretrained word vectors as the rows of an embedding."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sat.data.vocabulary import Vocabulary
from sat.reading import check_regular

logger = logging.getLogger(__name__)


def load_embeddings(path: str | Path, vocabulary: Vocabulary) -> Tensor:
    """The vector of each word, float[V, E], from a text file of "word number number ..." lines.

    Reads GloVe files and files with a first line of counts (word2vec, fastText). Words without a
    vector are counted in the log and drawn with the standard deviation of the vectors found. Blank
    lines are passed over. Raises `ValueError` for a line of another length, for a vector that is
    not finite, or when no word of the vocabulary has a vector.
    """
    found: dict[str, np.ndarray] = {}
    size = 0
    check_regular(Path(path))
    with open(path, encoding="utf-8-sig", errors="replace") as lines:  # sig: a byte order mark
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            word, *values = line.rstrip().rsplit(" ", size or -1)  # words may hold blanks
            if number == 1 and len(values) == 1 and word.isdecimal() and values[0].isdecimal():
                size = int(values[0])  # after the number of words
                continue
            size = size or len(values)
            if len(values) != size:
                raise ValueError(
                    f"{path}, line {number}: {len(values)} numbers where others have {size}: "
                    "give a text file of word vectors"
                )
            if word in vocabulary and word not in found:
                found[word] = _vector(path, number, values)
    if not found:
        raise ValueError(f"{path} has no vector for any of the {len(vocabulary)} words")
    logger.info("%s: %d of %d words have a vector", path, len(found), len(vocabulary))
    spread = float(np.std(list(found.values())))
    table = np.random.default_rng(0).normal(0, spread, (len(vocabulary), size))
    for word, vector in found.items():
        table[vocabulary.word_map[word]] = vector
    return torch.from_numpy(table.astype(np.float32))


def _vector(path: str | Path, number: int, values: list[str]) -> np.ndarray:
    try:
        vector = np.array(values, dtype=np.float32)
        if not np.isfinite(vector).all():
            raise ValueError(f"{vector[~np.isfinite(vector)][0]} is not finite")
        return vector
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}: give a text file of vectors") from error
