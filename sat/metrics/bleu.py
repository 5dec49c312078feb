"""Corpus BLEU-1..4, with the brevity penalty reported beside it.

Hypotheses and references are split by the same tokenizer; no word map stands between. An unknown
word matches nothing, not even another unknown word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from nltk.tokenize import TreebankWordTokenizer
from nltk.translate.bleu_score import brevity_penalty, closest_ref_length, modified_precision

# Tokens that the COCO caption evaluation drops after Penn Treebank tokenization.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
BRACKETS = frozenset("()[]{}")
UNKNOWN = "<unk>"

Words = Sequence[str]


def tokenize(caption: str) -> list[str]:
    """The words of a caption: Penn Treebank tokens (NLTK's), lower case, without punctuation."""
    first, *others = (_split(part) for part in caption.lower().split(UNKNOWN))
    return first + [word for part in others for word in (UNKNOWN, *part)]


def bleu(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU-1..4 (Papineni et al. 2002), keys as in the COCO evaluation, values 0 to 1.

    `references[i]` are all the reference captions of the image of `hypotheses[i]`. No smoothing.
    "brevity_penalty" is the factor already contained in the scores. Raises `ValueError` when the
    two lists do not match or an image has no reference.
    """
    tokenized = [[tokenize(caption) for caption in captions] for captions in references]
    return bleu_of_words(tokenized, [tokenize(caption) for caption in hypotheses])


def bleu_of_words(
    references: Sequence[Sequence[Words]], hypotheses: Sequence[Words]
) -> dict[str, float]:
    """`bleu` of captions that are tokenized already."""
    if len(references) != len(hypotheses) or not hypotheses:
        raise ValueError(
            f"{len(hypotheses)} captions for {len(references)} images with references: "
            "give exactly one caption for every image"
        )
    if not all(references):
        raise ValueError("an image has no reference caption: it cannot be scored, leave it out")
    known = [["" if word == UNKNOWN else word for word in words] for words in hypotheses]
    wanted = sum(closest_ref_length(refs, len(words)) for refs, words in zip(references, known))
    length = sum(map(len, known))
    factor = brevity_penalty(wanted, length) if length else 0.0
    scores, product = {}, 1.0
    for n in range(1, 5):
        product *= _precision(references, known, n)
        scores[f"Bleu_{n}"] = factor * math.pow(product, 1 / n)
    return scores | {"brevity_penalty": float(factor)}


def _precision(references: Sequence[Sequence[Words]], hypotheses: Sequence[Words], n: int) -> float:
    """Share of the n-grams of the hypotheses that a reference confirms.

    A caption shorter than n has no n-gram, as in the paper and the COCO evaluation; NLTK would
    count one that is not confirmed.
    """
    pairs = [pair for pair in zip(references, hypotheses) if len(pair[1]) >= n]
    fractions = [modified_precision(refs, words, n) for refs, words in pairs]
    possible: int = sum(fraction.denominator for fraction in fractions)
    matched: int = sum(fraction.numerator for fraction in fractions)
    return matched / possible if possible else 0.0


def _split(text: str) -> list[str]:
    tokens: list[str] = TreebankWordTokenizer().tokenize(re.sub(r"\s+", " ", text))
    words = (token.rstrip(".") or token for token in tokens)  # NLTK splits only the last full stop
    return [word for word in words if word not in PUNCTUATION and word not in BRACKETS]
