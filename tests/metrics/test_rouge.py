"""ROUGE as the ViT + GPT-2 system reports it, against hand computation and rouge-score."""

from __future__ import annotations

import numpy as np
import pytest
import scripted
import tiny

from sat.config.decoding import DecodingConfig
from sat.data.dataset import CaptionDataset
from sat.decoding.hypothesis import Hypothesis
from sat.evaluation import evaluate, score
from sat.metrics.coco import coco_scores
from sat.metrics.rouge import KINDS, rouge_scores
from sat.results import table

pytest.importorskip("rouge_score")

REFERENCES = [
    ["A brown dog runs on the grass .", "Dogs, running!", "The dog is running over grass"],
    ["A man (in red) rides a T-shirt bike. He smiles", "Someone riding"],
    ["Two dogs play in the snow . One jumps ."],
]
HYPOTHESES = ["the dog is running on grass", "a man is riding a red bike", ""]


def test_rouge_scores_one_pair_equals_hand_computation():
    """Stems: the dog is run on grass; a brown dog run on the grass. Six words against seven."""
    (whole, (only,)) = rouge_scores([REFERENCES[0][:1]], HYPOTHESES[:1])
    expected = {
        "rouge1": 2 * 5 / (6 + 7),  # the dog run on grass
        "rouge2": 2 * 1 / (5 + 6),  # run on
        "rougeL": 2 * 4 / (6 + 7),  # dog run on grass
        "rougeLsum": 2 * 4 / (6 + 7),
    }
    assert whole == only == pytest.approx(expected)


def test_rouge_scores_reordered_sentences_differ_in_rouge_lsum_only():
    """Each sentence is found whole, but the two stand in the other order: half of the words."""
    whole, _ = rouge_scores([["A dog runs.  A cat sleeps."]], ["a cat sleeps a dog runs"])
    assert whole["rougeL"] == pytest.approx(3 / 6)
    assert whole["rougeLsum"] == pytest.approx(1)


def test_rouge_scores_corpus_mean_is_over_pairs():
    """One hit in three references of one image, and one in one: 2 of 4, not a mean of images."""
    references = [["a dog", "two men", "some snow"], ["a cat"]]
    whole, each = rouge_scores(references, ["a dog", "a cat"])
    assert whole == pytest.approx(dict.fromkeys(KINDS, 2 / 4))
    assert each == [pytest.approx(dict.fromkeys(KINDS, 1 / 3)), dict.fromkeys(KINDS, 1.0)]


def test_rouge_scores_corpus_equals_rouge_score_package():
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.scoring import BootstrapAggregator

    scorer, aggregator = RougeScorer(list(KINDS), use_stemmer=True), BootstrapAggregator()
    total = dict.fromkeys(KINDS, 0.0)
    pairs = [
        (text, hypothesis) for texts, hypothesis in zip(REFERENCES, HYPOTHESES) for text in texts
    ]
    for text, hypothesis in pairs:
        found = scorer.score(text.replace(". ", ".\n"), hypothesis)
        aggregator.add_scores(found)
        for kind in KINDS:
            total[kind] += found[kind].fmeasure / len(pairs)
    whole, _ = rouge_scores(REFERENCES, HYPOTHESES)
    assert whole == pytest.approx(total)
    np.random.seed(0)  # noqa: NPY002 (its bootstrap draws from there)
    for kind, resampled in aggregator.aggregate().items():
        assert resampled.low.fmeasure < whole[kind] < resampled.high.fmeasure
        assert whole[kind] == pytest.approx(resampled.mid.fmeasure, abs=0.02)


def test_coco_scores_with_rouge_score_add_rouge_beside_bleu(monkeypatch):
    monkeypatch.setattr("sat.metrics.coco.shutil.which", lambda name: None)
    found = coco_scores(REFERENCES, HYPOTHESES, ("bleu", "rouge_score"))
    whole, each = rouge_scores(REFERENCES, HYPOTHESES)
    assert set(found.corpus) - set(KINDS) == {f"Bleu_{n}" for n in range(1, 5)} | {
        "brevity_penalty"
    }
    assert {kind: found.corpus[kind] for kind in KINDS} == whole
    assert found.per_image == each


def test_score_with_rouge_score_reports_mean_generated_length(tmp_path):
    captioner = tiny.captioner()
    dataset = CaptionDataset(tiny.prepare(tmp_path), tiny.NAME.format(1), "test")
    lengths = [0, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 6]
    hypotheses = {i: Hypothesis([1] * length, 0.0, i % 2 == 0) for i, length in enumerate(lengths)}
    found = score(hypotheses, dataset, captioner.vocabulary, ("rouge_score",))
    assert found.scores["gen_len"] == sum(lengths) / 12 == 1.75
    assert list(found.scores) == [*KINDS, "gen_len"]
    heading, _, row = table([DecodingConfig()], [found]).splitlines()
    assert heading.split(" | ")[-2:] == ["gen_len", "unfinished |"]
    assert row.split(" | ")[-2:] == ["1.750", "6 |"]


def test_evaluate_with_rouge_score_equals_rouge_scores(tmp_path):
    folder = tiny.prepare(tmp_path, known=2)
    dataset = CaptionDataset(folder, tiny.NAME.format(2), "test")
    runs = [DecodingConfig(beam_size=1, max_length=8)]
    (found,) = evaluate(scripted.captioner(folder), dataset, runs, metrics=["rouge_score"])
    ids = [result["image_id"] - 300 for result in found.results]
    captions = [result["caption"] for result in found.results]
    whole, _ = rouge_scores([[tiny.CAPTIONS[i], tiny.OTHERS[i]] for i in ids], captions)
    words = sum(len(text.split()) for text in captions)
    assert found.scores == whole | {"gen_len": words / 12}
    assert 0 < whole["rouge1"] < 1  # "the small red red" of "the small red dog runs"
