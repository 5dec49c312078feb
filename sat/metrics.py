"""Captions and what people wrote, compared: BLEU-1..4 with the brevity penalty shown.

Both sides pass the same tokeniser, and references are taken as written: no word map stands
between, so an unknown word matches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nltk.tokenize import TreebankWordTokenizer
from nltk.translate.bleu_score import brevity_penalty, closest_ref_length, corpus_bleu

# What the COCO caption evaluation drops after Penn Treebank tokenisation.
PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
BRACKETS = frozenset("()[]{}")
NGRAM_WEIGHTS = [tuple([1 / n] * n) for n in range(1, 5)]


def tokenize(caption: str) -> list[str]:
    """The words of a caption: Penn Treebank tokens (NLTK's), lower case, without punctuation."""
    tokens = TreebankWordTokenizer().tokenize(re.sub(r"\s+", " ", caption.lower()))
    words = (token.rstrip(".") or token for token in tokens)  # NLTK splits only the last full stop
    return [word for word in words if word not in PUNCTUATION and word not in BRACKETS]


def bleu(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU-1..4 (Papineni et al. 2002), keys as in the COCO evaluation, values 0 to 1.

    `references[i]` are all the captions people wrote for the image of `hypotheses[i]`. No
    smoothing. "brevity_penalty" is the factor that is already contained in the scores. Raises
    `ValueError` when the two do not match up or an image has no reference.
    """
    if len(references) != len(hypotheses) or not hypotheses:
        raise ValueError(
            f"{len(hypotheses)} captions for {len(references)} images with references: "
            "give exactly one caption for every image"
        )
    if not all(references):
        raise ValueError("an image has no reference caption: it cannot be scored, leave it out")
    written = [[tokenize(caption) for caption in captions] for captions in references]
    said = [tokenize(caption) for caption in hypotheses]
    if not any(said):
        return {f"Bleu_{n}": 0.0 for n in range(1, 5)} | {"brevity_penalty": 0.0}
    scores = _corpus_bleu(written, said)
    closest = sum(closest_ref_length(refs, len(words)) for refs, words in zip(written, said))
    factor = brevity_penalty(closest, sum(map(len, said)))
    return {f"Bleu_{n}": float(score) for n, score in enumerate(scores, 1)} | {
        "brevity_penalty": factor
    }


def _corpus_bleu(written: list[list[list[str]]], said: list[list[str]]) -> list[float]:
    """NLTK's corpus BLEU, with a true zero where it warns and returns nearly one."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="[\\s\\S]*The hypothesis contains 0 counts")
        scores = corpus_bleu(written, said, weights=NGRAM_WEIGHTS)
    return [score if score > 1e-100 else 0.0 for score in scores]
