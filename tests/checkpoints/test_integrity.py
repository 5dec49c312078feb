"""Damaged checkpoints: told by their digests, and by numbers that are none."""

from __future__ import annotations

import json
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
