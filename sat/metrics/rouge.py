"""ROUGE-1, -2, -L and -Lsum by Google's rouge-score, as the ViT + GPT-2 system reports them.

The only importer of rouge-score (extra `[metrics]`), which splits captions into lower-case words in
its own way, without the tokeniser of the COCO metrics; COCO's ROUGE-L is another number.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from nltk.tokenize.punkt import PunktSentenceTokenizer

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Mean F-measures, of all and for each caption, words stemmed (Porter), values 0 to 1.

    That system's examples are pairs of a photo and one caption of it: a caption is compared with
    each of its references alone, every pair counts the same, and no best reference is chosen. The
    mean is exact, where `evaluate` resamples it. Raises `ModuleNotFoundError` without rouge-score.
    """
    scorer = _scorer()
    pairs = [
        [scorer.score(_lines(reference), _lines(said)) for reference in written]
        for written, said in zip(references, hypotheses)
    ]
    per_image = [{kind: _mean(scores, kind) for kind in KINDS} for scores in pairs]
    every = [scores for of_image in pairs for scores in of_image]
    return {kind: _mean(every, kind) for kind in KINDS}, per_image


def _mean(scores: Sequence[dict[str, Any]], kind: str) -> float:
    return sum(score[kind].fmeasure for score in scores) / len(scores)


def _lines(caption: str) -> str:
    """A sentence a line, which ROUGE-Lsum goes by; NLTK's splitter, untrained: no download."""
    return "\n".join(PunktSentenceTokenizer().tokenize(" ".join(caption.split())))


def _scorer() -> Any:
    try:
        rouge_scorer = importlib.import_module("rouge_score.rouge_scorer")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ROUGE-1, -2 and -Lsum need rouge-score: pip install 'sat-captioning[metrics]'"
        ) from error
    return rouge_scorer.RougeScorer(KINDS, use_stemmer=True)
