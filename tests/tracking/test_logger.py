"""What a run shows: read back from TensorBoard's files and held against the run itself."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

import sat
from sat.checkpoints import native
from sat.config.decoding import DecodingConfig
from sat.data.dataset import CaptionDataset
from sat.tracking import logger
from sat.tracking.backends import TRACKERS, tracker_kind
from sat.tracking.logger import BINS, RunLogger, histogram
from sat.tracking.sample_grid import sample_grid
from sat.training import trainer
from sat.training.trainer import fit

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

EVERYTHING = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
HOW = {"log": "tensorboard", "log_every": 2, "decoder": {"dropout": 0.5}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of two epochs of three steps, and what each step left: losses, values."""
    folder, steps, learn = tmp_path_factory.mktemp("run"), [], trainer.training_step

    def watched(stage: Any, *args: Any) -> dict[str, float]:
        losses = learn(stage, *args)
        named = list(stage.objective.model.named_parameters())
        left = {f"weights/{name}": weight.detach().clone() for name, weight in named}
        left |= {
            f"gradients/{name}": weight.grad.clone()
            for name, weight in named
            if weight.grad is not None
        }
        steps.append({"losses": losses, "left": left})
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "training_step", watched)
        fit(tiny.config(data, folder, **HOW))
    return folder, steps


def read(folder: Path) -> Any:
    found = accumulator.EventAccumulator(str(folder / "events"), size_guidance=EVERYTHING)
    return found.Reload()


def curve(found: Any, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(name)]


def rounded(value: float) -> float:
    """As TensorBoard keeps it."""
    return float(np.float32(value))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All but what a clock measured."""
    found = read(folder)
    names = [name for name in found.Tags()["scalars"] if "second" not in name]
    return {name: curve(found, name) for name in names if "waiting" not in name}


def tables(folder: Path) -> list[tuple[int, str]]:
    return [
        (event.step, event.tensor_proto.string_val[0].decode())
        for event in read(folder).Tensors("samples/text_summary")
    ]


def test_curves_are_the_losses_of_every_other_step_and_the_lines_of_the_log(run):
    folder, steps = run
    found = curves(folder)
    for name in ("cross_entropy", "penalty"):
        expected = [(step, rounded(steps[step - 1]["losses"][name])) for step in (2, 4, 6)]
        assert found[f"step/{name}"] == expected
    assert found["step/learning_rate"] == [(step, rounded(0.01)) for step in (2, 4, 6)]
    lines = tiny.log(folder)
    for name in set(lines[0]) - {"best"}:
        expected = [(3, rounded(lines[0][name])), (6, rounded(lines[1][name]))]
        assert found[f"epoch/{name}"] == expected, name


def test_histograms_are_of_all_that_learns_and_its_gradients(run):
    folder, steps = run
    found = read(folder)
    learning = {name for name in steps[0]["left"] if name.split("/")[1].startswith("decoder.")}
    assert set(found.Tags()["histograms"]) == learning
    assert len(learning) > 20
    for name in learning:
        events = found.Histograms(name)
        assert [event.step for event in events] == [2, 4, 6]
        for event in events:
            values = steps[event.step - 1]["left"][name].flatten().double().numpy()
            bars = event.histogram_value
            assert bars.num == len(values)
            assert bars.sum == pytest.approx(values.sum(), rel=1e-4, abs=1e-5)
            assert bars.sum_squares == pytest.approx((values**2).sum(), rel=1e-4)
            if np.ptp(values):
                assert (bars.min, bars.max) == pytest.approx((values.min(), values.max()))


def test_samples_are_the_same_photos_with_what_the_model_said_then(data, run):
    folder, _ = run
    (first, before), (second, table) = tables(folder)
    assert (first, second) == (3, 6)
    order = [(i - 5) % 12 for i in range(12)]  # as `tiny.prepare` turns the validation split
    chosen = [order[i] for i in (0, 1, 3, 4, 6, 7, 9, 10)]
    captioner = sat.load(folder / "last")
    photos = [data / f"{i}.png" for i in chosen]
    said = captioner.caption_all(photos, DecodingConfig(beam_size=1, max_length=8))
    rows = [
        f"| {number} | {200 + i} | {result.text} | {tiny.CAPTIONS[i]}<br>{tiny.OTHERS[i]} |"
        for number, (i, result) in enumerate(zip(chosen, said), 1)
    ]
    heading = ["| photo | image_id | generated | written |", "| --- | --- | --- | --- |"]
    assert table.splitlines() == heading + rows
    photo, image_id, _, written = zip(*(row.split("|")[1:5] for row in before.splitlines()))
    assert list(zip(photo, image_id, written)) == [
        tuple(row.split("|")[i] for i in (1, 2, 4)) for row in heading + rows
    ]
    pictures = read(folder).Images("samples")
    assert [(picture.step, picture.width) for picture in pictures] == [(3, 1040), (6, 1040)]


class Remembering:
    """A board that keeps the samples it was given, and the names of histograms."""

    def __init__(self, *_: Any) -> None:
        self.examples: list[Any] = []
        self.names: set[str] = set()

    def histograms(self, step: int, values: dict[str, Any]) -> None:
        self.names |= set(values)

    def samples(self, step: int, examples: list[Any]) -> None:
        self.examples.append(examples)

    def scalars(self, *_: Any) -> None: ...


def test_photos_are_those_of_the_captions(data, tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "tensorboard", Remembering)
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    config = tiny.config(data, tmp_path, log="tensorboard")
    journal = RunLogger(config, tmp_path, val, tiny.captioner().vocabulary)
    for turn in range(2):
        results = [{"image_id": 90 + i, "caption": f"{turn} {i}"} for i in range(12)]
        journal.after_epoch(turn, {}, results)
    one, other = journal.board.examples
    for i, example, again in zip((0, 1, 3, 4, 6, 7, 9, 10), one, other):
        pixels = val[2 * i].image.numpy().transpose(1, 2, 0)
        assert np.array_equal(example.photo, pixels)
        assert np.array_equal(again.photo, pixels)
        assert (example.hypothesis, again.hypothesis) == (f"0 {i}", f"1 {i}")
        assert example.image_id == 90 + i


def test_a_weight_that_no_longer_learns_is_not_shown(data, tmp_path, monkeypatch):
    """As the encoder's after stage 2: an old gradient still hangs on it."""
    monkeypatch.setitem(TRACKERS, "tensorboard", Remembering)
    config = tiny.config(data, tmp_path, log="tensorboard", log_every=5)
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    journal = RunLogger(config, tmp_path, val, tiny.captioner().vocabulary)
    model = torch.nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    model.weight.requires_grad_(False)
    journal.after_step(9, model, {})
    assert not journal.board.names
    journal.after_step(10, model, {})
    assert journal.board.names == {"weights/bias", "gradients/bias"}


def test_few_photos_are_all_shown(data, tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "tensorboard", Remembering)
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    config = tiny.config(data, tmp_path, log="tensorboard")
    journal = RunLogger(config, tmp_path, val, tiny.captioner().vocabulary)
    journal.after_epoch(1, {}, [{"image_id": i, "caption": ""} for i in range(3)])
    assert [example.image_id for example in journal.board.examples[0]] == [0, 1, 2]


def test_a_sheet_shows_each_photo_in_its_place():
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    photos = [np.full((16, 16, 3), colour, np.uint8) for colour in colours]
    drawn = sample_grid([(photo, "said $_{", "written " * 9) for photo in photos])
    assert drawn.shape == (660, 1040, 3)
    places = [(165, 130), (165, 390), (165, 650), (165, 910), (495, 130)]
    assert [tuple(drawn[place]) for place in places] == colours
    assert tuple(drawn[495, 390]) == (255, 255, 255)
    written = (drawn < 200).all(axis=2)
    assert written[:30, :260].any()  # above
    assert not np.array_equal(drawn, sample_grid([(photo, "other", "written") for photo in photos]))


def test_a_resumed_run_goes_on_with_the_same_curves(data, tmp_path):
    how = HOW | {"log_every": 1}
    fit(tiny.config(data, tmp_path / "whole", **how))
    config, calls, learn = tiny.config(data, tmp_path / "run", **how), [], trainer.training_step

    def deadly(*args: Any, **kwargs: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 6:
            raise SystemExit  # two steps after the last save
        return learn(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "training_step", deadly)
        with pytest.raises(SystemExit):
            fit(config)
    assert [step for step, _ in curve(read(tmp_path / "run"), "step/penalty")] == [1, 2, 3, 4, 5]
    fit(dataclasses.replace(config, resume=True))
    whole = curves(tmp_path / "whole")
    assert curves(tmp_path / "run") == whole
    assert [step for step, _ in whole["step/penalty"]] == [1, 2, 3, 4, 5, 6]
    assert tables(tmp_path / "run") == tables(tmp_path / "whole")


def test_steps_count_on_over_stages_run_together_or_alone(data, tmp_path):
    stages = {"stage1": {"epochs": 1}, "stage2": {"epochs": 1}}
    fit(tiny.config(data, tmp_path / "one", stages=(1, 2), **HOW, **stages))
    fit(tiny.config(data, tmp_path / "two", **HOW, **stages))
    fit(tiny.config(data, tmp_path / "two", stages=(2,), **HOW, **stages))
    for name in ("one", "two"):
        found = read(tmp_path / name)
        assert curve(found, "epoch/stage") == [(3, 1.0), (6, 2.0)]
        assert [step for step, _ in curve(found, "step/penalty")] == [2, 4, 6]
        encoder = [tag for tag in found.Tags()["histograms"] if "/encoder." in tag]
        assert {event.step for tag in encoder for event in found.Histograms(tag)} == {4, 6}


def test_showing_changes_nothing_and_none_writes_nothing(data, run, tmp_path):
    fit(tiny.config(data, tmp_path, **HOW | {"log": "none"}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "log.jsonl"]
    assert tiny.log(tmp_path) == tiny.log(run[0])
    for name in ("best", "last"):
        one, other = (native.load(folder / name)[0] for folder in (tmp_path, run[0]))
        assert tiny.equal(tiny.weights(one), tiny.weights(other))


def test_overwriting_a_run_removes_what_it_showed(data, tmp_path):
    how = HOW | {"stage1": {"epochs": 1}}
    fit(tiny.config(data, tmp_path, **how, seed=1))
    fit(tiny.config(data, tmp_path, **how, overwrite=True))
    assert len(list((tmp_path / "events").iterdir())) == 1
    fit(tiny.config(data, tmp_path, **how | {"log": "none"}, overwrite=True))
    assert not (tmp_path / "events").exists()


@pytest.mark.parametrize("parts", [3, 2**23])
def test_histograms_by_numpy(monkeypatch, parts):
    monkeypatch.setattr(logger, "PART", parts)
    random = np.random.default_rng(0)
    values = random.integers(-40, 24, 500) + 0.5  # in the middle of bins 1 wide
    values[:2] = -40, 24
    found = histogram("w", torch.tensor(values, dtype=torch.float32).view(5, 100))
    counts, edges = np.histogram(values, bins=BINS)
    assert found.counts.tolist() == counts.tolist()
    assert found.edges.tolist() == edges.tolist()
    assert (found.total, found.squares) == (values.sum(), (values**2).sum())


@pytest.mark.parametrize("value", [0.0, -3.0, 1e9])
def test_a_constant_stands_in_the_middle(value):
    found = histogram("w", torch.full((7,), value))
    assert found.counts.sum() == 7
    assert found.counts[[31, 32]].sum() == 7
    assert found.edges[0] < value < found.edges[-1]


def test_more_values_in_a_bin_than_float32_can_count():
    values = torch.zeros(2**24 + 10)
    values[0] = 1
    found = histogram("w", values)
    assert (found.counts[0], found.counts[-1]) == (2**24 + 9, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_named(bad):
    with pytest.raises(FloatingPointError, match=f"^decoder.fc.bias holds {bad}$"):
        histogram("decoder.fc.bias", torch.tensor([0.0, bad, 1.0]))


def test_captions_cannot_break_out_of_the_table(data, run, tmp_path, monkeypatch):
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    config = tiny.config(data, tmp_path, log="tensorboard")
    monkeypatch.setattr(val, "references", lambda _: [{"captions": ["one\ntwo"]}] * 12)
    with RunLogger(config, tmp_path, val, tiny.captioner().vocabulary) as journal:
        journal.after_epoch(1, {}, [{"image_id": 5, "caption": "a <unk> | b"}] * 12)
    ((_, table),) = tables(tmp_path)
    assert table.splitlines()[2] == "| 1 | 5 | a &lt;unk&gt; &#124; b | one two |"


def test_without_the_packages(data, tmp_path, monkeypatch):
    fit(tiny.config(data, tmp_path, stage1={"epochs": 1}))
    before = json.dumps(tiny.log(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert tracker_kind("auto") == tracker_kind("none") == "none"
    for choice in ("tensorboard", "wandb"):
        with pytest.raises(ModuleNotFoundError) as caught:
            fit(tiny.config(data, tmp_path, log=choice, overwrite=True))
        assert str(caught.value) == (
            f"log is {choice!r}, which is not installed: pip install 'sat-captioning[log]', or "
            "choose none"
        )
    assert json.dumps(tiny.log(tmp_path)) == before
    monkeypatch.undo()
    assert tracker_kind("auto") == "tensorboard"


def test_a_folder_of_its_name_is_no_package(tmp_path, monkeypatch):
    """Where wandb has run, a folder wandb/ stays, and Python would import it."""
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRACKERS, "left_behind", Remembering)
    with pytest.raises(ModuleNotFoundError, match="log is 'left_behind', which is not installed"):
        tracker_kind("left_behind")


def test_training_imports_neither_unless_it_is_used():
    code = (
        "import sys, sat.training, sat.cli; "
        "print([name for name in ('tensorboard', 'wandb') if name in sys.modules])"
    )
    root = Path(sat.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
