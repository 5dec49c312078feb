"""CIDEr-D (Vedantam et al. 2015, section 5), fast enough to be a reward in training."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Hashable, Sequence

ORDERS = 4
SIGMA_WORDS = 6.0
"""width of the Gaussian that penalizes a difference in length"""

Words = Sequence[Hashable]
NGram = tuple[Hashable, ...]
Vector = dict[NGram, float]


class CiderD:
    """CIDEr-D of captions against the references of an image: about 0 to 10.

    `references[i]` are the captions of image i, as sequences of words or ids. Rare n-grams weigh
    more: document frequencies are counted over these images. With the end token included, here
    and in `score`, a caption that stops in the middle of a phrase scores lower.
    """

    def __init__(self, references: Sequence[Sequence[Words]]) -> None:
        frequencies = Counter(
            ngram for captions in references for ngram in set().union(*map(_ngrams, captions))
        )
        log_images = math.log(max(len(references), 2))
        self._weights = {ngram: log_images - math.log(n) for ngram, n in frequencies.items()}
        self._unseen_weight = log_images
        self._references = references
        # several captions of one image are scored in a row
        self._reference_vectors = functools.lru_cache(maxsize=64)(self._vectors_of_image)

    def score(self, image: int, words: Words) -> float:
        """CIDEr-D of a caption of the image, times 10 as usual."""
        vectors, norms = self._vectors(words)
        total = 0.0
        for length, references, reference_norms in self._reference_vectors(image):
            closeness = math.exp(-((len(words) - length) ** 2) / (2 * SIGMA_WORDS**2))
            for one, other, norm, reference_norm in zip(
                vectors, references, norms, reference_norms
            ):
                if norm and reference_norm:
                    # repeating a word does not help: its count is clipped to the reference's
                    dot = sum(min(v, other[g]) * other[g] for g, v in one.items() if g in other)
                    total += closeness * dot / (norm * reference_norm)
        return 10 * total / (ORDERS * len(self._references[image]))

    def _vectors_of_image(self, image: int) -> list[tuple[int, list[Vector], list[float]]]:
        """Number of words, vectors and norms of each reference of the image."""
        return [(len(words), *self._vectors(words)) for words in self._references[image]]

    def _vectors(self, words: Words) -> tuple[list[Vector], list[float]]:
        """TF-IDF vectors of n = 1..4 and their norms."""
        vectors: list[Vector] = [{} for _ in range(ORDERS)]
        for ngram, count in _ngrams(words).items():
            weight = self._weights.get(ngram, self._unseen_weight)
            vectors[len(ngram) - 1][ngram] = count * weight
        return vectors, [math.sqrt(sum(v * v for v in vector.values())) for vector in vectors]


def _ngrams(words: Words) -> Counter[NGram]:
    return Counter(
        tuple(words[i : i + n]) for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1)
    )
