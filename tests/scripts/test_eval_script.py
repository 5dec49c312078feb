"""eval.py in this process: which beams it tries, what it prints, and what it writes where."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from sat import evaluation
from sat.checkpoints import native
from sat.commands.evaluate import main
from sat.config.decoding import DecodingConfig


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose own decoding is none of the default beams."""
    captioner, folder = tiny.captioner(), tmp_path_factory.mktemp("model") / "best"
    decoding = DecodingConfig(beam_size=2, length_penalty=0.5, max_length=6)
    config = dataclasses.replace(captioner.config, decoding=decoding)
    native.save(folder, captioner.model, captioner.vocabulary, config)
    return folder


def evaluate(model: Path, data: Path, *flags: object) -> None:
    arguments = ["--model", model, "--data_folder", data, "--device", "cpu", "--workers", 0]
    main([str(word) for word in (*arguments, *flags)])


def beams(printed: str) -> list[str]:
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    return [row.split("|")[1].strip() for row in rows[2:]]


def test_eval_without_beam_size_tries_the_models_own_too(model, data, tmp_path, capsys):
    evaluate(model, data, "--output_dir", tmp_path)
    printed = capsys.readouterr().out
    assert beams(printed) == ["1", "2", "3", "5"]
    assert "the model's own decoding: beam 2, length penalty 0.5" in printed
    captions = json.loads((tmp_path / "captions_test_beam2_results.json").read_text())
    captioner = tiny.captioner()
    options = DecodingConfig(beam_size=2, length_penalty=0.5, max_length=6)
    photos = [data / f"{(i - 10) % 12}.png" for i in range(12)]  # as `tiny.prepare` turns them
    assert [caption["caption"] for caption in captions] == [
        result.text for result in captioner.caption_all(photos, options)
    ]


def test_eval_with_beam_size_tries_those_alone(model, data, tmp_path, capsys):
    evaluate(model, data, "--output_dir", tmp_path, "-b", 3)
    assert beams(capsys.readouterr().out) == ["3"]


def test_eval_that_samples_decodes_once(model, data, tmp_path, capsys):
    evaluate(model, data, "--output_dir", tmp_path, "--do_sample")
    assert beams(capsys.readouterr().out) == ["1"]


def test_eval_of_a_model_that_returns_several_captions_scores_the_best(data, tmp_path, monkeypatch):
    made, seen, real = tiny.captioner(), [], evaluation.evaluate
    decoding = DecodingConfig(beam_size=3, num_return_sequences=3, max_length=6)
    config = dataclasses.replace(made.config, decoding=decoding)
    native.save(tmp_path / "best", made.model, made.vocabulary, config)
    monkeypatch.setattr(
        evaluation,
        "evaluate",
        lambda *args, **how: seen.extend(args[2]) or real(*args, **how),
    )
    evaluate(tmp_path / "best", data)
    assert [(run.beam_size, run.num_return_sequences) for run in seen] == [(1, 1), (3, 1), (5, 1)]


def test_eval_in_bfloat16_loads_the_weights_so(model, data, tmp_path, monkeypatch):
    seen = []

    def watched(captioner: Any, *args: Any, **how: Any) -> Any:
        seen.append(next(captioner.model.parameters()).dtype)
        return real(captioner, *args, **how)

    real = evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", watched)
    evaluate(model, data, "--output_dir", tmp_path, "-b", 2, "--precision", "bfloat16")
    assert seen == [torch.bfloat16]


def test_eval_that_cannot_write_prints_the_scores_and_names_the_remedy(
    model, data, tmp_path, capsys
):
    """The folder is a file, which not even root can write to."""
    folder = tmp_path / "file"
    folder.write_text("")
    with pytest.raises(SystemExit) as ended:
        evaluate(model, data, "--results_dir", folder, "-b", 1)
    printed = capsys.readouterr()
    assert ended.value.code == 1
    assert beams(printed.out) == ["1"]
    assert printed.err.startswith(f"error: {folder} does not take the results (")
    assert printed.err.endswith("): name a folder that can be written with --results_dir\n")


@pytest.mark.parametrize("nouns", [0, 3])
def test_eval_says_nothing_of_pointing_where_no_noun_is_named(
    model, data, tmp_path, capsys, monkeypatch, nouns
):
    names = ("peak_inside", "mass_inside", "center_inside", "center_mass", "chance", "all_named")
    pointing = dict.fromkeys([*names, "movement"], 0.0)
    pointing["nouns"] = nouns
    monkeypatch.setattr("sat.evaluation.PointingGame.scores", lambda game: pointing)
    evaluate(model, data, "--output_dir", tmp_path, "-b", 1)
    assert ("3 nouns" in capsys.readouterr().out) == (nouns == 3)
    written = json.loads((tmp_path / "pointing_test.json").read_text())
    assert written["decoding"]["beam_size"] == 1
    assert written == pointing | {"decoding": written["decoding"]}


def test_eval_of_images_with_boxes_encodes_each_once(model, data, tmp_path, monkeypatch):
    batches, encode = [], evaluation.encode_batch
    monkeypatch.setattr(
        evaluation,
        "encode_batch",
        lambda model, images: batches.append(len(images)) or encode(model, images),
    )
    evaluate(model, data, "--output_dir", tmp_path, "--batch_size", 5)
    assert batches == [5, 5, 2]
    decoding = json.loads((tmp_path / "pointing_test.json").read_text())["decoding"]
    assert (decoding["beam_size"], decoding["length_penalty"]) == (5, 0.5)
