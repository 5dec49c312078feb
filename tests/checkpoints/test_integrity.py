"""Damaged checkpoints: told by their digests, and by numbers that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from sat.checkpoints import native


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tiny.captioner()
    parts = (made.model, made.vocabulary, made.config)
    native.save(tmp_path / "last", *parts, trainer={"step": 3})
    return tmp_path / "last"


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt"])
def test_a_flipped_bit_is_told_with_the_name_of_the_file(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    read = native.load if name == "model.safetensors" else native.load_trainer
    with pytest.raises(ValueError, match=rf"{name} is not the file that was written"):
        read(folder)


def test_a_folder_without_digests_loads_as_before(folder):
    header = json.loads((folder / "config.json").read_text())
    del header["sha256"]
    (folder / "config.json").write_text(json.dumps(header))
    native.load(folder)
    assert native.load_trainer(folder) == {"step": 3}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(folder, value):
    made = tiny.captioner()
    with torch.no_grad():
        made.model.decoder.fc.bias[0] = value
    with pytest.raises(ValueError, match=r"weights decoder\.fc\.bias hold NaN or infinite"):
        native.save(folder, made.model, made.vocabulary, made.config)
    weights = {name: tensor.contiguous() for name, tensor in made.model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    header = json.loads((folder / "config.json").read_text())
    del header["sha256"]
    (folder / "config.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=r"weights decoder\.fc\.bias hold NaN or infinite"):
        native.load(folder)


def edit(folder: Path, text: str, other: str) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace(text, other, 1))


@pytest.mark.parametrize(
    ("text", "other", "sentence"),
    [
        ("0.485", "NaN", "mean is (nan, 0.456, 0.406): give"),
        ('"decoder_dim": 8', '"decoder_dim": 10000000', "decoder_dim is 10000000: give a whole"),
        ('"max_length": 51', '"max_length": "51"', "max_length is '51': give a whole number"),
        ('"hf": {', f'"hf": {{"a": {100_000 * "["}{100_000 * "]"}, ', "maximum recursion depth"),
        ('"encoder_config": {', f'"encoder_config": {{"a": {99 * "["}{99 * "]"}', "encoder_config"),
    ],
    ids=lambda text: text[:16],
)
def test_config_with_values_that_no_model_has_is_refused(folder, text, other, sentence):
    edit(folder, text, other)
    with pytest.raises(ValueError) as caught:
        native.load(folder)
    told = str(caught.value)
    assert told.startswith(f"{folder}/config.json cannot be read ({sentence}")
    assert len(told) < 600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt", "config.json", "notes"])
def test_a_pipe_in_the_folder_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for read in (native.load, native.load_trainer):
        with pytest.raises(ValueError, match=rf"{name} is no regular file"):
            read(folder)


def test_the_config_is_read_once(folder, monkeypatch):
    read, read_text = [], Path.read_text

    def count(path: Path, **how: str) -> str:
        read.append(path.name)
        return read_text(path, **how)

    monkeypatch.setattr(Path, "read_text", count)
    native.load(folder)
    assert read.count("config.json") == 1


def test_scores_that_are_no_numbers_are_refused(folder):
    edit(folder, '"scores": {}', '"scores": {"Bleu_4": "high"}')
    with pytest.raises(ValueError, match=r"config.json cannot be read \(could not convert string"):
        native.scores(folder)
