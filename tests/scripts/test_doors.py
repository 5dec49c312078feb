"""Files that libraries stumble over, at every door: one sentence with the file's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_vit

import sat
from sat.checkpoints import native
from sat.commands import caption, evaluate, prepare, train

DEVICE = ["--device", "cpu"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def scramble(path: Path) -> None:
    path.write_bytes(b"\x80" + path.read_bytes()[::-1])


def deepen(path: Path) -> None:
    path.write_text('{"a":' + 10**5 * "[" + 10**5 * "]" + "}")


def set_to(**values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


DAMAGE = [
    *(("lstm", "model.safetensors", change) for change in (cut, scramble)),
    *(("lstm", "config.json", change) for change in (cut, scramble, deepen)),
    *(("lstm", "word_map.json", change) for change in (cut, scramble, deepen)),
    ("vit", "model.safetensors", scramble),
    ("vit", "config.json", set_to(encoder=3)),
    ("vit", "sat.json", deepen),
    ("vit", "sat.json", set_to(model={"preprocessing": {"mean": None}})),
    ("vit", "generation_config.json", scramble),
    ("vit", "tokenizer.json", scramble),
    ("vit", "tokenizer.json", set_to(model={"type": "?"})),
    ("vit", "tokenizer_config.json", deepen),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = tiny.captioner()
    native.save(tmp_path / "lstm", made.model, made.vocabulary, made.config)
    vocabulary = tiny_vit.subwords()
    parts = tiny_vit.model(vocabulary), vocabulary, tiny_vit.config()
    native.save(tmp_path / "vit", *parts)
    return {name: tmp_path / name for name in ("lstm", "vit")}


def told(capsys: pytest.CaptureFixture[str], main: Callable[..., None], *arguments: Any) -> str:
    """The line that a command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in arguments])
    assert end.value.code in (1, 2)
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("kind", "name", "damage"), DAMAGE)
def test_damaged_checkpoint_at_every_door_is_one_sentence(
    folders, data, tmp_path, capsys, kind, name, damage
):
    folder = folders[kind]
    damage(folder / name)
    with pytest.raises((ValueError, OSError)) as caught:
        sat.load(folder)
    sentence = str(caught.value)
    assert str(folder) in sentence
    assert "\n" not in sentence
    run = ["--output_dir", tmp_path / "run", "--data_folder", data, "--init", folder]
    for line in (
        told(capsys, caption.main, "--img", data / "0.png", "--model", folder, *DEVICE),
        told(capsys, evaluate.main, "--data_folder", data, "--model", folder, *DEVICE),
        told(capsys, train.main, *run, *DEVICE),
    ):
        assert line == f"error: {sentence}"


@pytest.mark.parametrize("name", ["captions.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["{", '{"images": [1]}', '{"a":' + 10**5 * "[", "\x80"])
def test_damaged_source_of_preparing_is_one_sentence(tmp_path, capsys, name, content):
    (tmp_path / "captions.json").write_text('{"a.png": ["a dog"]}')
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    flags = ["--annotations", tmp_path / "captions.json", "--output_folder", tmp_path / "out"]
    if name == "tokenizer.json":
        flags += ["--tokenizer", tmp_path / name, "--image_folder", tmp_path, "--split", "1,0,0"]
    assert str(tmp_path / name) in told(capsys, prepare.main, *flags)
