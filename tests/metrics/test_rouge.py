"""ROUGE as the ViT + GPT-2 system reports it: worked by hand, and rouge-score's own numbers."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tiny

from sat.config.decoding import DecodingConfig
from sat.data.dataset import CaptionDataset
from sat.decoding.hypothesis import Hypothesis
from sat.evaluation import evaluate, score, table
from sat.metrics.coco import coco_scores
from sat.metrics.rouge import KINDS, rouge_scores

pytest.importorskip("rouge_score")

WRITTEN = [
    ["A brown dog runs on the grass .", "Dogs, running!", "The dog is running over grass"],
    ["A man (in red) rides a T-shirt bike. He smiles", "Someone riding"],
    ["Two dogs play in the snow . One jumps ."],
]
SAID = ["the dog is running on grass", "a man is riding a red bike", ""]


def test_one_pair_by_hand():
    """Stems: the dog is run on grass; a brown dog run on the grass. Six words against seven."""
    (whole, (only,)) = rouge_scores([WRITTEN[0][:1]], SAID[:1])
    expected = {
        "rouge1": 2 * 5 / (6 + 7),  # the dog run on grass
        "rouge2": 2 * 1 / (5 + 6),  # run on
        "rougeL": 2 * 4 / (6 + 7),  # dog run on grass
        "rougeLsum": 2 * 4 / (6 + 7),
    }
    assert whole == only == pytest.approx(expected)


def test_the_sum_goes_by_sentences():
    """Each sentence is found whole, but the two stand in the other order: half of the words."""
    whole, _ = rouge_scores([["A dog runs.  A cat sleeps."]], ["a cat sleeps a dog runs"])
    assert whole["rougeL"] == pytest.approx(3 / 6)
    assert whole["rougeLsum"] == pytest.approx(1)


def test_every_pair_of_caption_and_reference_counts_the_same():
    """One hit in three references of one image, and one in one: 2 of 4, not a mean of images."""
    written = [["a dog", "two men", "some snow"], ["a cat"]]
    whole, each = rouge_scores(written, ["a dog", "a cat"])
    assert whole == pytest.approx(dict.fromkeys(KINDS, 2 / 4))
    assert each == [pytest.approx(dict.fromkeys(KINDS, 1 / 3)), dict.fromkeys(KINDS, 1.0)]


def test_the_numbers_are_rouge_scores_own():
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import BootstrapAggregator

    scorer, aggregator = RougeScorer(list(KINDS), use_stemmer=True), BootstrapAggregator()
    total = dict.fromkeys(KINDS, 0.0)
    pairs = [(text, said) for texts, said in zip(WRITTEN, SAID) for text in texts]
    for text, said in pairs:
        found = scorer.score(text.replace(". ", ".\n"), said)
        aggregator.add_scores(found)
        for kind in KINDS:
            total[kind] += found[kind].fmeasure / len(pairs)
    whole, _ = rouge_scores(WRITTEN, SAID)
    assert whole == pytest.approx(total)
    np.random.seed(0)  # noqa: NPY002 (its bootstrap draws from there)
    for kind, resampled in aggregator.aggregate().items():
        assert resampled.low.fmeasure < whole[kind] < resampled.high.fmeasure
        assert whole[kind] == pytest.approx(resampled.mid.fmeasure, abs=0.02)


def test_beside_the_other_metrics(monkeypatch):
    monkeypatch.setattr("sat.metrics.coco.shutil.which", lambda name: None)
    found = coco_scores(WRITTEN, SAID, ("bleu", "rouge_score"))
    whole, each = rouge_scores(WRITTEN, SAID)
    assert set(found.corpus) - set(KINDS) == {f"Bleu_{n}" for n in range(1, 5)} | {
        "brevity_penalty"
    }
    assert {kind: found.corpus[kind] for kind in KINDS} == whole
    assert found.per_image == each


def test_the_mean_length_counts_what_was_generated(tmp_path):
    captioner = tiny.captioner()
    dataset = CaptionDataset(tiny.prepare(tmp_path), tiny.NAME.format(1), "test")
    lengths = [0, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 6]
    said = {i: Hypothesis([1] * length, 0.0, i % 2 == 0) for i, length in enumerate(lengths)}
    found = score(said, dataset, captioner.vocabulary, ("rouge_score",))
    assert found.scores["gen_len"] == sum(lengths) / 12 == 1.75
    assert list(found.scores) == [*KINDS, "gen_len"]
    heading, _, row = table([DecodingConfig()], [found]).splitlines()
    assert heading.split(" | ")[-2:] == ["gen_len", "unfinished |"]
    assert row.split(" | ")[-2:] == ["1.750", "6 |"]


def test_evaluation_reports_it(tmp_path):
    captioner = tiny.captioner()
    dataset = CaptionDataset(tiny.prepare(tmp_path, known=2), tiny.NAME.format(2), "test")
    (found,) = evaluate(
        captioner,
        dataset,
        [DecodingConfig(beam_size=1, max_length=8)],
        metrics=["rouge_score"],
    )
    ids = [result["image_id"] - 300 for result in found.results]
    said = [result["caption"] for result in found.results]
    whole, _ = rouge_scores([[tiny.CAPTIONS[i], tiny.OTHERS[i]] for i in ids], said)
    words = sum(len(text.split()) for text in said)
    assert found.scores == whole | {"gen_len": words / 12}
    assert 0 < whole["rouge1"] < 1


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        rouge_scores(WRITTEN, SAID)
    assert str(caught.value) == (
        "ROUGE-1, -2 and -Lsum need rouge-score: pip install 'sat-captioning[metrics]'"
    )
