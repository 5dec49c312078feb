"""METEOR, ROUGE-L and CIDEr beside BLEU, from pycocoevalcap: the numbers everybody reports.

The only importer of pycocoevalcap (extra `[metrics]`). Its Penn Treebank tokeniser and METEOR run
on Java; without Java captions are tokenised by NLTK, and the scores say so.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sat.metrics.bleu import bleu_of_words, tokenize
from sat.metrics.rouge import rouge_scores

logger = logging.getLogger(__name__)

METRICS = ("bleu", "meteor", "rouge", "cider", "rouge_score")
Tokenised = dict[int, list[str]]


@dataclass(frozen=True)
class Scores:
    """Scores of a split and of each of its captions, keys as in the COCO evaluation, 0 to 1."""

    corpus: dict[str, float]
    per_image: list[dict[str, float]]
    """no BLEU here: without smoothing it says nothing of one caption"""
    tokenizer: str
    """"ptb" (Stanford's, by Java) or "nltk" """


def coco_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], metrics: Sequence[str]
) -> Scores:
    """The chosen `METRICS` of one caption an image against all that people wrote for it.

    Raises `ValueError` for an unknown metric, `ModuleNotFoundError` without pycocoevalcap, and
    `OSError` when METEOR is asked for and there is no Java.
    """
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        raise ValueError(f"metric {unknown[0]!r} is unknown: choose from {', '.join(METRICS)}")
    if "meteor" in metrics and not shutil.which("java"):
        raise OSError("METEOR needs Java, and there is none: install it, or leave meteor out")
    written, said, tokenizer = _tokenised(references, hypotheses)
    corpus: dict[str, float] = {}
    per_image: list[dict[str, float]] = [{} for _ in hypotheses]
    if "bleu" in metrics:
        corpus |= bleu_of_words(
            [[line.split() for line in written[i]] for i in written],
            [said[i][0].split() for i in said],
        )
    for metric in ("meteor", "rouge", "cider"):
        if metric in metrics:
            name, scorer = _scorer(metric)
            whole, each = scorer.compute_score(written, said)
            corpus[name] = float(whole)
            for row, value in zip(per_image, each):
                row[name] = float(value)
    if "rouge_score" in metrics:
        whole, each = rouge_scores(references, hypotheses)
        corpus |= whole
        per_image = [row | scores for row, scores in zip(per_image, each)]
    return Scores(corpus, per_image, tokenizer)


def _scorer(metric: str) -> tuple[str, Any]:
    """The metric's key in the COCO evaluation, and pycocoevalcap's scorer."""
    name, module, scorer = {
        "meteor": ("METEOR", "meteor.meteor", "Meteor"),
        "rouge": ("ROUGE_L", "rouge.rouge", "Rouge"),
        "cider": ("CIDEr", "cider.cider", "Cider"),
    }[metric]
    try:
        found = importlib.import_module(f"pycocoevalcap.{module}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} needs pycocoevalcap: pip install 'sat-captioning[metrics]'"
        ) from error
    return name, getattr(found, scorer)()


def _tokenised(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str]
) -> tuple[Tokenised, Tokenised, str]:
    """References and captions by image number, tokenised alike, words joined by blanks."""
    written = {i: [_one_line(text) for text in texts] for i, texts in enumerate(references)}
    said = {i: [_one_line(text)] for i, text in enumerate(hypotheses)}
    if not (shutil.which("java") and importlib.util.find_spec("pycocoevalcap")):
        logger.warning(
            "captions are tokenised by NLTK: scores differ a little from those of the COCO "
            "evaluation, whose tokeniser needs Java and pip install 'sat-captioning[metrics]'"
        )
        return _by_nltk(written), _by_nltk(said), "nltk"
    tokenizer = importlib.import_module("pycocoevalcap.tokenizer.ptbtokenizer").PTBTokenizer()
    by_ptb = [
        tokenizer.tokenize({i: [{"caption": text} for text in texts] for i, texts in group.items()})
        for group in (written, said)
    ]
    return by_ptb[0], by_ptb[1], "ptb"


def _by_nltk(captions: Tokenised) -> Tokenised:
    return {i: [" ".join(tokenize(text)) for text in texts] for i, texts in captions.items()}


def _one_line(text: str) -> str:
    """A caption no line break or METEOR separator can break out of."""
    return " ".join(text.replace("|||", " ").split()) or "."
