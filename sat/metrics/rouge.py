"""ROUGE-1, -2, -L and -Lsum by Google's rouge-score, as the ViT + GPT-2 system reports them.

The only importer of rouge-score (extra `[metrics]`), which has its own tokenizer; the ROUGE-L of
the COCO evaluation is another number.
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
    """Mean F-measures of the split and of each caption, words stemmed (Porter), values 0 to 1.

    As in that system, a hypothesis is compared with each of its references alone and every pair
    counts the same; no best reference is chosen. The mean is exact, where Hugging Face's
    `evaluate` resamples it.
    """
    rouge_scorer = importlib.import_module("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(KINDS, use_stemmer=True)
    pairs = [
        [scorer.score(_lines(reference), _lines(hypothesis)) for reference in captions]
        for captions, hypothesis in zip(references, hypotheses)
    ]
    per_image = [_mean(scores) for scores in pairs]
    return _mean([scores for of_image in pairs for scores in of_image]), per_image


def _mean(scores: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {kind: sum(score[kind].fmeasure for score in scores) / len(scores) for kind in KINDS}


def _lines(caption: str) -> str:
    """The caption with one sentence per line for ROUGE-Lsum, by NLTK's untrained splitter."""
    return "\n".join(PunktSentenceTokenizer().tokenize(" ".join(caption.split())))
