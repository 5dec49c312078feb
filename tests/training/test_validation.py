"""The decoding that a run chooses for its best checkpoint, against every one tried by itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import scripted
import tiny

import sat
from sat.captioner import Captioner
from sat.checkpoints import native
from sat.config.decoding import DecodingConfig
from sat.data.dataset import CaptionDataset
from sat.evaluation import evaluate
from sat.training import stage, trainer, validation
from sat.training.trainer import fit
from sat.training.validation import choose_decoding


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


def bleu(captioner: Captioner, val: CaptionDataset, options: DecodingConfig) -> float:
    return evaluate(captioner, val, [options])[0].scores["Bleu_1"]


@pytest.mark.parametrize("own", [DecodingConfig(4, length_penalty=0.2), DecodingConfig(1)])
def test_choose_decoding_returns_the_best_of_the_grid_and_the_cheaper_of_equals(
    data, tmp_path, monkeypatch, caplog, own
):
    """By BLEU-1 here, in which the captions of each width and length penalty differ."""
    score = validation.score

    def scored(*parts: Any) -> Any:
        found = score(*parts)
        return dataclasses.replace(found, scores={"Bleu_4": found.scores["Bleu_1"]})

    monkeypatch.setattr(validation, "score", scored)
    own = dataclasses.replace(own, max_length=8)
    captioner, val = scripted.captioner(data), CaptionDataset(data, tiny.NAME.format(2), "val")
    config = tiny.config(data, tmp_path, validation=own)
    with caplog.at_level("INFO", "sat.training.validation"):
        chosen, scores = choose_decoding(captioner, val, config)
    tried = [own, dataclasses.replace(own, beam_size=1)] + [
        dataclasses.replace(own, beam_size=beams, length_penalty=penalty)
        for beams in (3, 5)
        for penalty in (0.0, 0.5, 1.0)
    ]
    found = {options: bleu(captioner, val, options) for options in tried}
    assert len(set(found.values())) == 3  # greedy, by total, by mean log-probability
    assert found[dataclasses.replace(own, beam_size=1)] < max(found.values())
    assert scores["Bleu_4"] == found[chosen] == max(found.values())
    equal = [options for options, value in found.items() if value == found[chosen]]
    assert chosen.beam_size == min(options.beam_size for options in equal)
    rows = [line.split("|")[1:3] for line in caplog.text.splitlines() if line.startswith("| ")]
    told = [(float(beam), float(penalty)) for beam, penalty in rows[2:]]
    assert sorted(told) == sorted({(one.beam_size, one.length_penalty) for one in tried})


def test_choose_decoding_of_equal_scores_takes_the_smallest_beam(data, tmp_path, monkeypatch):
    score = validation.score

    def scored(*parts: Any) -> Any:
        return dataclasses.replace(score(*parts), scores={"Bleu_4": 0.0})

    monkeypatch.setattr(validation, "score", scored)
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    own = DecodingConfig(beam_size=3, max_length=8)
    chosen, _ = choose_decoding(tiny.captioner(), val, tiny.config(data, tmp_path, validation=own))
    assert chosen == dataclasses.replace(own, beam_size=1)


def test_a_run_killed_while_it_chooses_goes_on_to_the_same_best(data, tmp_path, monkeypatch):
    chosen = DecodingConfig(beam_size=3, length_penalty=0.5, max_length=8)
    stages = {"stages": (1, 2), "stage1": {"epochs": 1}, "stage2": {"epochs": 1}}
    config = tiny.config(data, tmp_path, choose_decoding=True, cache_features=True, **stages)
    calls = []

    def choose(best: Captioner, *args: Any) -> tuple[DecodingConfig, dict[str, float]]:
        calls.append(tiny.weights(best.model))
        if len(calls) == 1:
            raise SystemExit
        found = choose_decoding(best, *args)[1]  # the stage's cached features can be read
        return chosen, found | {"Bleu_4": 0.75}

    monkeypatch.setattr(stage, "choose_decoding", choose)
    with pytest.raises(SystemExit):
        fit(config)
    best = native.load(tmp_path / "best")
    assert best[2].decoding == config.validation
    assert tiny.equal(calls[0], tiny.weights(best[0]))
    log, score = tiny.log(tmp_path), native.scores(tmp_path / "best")["Bleu_4"]
    for _ in range(2):
        fit(dataclasses.replace(config, resume=True))
        captioner = sat.load(tmp_path / "best")
        assert captioner.config.decoding == chosen
        assert tiny.equal(tiny.weights(captioner.model), calls[0])
        scores = native.scores(tmp_path / "best")
        assert (scores["Bleu_4"], scores["epoch_Bleu_4"]) == (0.75, score)
        assert tiny.log(tmp_path) == log
    later = trainer.Trainer(dataclasses.replace(config, stages=(2,)))
    assert later.state.best == score  # what its epochs are compared with


def test_a_run_that_samples_or_need_not_choose_keeps_its_decoding(data, tmp_path):
    how: dict[str, Any] = {"stage1": {"epochs": 1}}
    sampling = DecodingConfig(do_sample=True, max_length=8)
    for changes in ({"choose_decoding": True, "validation": sampling}, {"choose_decoding": False}):
        config = tiny.config(data, tmp_path, overwrite=True, **how, **changes)
        assert sat.load(fit(config)).config.decoding == config.validation
