"""Registry of caption metrics; METEOR, ROUGE-L and CIDEr by pycocoevalcap, as commonly reported.

The only importer of pycocoevalcap (extra `[metrics]`). Its Penn Treebank tokenizer and METEOR run
on Java; without Java captions are tokenized by NLTK, and the scores name the tokenizer.
"""

from __future__ import annotations

import atexit
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sat.metrics.bleu import bleu_of_words, tokenize
from sat.metrics.rouge import rouge_scores

logger = logging.getLogger(__name__)

Tokenized = dict[int, list[str]]
"""by image index; words joined by blanks"""
MetricScores = tuple[dict[str, float], list[dict[str, float]]]
"""scores of the whole split, and of each caption alone where the metric has them"""


@dataclass(frozen=True)
class Scores:
    """Scores of a split and of each of its captions, keys as in the COCO evaluation, 0 to 1."""

    corpus: dict[str, float]
    per_image: list[dict[str, float]]
    """without BLEU, which is not meaningful for a single caption unless smoothed"""
    tokenizer: str
    """"ptb" (Stanford's, by Java) or "nltk" """


class Captions(NamedTuple):
    """References and hypotheses of a split, as written and tokenized alike."""

    references: Sequence[Sequence[str]]
    hypotheses: Sequence[str]
    tokenized_references: Tokenized
    tokenized_hypotheses: Tokenized


def _bleu(captions: Captions) -> MetricScores:
    references = [
        [line.split() for line in lines] for lines in captions.tokenized_references.values()
    ]
    hypotheses = [line.split() for (line,) in captions.tokenized_hypotheses.values()]
    return bleu_of_words(references, hypotheses), [{} for _ in hypotheses]


def _coco_metric(key: str, module: str) -> Callable[[Captions], MetricScores]:
    """A metric of pycocoevalcap, under its key in the COCO evaluation."""

    def metric(captions: Captions) -> MetricScores:
        found = importlib.import_module(f"pycocoevalcap.{module}.{module}")
        scorer = getattr(found, module.capitalize())()
        corpus, each = scorer.compute_score(
            captions.tokenized_references, captions.tokenized_hypotheses
        )
        return {key: float(corpus)}, [{key: float(value)} for value in each]

    return metric


METRICS: dict[str, Callable[[Captions], MetricScores]] = {
    "bleu": _bleu,
    "meteor": _coco_metric("METEOR", "meteor"),
    "rouge": _coco_metric("ROUGE_L", "rouge"),
    "cider": _coco_metric("CIDEr", "cider"),
    "rouge_score": lambda captions: rouge_scores(captions.references, captions.hypotheses),
}
"""adding a metric is one entry"""
PACKAGES = dict.fromkeys(("meteor", "rouge", "cider"), "pycocoevalcap") | {
    "rouge_score": "rouge_score"
}
"""what these import, of the extra `[metrics]`"""


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise what `coco_scores` would, before hours of captioning."""
    for metric in metrics:
        if metric not in METRICS:
            raise ValueError(f"metric {metric!r} is unknown: choose from {', '.join(METRICS)}")
        package = PACKAGES.get(metric)
        if package and not importlib.util.find_spec(package):
            raise ModuleNotFoundError(
                f"metric {metric!r} needs {package}: pip install 'sat-captioning[metrics]'"
            )
    if "meteor" in metrics and not shutil.which("java"):
        raise OSError("METEOR needs Java, which was not found: install it, or leave meteor out")


def coco_scores(
    references: Sequence[Sequence[str]], hypotheses: Sequence[str], metrics: Sequence[str]
) -> Scores:
    """The chosen `METRICS` of one hypothesis per image against all its references.

    Raises `ValueError` for an unknown metric, `ModuleNotFoundError` without its package, and
    `OSError` for METEOR without Java.
    """
    check_metrics(metrics)
    if "cider" in metrics and len(hypotheses) == 1:
        logger.warning("CIDEr of one image is 0.0 by definition: its words have no weight")
    ptb = _ptb_tokenizer()
    tokenized = (_tokenized(group, ptb) for group in (references, [[text] for text in hypotheses]))
    captions = Captions(references, hypotheses, *tokenized)
    corpus: dict[str, float] = {}
    per_image: list[dict[str, float]] = [{} for _ in hypotheses]
    for name, metric in METRICS.items():
        if name in metrics:
            scores, each = metric(captions)
            corpus |= scores
            per_image = [row | values for row, values in zip(per_image, each)]
    return Scores(corpus, per_image, "ptb" if ptb else "nltk")


def _ptb_tokenizer() -> Any:
    """The tokenizer of the COCO evaluation; None, with a warning, where it cannot run."""
    if shutil.which("java") and importlib.util.find_spec("pycocoevalcap"):
        module = importlib.import_module("pycocoevalcap.tokenizer.ptbtokenizer")
        _make_writable(module)
        return module.PTBTokenizer()
    logger.warning(
        "captions are tokenized by NLTK: scores differ a little from those of the COCO "
        "evaluation, whose tokenizer needs Java and pip install 'sat-captioning[metrics]'"
    )
    return None


def _make_writable(module: ModuleType) -> None:
    """Move the tokenizer, with its jar, to a temporary folder if its own cannot be written.

    It writes a file beside itself, and its environment may belong to another user.
    """
    package = Path(module.__file__ or "").parent
    if os.access(package, os.W_OK):
        return
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copy(package / module.STANFORD_CORENLP_3_4_1_JAR, folder)
    module.__file__ = os.path.join(folder, "ptbtokenizer.py")


def _tokenized(captions: Sequence[Sequence[str]], ptb: Any) -> Tokenized:
    lines = {  # without line breaks and METEOR's separator
        i: [" ".join(text.replace("|||", " ").split()) or "." for text in texts]
        for i, texts in enumerate(captions)
    }
    if ptb is None:
        return {i: [" ".join(tokenize(text)) for text in texts] for i, texts in lines.items()}
    found: Tokenized = ptb.tokenize(
        {i: [{"caption": text} for text in texts] for i, texts in lines.items()}
    )
    return found
