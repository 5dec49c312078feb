"""Checkpoint folders: loaded as they were saved, and never half written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import sat
from sat.captioner import Captioner
from sat.checkpoints import native, show_attend_tell

PARTS = ["README.md", "config.json", "model.safetensors", "word_map.json"]
TRAINER = {
    "position": {"epoch": 3, "best": 0.25, "totals": {"seconds": 1.5}},
    "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 1e-3}]},
    "random": torch.get_rng_state(),
    "average": None,
}


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return tiny.captioner()


@pytest.fixture
def folder(captioner: Captioner, tmp_path: Path) -> Path:
    return save(captioner, tmp_path / "runs" / "best")


def save(captioner: Captioner, folder: Path, **more) -> Path:
    native.save(folder, captioner.model, captioner.vocabulary, captioner.config, **more)
    return folder


def logits(captioner: Captioner) -> torch.Tensor:
    """Logits of a caption of a random image, encoder included."""
    generator = torch.Generator().manual_seed(3)
    features = captioner.model.encode(torch.randn(1, 3, tiny.SIZE, tiny.SIZE, generator=generator))
    caption = torch.tensor([captioner.vocabulary.encode(tiny.CAPTIONS[0].split())])
    return captioner.model(features, caption, torch.tensor([caption.shape[1]])).logits


def same(folder: Path, captioner: Captioner) -> bool:
    """Whether the folder loads as this captioner."""
    loaded = sat.load(folder)
    return not tiny.changed(tiny.weights(captioner.model), loaded.model)


def test_native_saved_captioner_loads_unchanged(captioner, folder):
    assert sorted(path.name for path in folder.iterdir()) == PARTS
    loaded = sat.load(folder)
    with torch.inference_mode():
        assert torch.equal(logits(loaded), logits(captioner))
    assert loaded.vocabulary == captioner.vocabulary
    assert loaded.config == captioner.config
    assert not any(module.training for module in loaded.model.modules())
    assert not any(weight.requires_grad for weight in loaded.model.encoder.parameters())


def test_native_channels_last_weights_are_stored_contiguous_and_loaded_channels_last(
    captioner, folder
):
    """The encoder lives in channels_last, which safetensors would refuse or scramble."""
    kernel = next(w for w in captioner.model.encoder.parameters() if w.ndim == 4 and w.shape[1] > 1)
    assert not kernel.is_contiguous()
    stored = load_file(folder / native.WEIGHTS)
    expected = captioner.model.state_dict()
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], value) for name, value in expected.items())
    again = sat.load(folder).model.state_dict()
    assert all(again[name].stride() == value.stride() for name, value in expected.items())


def test_load_trainer_saved_state_is_read_with_weights_only(captioner, tmp_path, monkeypatch):
    folder = save(captioner, tmp_path / "last", trainer=TRAINER)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*PARTS, "trainer.pt"])
    load, calls = torch.load, []

    def watched(*args, **kwargs):
        calls.append(kwargs["weights_only"])
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", watched)
    found = native.load_trainer(folder)
    assert calls == [True]
    assert torch.equal(found.pop("random"), TRAINER["random"])
    assert found == {key: value for key, value in TRAINER.items() if key != "random"}


def test_load_trainer_folder_without_state_raises_file_not_found(folder):
    sentence = r"best/trainer\.pt does not exist: only a run's last/ can be resumed"
    with pytest.raises(FileNotFoundError, match=sentence):
        native.load_trainer(folder)


def test_save_scores_are_in_config_and_model_card(captioner, tmp_path):
    folder = save(captioner, tmp_path / "best", scores={"Bleu_4": 0.25})
    assert native.scores(folder) == {"Bleu_4": 0.25}
    card = (folder / "README.md").read_text()
    assert "| Bleu_4 | 0.2500 |" in card
    assert "# Show, Attend and Tell with efficientnet_lite0" in card
    assert native.scores(save(captioner, tmp_path / "best")) == {}  # and are replaced


def test_save_existing_folder_is_replaced_as_a_whole(captioner, folder):
    other = tiny.captioner(seed=5)
    save(captioner, folder, trainer=TRAINER)
    save(other, folder)
    assert same(folder, other)
    assert sorted(path.name for path in folder.iterdir()) == PARTS
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


@pytest.mark.parametrize("links", [True, False])
def test_save_other_files_in_the_folder_are_kept(captioner, folder, monkeypatch, links):
    """Results of an evaluation, notes, a .git; where the file system has no hard links too."""
    if not links:
        monkeypatch.setattr(os, "link", Mock(side_effect=PermissionError))
    (folder / ".git" / "refs").mkdir(parents=True)
    others = {folder / ".git" / "refs" / "head": "a", folder / "captions_results.json": "[]"}
    for path, text in others.items():
        path.write_text(text)
    (folder / "sat.json").write_text("{}")  # of a checkpoint of the other family
    other = tiny.captioner(seed=5)
    save(other, folder)
    assert same(folder, other)
    assert {path: path.read_text() for path in others} == others
    assert not (folder / "sat.json").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_save_to_a_link_replaces_the_folder_that_it_leads_to(captioner, folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    for seed in (5, 6):
        other = tiny.captioner(seed=seed)
        save(other, link)
        assert link.is_symlink()
        assert same(folder, other)
    folder.rename(folder.with_name(".best.old"))  # as a stop between the renames leaves it
    assert same(link, other)


@pytest.mark.parametrize("name", [".", "..", "../best"])
def test_save_to_the_current_folder_raises_value_error(captioner, folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"^the folder is .*, in which this command runs: name"):
        save(captioner, name)
    assert same(folder, captioner)


@pytest.mark.parametrize(
    ("module", "failing"),
    [(show_attend_tell, "save_file"), (native, "model_card"), (native, "replace_folder")],
)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_save_that_fails_leaves_only_the_old_checkpoint(
    captioner, folder, monkeypatch, module, failing, error
):
    def fail(*args):
        raise error

    monkeypatch.setattr(module, failing, fail)
    with pytest.raises(type(error)):
        save(tiny.captioner(seed=5), folder)
    with pytest.raises(type(error)):
        save(captioner, folder.with_name("last"))
    assert same(folder, captioner)
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_save_stopped_at_any_time_leaves_one_whole_checkpoint(captioner, folder, monkeypatch):
    """The machine may stop after any call that changes the disk."""
    other, found = tiny.captioner(seed=5), []

    def watch(module, name):
        real = getattr(module, name)

        def call(*args, **kwargs):
            assert native.exists(folder)
            found.append(same(folder, other))
            assert found[-1] or same(folder, captioner)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    watch(Path, "rename")
    watch(shutil, "rmtree")
    watch(os, "fsync")
    save(other, folder)
    assert found == sorted(found)  # first the old one, then the new one
    assert {False, True} == set(found)


def test_load_after_stop_between_renames_finds_previous_checkpoint(captioner, folder):
    previous = folder.with_name(".best.old")
    folder.rename(previous)
    assert native.exists(folder)
    assert same(folder, captioner)
    other = tiny.captioner(seed=5)
    save(other, folder)
    assert same(folder, other)
    assert not previous.exists()
    shutil.copytree(folder, previous)  # a stop before the old one was removed
    save(captioner, folder)
    assert same(folder, captioner)
    assert not previous.exists()


def edit(change):
    """A change to config.json."""

    def apply(folder: Path) -> None:
        header = json.loads((folder / "config.json").read_text())
        change(header)
        (folder / "config.json").write_text(json.dumps(header))

    return apply


def text(words: str):
    return lambda folder: (folder / "config.json").write_text(words)


def one_word_more(folder: Path) -> None:
    word_map = json.loads((folder / "word_map.json").read_text())
    (folder / "word_map.json").write_text(json.dumps(word_map | {"new": len(word_map)}))


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["decoder.init_h.bias"]
    save_file(weights, folder / "model.safetensors")


NO_FOLDER = (
    "{folder} is not a checkpoint folder (no config.json and model.safetensors in it): give "
)
NO_CONFIG = "{folder}/config.json cannot be read ("
NO_FIT = "{folder}/model.safetensors is of another architecture than {folder}/config.json says: "
NO_FAMILY = "{folder} holds a captioner of family %s: this version reads show_attend_tell, vit_gpt2"
WRONG = [
    (shutil.rmtree, FileNotFoundError, NO_FOLDER),
    (lambda f: (f / "config.json").unlink(), FileNotFoundError, NO_FOLDER),
    (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, NO_FOLDER),
    (lambda f: (f / "word_map.json").unlink(), FileNotFoundError, "{folder}/word_map.json does no"),
    (text("{"), ValueError, NO_CONFIG),
    (text("[1]"), ValueError, NO_CONFIG),
    (text('{"family": "show_attend_tell"}'), ValueError, NO_CONFIG),
    (text('{"model_type": "vit"}'), ValueError, NO_FAMILY % None),
    (edit(lambda header: header.update(family="vit_gpt2")), ValueError, NO_FAMILY % "'vit_gpt2'"),
    (
        edit(lambda header: header["model"]["decoder"].update(dims=3)),
        ValueError,
        NO_CONFIG + "unknown key 'dims' in DecoderConfig: the nearest",
    ),
    (edit(lambda header: header["model"]["decoder"].update(decoder_dim=9)), ValueError, NO_FIT),
    (edit(lambda header: header["model"]["encoder"].update(blocks=3)), ValueError, NO_FIT),
    (without_a_weight, ValueError, NO_FIT),
    (
        one_word_more,
        ValueError,
        "{folder}: word map has 19 words, checkpoint expects 18: pass the word map it was",
    ),
    (cut, ValueError, "{folder}/model.safetensors cannot be read ("),
]


@pytest.mark.parametrize(("damage", "error", "sentence"), WRONG)
def test_load_damaged_folder_raises_with_reason(folder, damage, error, sentence):
    damage(folder)
    with pytest.raises(error) as caught:
        sat.load(folder)
    assert str(caught.value).startswith(sentence.format(folder=folder))
