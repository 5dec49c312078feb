"""CIDEr-D (Vedantam et al. 2015, section 5), quick enough to be a reward in training."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Hashable, Sequence

ORDERS = 4
SIGMA = 6.0  # of the Gaussian that punishes another length

Words = Sequence[Hashable]
Vector = dict[tuple[Hashable, ...], float]


class CiderD:
    """How well a caption agrees with what people wrote for the image: about 0 to 10.

    `references[i]` are the captions of image i, as sequences of words (or of their numbers). Rare
    n-grams weigh more: their document frequency is counted over these images. Take the end word
    in, here and in `score`, and captions that stop in the middle of a phrase pay for it.
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        seen = Counter(
            gram for captions in references for gram in set().union(*map(_ngrams, captions))
        )
        log_images = math.log(max(len(references), 2))
        self._weight = {gram: log_images - math.log(count) for gram, count in seen.items()}
        self._unseen = log_images
        self._references = references
        self._written = functools.lru_cache(maxsize=64)(self._vectors_of)  # an image's draws

    def score(self, image: int, words: Words) -> float:
        """CIDEr-D of a caption of the image, times 10 as usual."""
        said, norms = self._vectors(_ngrams(words))
        total = 0.0
        for length, written, reference_norms in self._written(image):
            closeness = math.exp(-((len(words) - length) ** 2) / (2 * SIGMA**2))
            for one, other, norm, reference_norm in zip(said, written, norms, reference_norms):
                if norm and reference_norm:
                    # a word said too often counts no more than it was written
                    dot = sum(min(v, other[g]) * other[g] for g, v in one.items() if g in other)
                    total += closeness * dot / (norm * reference_norm)
        return 10 * total / (ORDERS * len(self._references[image]))

    def _vectors_of(self, image: int) -> list[tuple[int, list[Vector], list[float]]]:
        """Length, vectors and their lengths of each reference of the image."""
        return [(len(words), *self._vectors(_ngrams(words))) for words in self._references[image]]

    def _vectors(self, grams: Counter) -> tuple[list[Vector], list[float]]:
        """TF-IDF vectors of n = 1..4 and their lengths."""
        vectors: list[Vector] = [{} for _ in range(ORDERS)]
        for gram, count in grams.items():
            vectors[len(gram) - 1][gram] = count * self._weight.get(gram, self._unseen)
        return vectors, [math.sqrt(sum(v * v for v in vector.values())) for vector in vectors]


def _ngrams(words: Words) -> Counter:
    return Counter(
        tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1)
    )
