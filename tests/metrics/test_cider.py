"""CIDEr-D against a slow version of its formula, and the properties that a reward needs."""

import math
from collections import Counter

import numpy as np
import pytest

from sat.metrics.cider import CiderD

TEXTS = [
    ["a dog runs on the grass", "a brown dog runs", "the dog is running on grass"],
    ["a man rides a bike", "a man on a red bike", "someone rides a bike"],
    ["two dogs play in the snow", "dogs playing in snow", "two dogs run on the snow"],
]
REFERENCES = [[text.split() for text in texts] for texts in TEXTS]


def slow(references, image, words):
    """Vedantam et al. 2015, eq. 1-3 and the CIDEr-D of section 5, one n-gram at a time."""

    def grams(line, n):
        return Counter(" ".join(line[i : i + n]) for i in range(len(line) - n + 1))

    def vector(line, n, basis):
        weights = []
        for gram in basis:
            among = sum(any(gram in grams(ref, n) for ref in refs) for refs in references)
            weights.append(grams(line, n)[gram] * math.log(len(references) / max(1, among)))
        return np.array(weights)

    total = 0.0
    for reference in references[image]:
        for n in range(1, 5):
            basis = sorted(set(grams(words, n)) | set(grams(reference, n)))
            ours, theirs = vector(words, n, basis), vector(reference, n, basis)
            norms = np.linalg.norm(ours) * np.linalg.norm(theirs)
            if norms > 0:
                gauss = math.exp(-((len(words) - len(reference)) ** 2) / (2 * 6.0**2))
                total += gauss * np.minimum(ours, theirs) @ theirs / norms
    return 10 * total / 4 / len(references[image])


@pytest.mark.parametrize("image", range(3))
@pytest.mark.parametrize(
    "caption",
    [
        "a dog runs on the grass",
        "a man rides a bike",
        "dogs dogs dogs dogs",
        "an unseen sentence",
        "two",
        "",
    ],
)
def test_cider_caption_equals_formula_of_the_paper(image, caption):
    words = caption.split()
    assert CiderD(REFERENCES).score(image, words) == pytest.approx(slow(REFERENCES, image, words))


def test_cider_reference_of_the_image_scores_highest():
    scorer = CiderD(REFERENCES)
    own = scorer.score(0, REFERENCES[0][0])
    assert own > 3 * scorer.score(1, REFERENCES[0][0])
    assert own > scorer.score(0, ["a", "dog", "runs", "on"])


def test_cider_repeated_word_scores_lower():
    scorer = CiderD(REFERENCES)
    once = scorer.score(2, ["two", "dogs", "play", "in", "the", "snow"])
    assert scorer.score(2, ["two", "dogs", "play", "in", "the", "snow", "snow", "snow"]) < once


def test_cider_ids_score_the_same_as_words():
    numbers = {
        word: i for i, word in enumerate({w for refs in REFERENCES for r in refs for w in r})
    }
    coded = [[[numbers[word] for word in line] for line in refs] for refs in REFERENCES]
    caption = REFERENCES[1][1]
    by_words, by_numbers = CiderD(REFERENCES), CiderD(coded)
    assert (
        by_numbers.score(1, [numbers[word] for word in caption]) == by_words.score(1, caption) > 0
    )
