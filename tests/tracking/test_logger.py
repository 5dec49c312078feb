"""Curves, histograms and samples read back from TensorBoard's files, compared with the run."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import sat
from sat.checkpoints import native
from sat.config.decoding import DecodingConfig
from sat.data.dataset import CaptionDataset
from sat.tracking.backends import TRACKERS, tracker_kind
from sat.tracking.logger import RunLogger
from sat.tracking.sample_grid import Sample, rasterize, sample_grid
from sat.training import trainer
from sat.training.trainer import fit
from sat.visualize import visualize_att

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

EVERYTHING = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
HOW = {"tracker": "tensorboard", "log_every": 2, "decoder": {"dropout": 0.5}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of a run of two epochs of three steps; losses, weights and gradients of each."""
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


def read(folder: Path, events: str = "events") -> Any:
    found = accumulator.EventAccumulator(str(folder / events), size_guidance=EVERYTHING)
    return found.Reload()


def curve(found: Any, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(name)]


def rounded(value: float) -> float:
    """The value in the precision of TensorBoard."""
    return float(np.float32(value))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All curves but those of measured times."""
    found = read(folder)
    names = [name for name in found.Tags()["scalars"] if "second" not in name]
    return {name: curve(found, name) for name in names if "waiting" not in name}


def tables(folder: Path) -> list[tuple[int, str]]:
    return [
        (event.step, event.tensor_proto.string_val[0].decode())
        for event in read(folder).Tensors("samples/text_summary")
    ]


def test_tensorboard_curves_equal_step_losses_and_log_lines(run):
    folder, steps = run
    found = curves(folder)
    for name in ("cross_entropy", "penalty"):
        expected = [(step, rounded(steps[step - 1]["losses"][name])) for step in (1, 2, 4, 6)]
        assert found[f"step/{name}"] == expected
    assert found["step/learning_rate"] == [(step, rounded(0.01)) for step in (1, 2, 4, 6)]
    lines = tiny.log(folder)
    assert "epoch/epoch" not in found
    for name in set(lines[0]) - {"best", "epoch", "val_cross_entropy"}:
        expected = [(3, rounded(lines[0][name])), (6, rounded(lines[1][name]))]
        assert found[f"epoch/{name}"] == expected, name
    expected = [(3 * i, rounded(line["val_cross_entropy"])) for i, line in enumerate(lines, 1)]
    assert curve(read(folder, "events/validation"), "epoch/cross_entropy") == expected


def test_tensorboard_shows_the_config_as_text_and_the_attention_of_two_samples(data, run):
    folder, _ = run
    (text,) = read(folder).Tensors("config/text_summary")
    written = text.tensor_proto.string_val[0].decode().removeprefix("```json").removesuffix("```")
    assert json.loads(written)["stage1"]["learning_rate"] == 0.01
    captioner = sat.load(folder / "last")
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    photos = [Image.fromarray(val.image(i).permute(1, 2, 0).numpy()) for i in (0, 1)]
    # both in one batch, as the run has them: the same arithmetic, to the last bit
    results = captioner.caption_all(photos, DecodingConfig(beam_size=1, max_length=8))
    for number, result in enumerate(results, 1):
        before, after = read(folder).Images(f"attention/{number}")
        assert (before.step, after.step) == (3, 6)
        shown = np.asarray(Image.open(io.BytesIO(after.encoded_image_string)))
        assert np.array_equal(shown, rasterize(visualize_att(result)))


def test_tensorboard_histograms_cover_trained_weights_and_gradients(run):
    folder, steps = run
    found = read(folder)
    learning = {name for name in steps[0]["left"] if name.split("/")[1].startswith("decoder.")}
    assert set(found.Tags()["histograms"]) == learning
    assert len(learning) > 20
    for name in learning:
        events = found.Histograms(name)
        assert [event.step for event in events] == [1, 2, 4, 6]
        for event in events:
            values = steps[event.step - 1]["left"][name].flatten().double().numpy()
            bars = event.histogram_value
            assert bars.num == len(values)
            assert bars.sum == pytest.approx(values.sum(), rel=1e-4, abs=1e-5)
            assert bars.sum_squares == pytest.approx((values**2).sum(), rel=1e-4)
            if np.ptp(values):
                assert (bars.min, bars.max) == pytest.approx((values.min(), values.max()))


def test_tensorboard_samples_show_same_images_with_current_captions(data, run):
    folder, _ = run
    (first, before), (second, table) = tables(folder)
    assert (first, second) == (3, 6)
    order = [(i - 5) % 12 for i in range(12)]  # as `tiny.prepare` turns the validation split
    captioner = sat.load(folder / "last")
    # all in one batch, as in validation: the same arithmetic, to the last bit
    paths = [data / f"{i}.png" for i in order]
    captions = captioner.caption_all(paths, DecodingConfig(beam_size=1, max_length=8))
    rows = []
    for number, place in enumerate((0, 1, 3, 4, 6, 7, 9, 10), 1):
        i, text = order[place], captions[place].text
        rows.append(f"| {number} | {200 + i} | {text} | {tiny.CAPTIONS[i]}<br>{tiny.OTHERS[i]} |")
    heading = ["| image | image_id | hypothesis | references |", "| --- | --- | --- | --- |"]
    assert table.splitlines() == heading + rows
    number, image_id, _, references = zip(*(row.split("|")[1:5] for row in before.splitlines()))
    assert list(zip(number, image_id, references)) == [
        tuple(row.split("|")[i] for i in (1, 2, 4)) for row in heading + rows
    ]
    images = read(folder).Images("samples")
    assert [(image.step, image.width) for image in images] == [(3, 1040), (6, 1040)]


class RecordingTracker:
    """A tracker that records samples and the names of histograms."""

    def __init__(self, *_: Any) -> None:
        self.recorded: list[Any] = []
        self.names: set[str] = set()

    def histograms(self, step: int, values: dict[str, Any]) -> None:
        self.names |= set(values)

    def samples(self, step: int, samples: list[Any]) -> None:
        self.recorded.append(samples)

    def scalars(self, *_: Any) -> None: ...
    def figures(self, *_: Any) -> None: ...


def test_run_logger_after_epoch_pairs_images_with_their_captions(data, tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "tensorboard", RecordingTracker)
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    config = tiny.config(data, tmp_path, tracker="tensorboard")
    run_logger = RunLogger(config, tmp_path, val, tiny.captioner().vocabulary)
    for turn in range(2):
        results = [{"image_id": 90 + i, "caption": f"{turn} {i}"} for i in range(12)]
        run_logger.after_epoch(turn, {}, results)
    one, other = run_logger.tracker.recorded
    for i, sample, again in zip((0, 1, 3, 4, 6, 7, 9, 10), one, other):
        pixels = val[2 * i].image.numpy().transpose(1, 2, 0)
        assert np.array_equal(sample.image, pixels)
        assert np.array_equal(again.image, pixels)
        assert (sample.hypothesis, again.hypothesis) == (f"0 {i}", f"1 {i}")
        assert sample.image_id == 90 + i


def test_run_logger_frozen_weight_with_old_gradient_is_not_shown(data, tmp_path, monkeypatch):
    """As an encoder that was fine-tuned before: its last gradient is still stored."""
    monkeypatch.setitem(TRACKERS, "tensorboard", RecordingTracker)
    config = tiny.config(data, tmp_path, tracker="tensorboard", log_every=5)
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    run_logger = RunLogger(config, tmp_path, val, tiny.captioner().vocabulary)
    model = torch.nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    model.weight.requires_grad_(False)
    run_logger.after_step(9, model, {})
    assert not run_logger.tracker.names
    run_logger.after_step(10, model, {})
    assert run_logger.tracker.names == {"weights/bias", "gradients/bias"}


def test_run_logger_few_images_shows_all(data, tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "tensorboard", RecordingTracker)
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    config = tiny.config(data, tmp_path, tracker="tensorboard")
    run_logger = RunLogger(config, tmp_path, val, tiny.captioner().vocabulary)
    run_logger.after_epoch(1, {}, [{"image_id": i, "caption": ""} for i in range(3)])
    assert [sample.image_id for sample in run_logger.tracker.recorded[0]] == [0, 1, 2]


def test_sample_grid_five_images_are_drawn_in_reading_order():
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    samples = [
        Sample(i, np.full((16, 16, 3), color, np.uint8), "caption $_{", ["reference " * 9])
        for i, color in enumerate(colors)
    ]
    drawn = sample_grid(samples)
    assert drawn.shape == (660, 1040, 3)
    places = [(165, 130), (165, 390), (165, 650), (165, 910), (495, 130)]
    assert [tuple(drawn[place]) for place in places] == colors
    assert tuple(drawn[495, 390]) == (255, 255, 255)
    dark = (drawn < 200).all(axis=2)
    assert dark[:30, :260].any()  # the caption above the first image
    others = [sample._replace(hypothesis="other") for sample in samples]
    assert not np.array_equal(drawn, sample_grid(others))


def test_sample_grid_letters_that_the_font_lacks_are_drawn_without_a_warning():
    sample = Sample(0, np.zeros((16, 16, 3), np.uint8), "一只狗", ["一隻貓"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample_grid([sample])


def test_run_logger_resumed_run_continues_the_same_curves(data, tmp_path):
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


def test_run_logger_second_stage_continues_step_count(data, tmp_path):
    stages = {"stage1": {"epochs": 1}, "stage2": {"epochs": 1}}
    fit(tiny.config(data, tmp_path / "one", stages=(1, 2), **HOW, **stages))
    fit(tiny.config(data, tmp_path / "two", **HOW, **stages))
    fit(tiny.config(data, tmp_path / "two", stages=(2,), **HOW, **stages))
    for name in ("one", "two"):
        found = read(tmp_path / name)
        assert curve(found, "epoch/stage") == [(3, 1.0), (6, 2.0)]
        assert [step for step, _ in curve(found, "step/penalty")] == [1, 2, 4, 6]
        encoder = [tag for tag in found.Tags()["histograms"] if "/encoder." in tag]
        assert {event.step for tag in encoder for event in found.Histograms(tag)} == {4, 6}


def test_tensorboard_files_of_two_runs_are_of_different_seconds(data, tmp_path):
    """Their order within a second would be that of "9" and "10"."""
    for step in range(3):
        TRACKERS["tensorboard"](tiny.config(data, tmp_path), tmp_path, step).close(failed=False)
    seconds = [path.name.split(".")[3] for path in (tmp_path / "events").glob("events.*")]
    assert len(set(seconds)) == len(seconds) == 3


def test_run_logger_log_none_trains_the_same_and_writes_nothing(data, run, tmp_path):
    fit(tiny.config(data, tmp_path, **HOW | {"tracker": "none"}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "last", "log.jsonl"]
    assert tiny.log(tmp_path) == tiny.log(run[0])
    for name in ("best", "last"):
        one, other = (native.load(folder / name)[0] for folder in (tmp_path, run[0]))
        assert tiny.equal(tiny.weights(one), tiny.weights(other))


def test_run_logger_overwritten_run_removes_old_events(data, tmp_path):
    how = HOW | {"stage1": {"epochs": 1}}
    fit(tiny.config(data, tmp_path, **how, seed=1))
    fit(tiny.config(data, tmp_path, **how, overwrite=True))
    assert len(list((tmp_path / "events").rglob("*tfevents*"))) == 2
    fit(tiny.config(data, tmp_path, **how | {"tracker": "none"}, overwrite=True))
    assert not (tmp_path / "events").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_run_logger_gradient_that_is_not_finite_has_no_histogram(data, tmp_path, monkeypatch, bad):
    """As a step in float16 whose gradient overflows, while its scale is found."""
    monkeypatch.setitem(TRACKERS, "tensorboard", RecordingTracker)
    config = tiny.config(data, tmp_path, tracker="tensorboard", log_every=1)
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    run_logger = RunLogger(config, tmp_path, val, tiny.captioner().vocabulary)
    model = torch.nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    model.bias.grad[1] = bad
    run_logger.after_step(1, model, {})
    assert run_logger.tracker.names == {"weights/weight", "gradients/weight", "weights/bias"}


def test_tensorboard_table_special_characters_are_escaped(data, run, tmp_path, monkeypatch):
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    config = tiny.config(data, tmp_path, tracker="tensorboard")
    monkeypatch.setattr(val, "references", lambda _: [{"captions": ["one\ntwo"]}] * 12)
    with RunLogger(config, tmp_path, val, tiny.captioner().vocabulary) as run_logger:
        run_logger.after_epoch(1, {}, [{"image_id": 5, "caption": "a <unk> | b"}] * 12)
    ((_, table),) = tables(tmp_path)
    assert table.splitlines()[2] == "| 1 | 5 | a &lt;unk&gt; &#124; b | one two |"


def test_tracker_kind_without_packages_is_none_or_raises(data, tmp_path, monkeypatch):
    fit(tiny.config(data, tmp_path, stage1={"epochs": 1}))
    before = json.dumps(tiny.log(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert tracker_kind("auto") == tracker_kind("none") == "none"
    for choice in ("tensorboard", "wandb"):
        with pytest.raises(ModuleNotFoundError) as caught:
            fit(tiny.config(data, tmp_path, tracker=choice, overwrite=True))
        assert str(caught.value) == (
            f"tracker is {choice!r}, which is not installed: pip install 'sat-captioning[log]', or "
            "choose none"
        )
    assert json.dumps(tiny.log(tmp_path)) == before
    monkeypatch.undo()
    assert tracker_kind("auto") == "tensorboard"


def test_tracker_kind_folder_of_the_package_name_is_not_installed(tmp_path, monkeypatch):
    """wandb leaves a folder wandb/, which Python would import as a namespace package."""
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRACKERS, "left_behind", RecordingTracker)
    with pytest.raises(
        ModuleNotFoundError, match="tracker is 'left_behind', which is not installed"
    ):
        tracker_kind("left_behind")


def test_training_without_tracker_imports_no_tracker_package():
    code = (
        "import sys, sat.training, sat.cli; "
        "print([name for name in ('tensorboard', 'wandb') if name in sys.modules])"
    )
    root = Path(sat.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_run_logger_before_its_first_point_shows_ten_times_as_many(data, tmp_path, monkeypatch):
    monkeypatch.setitem(TRACKERS, "tensorboard", RecordingTracker)
    config = tiny.config(data, tmp_path, tracker="tensorboard", log_every=50)
    val = CaptionDataset(data, tiny.NAME.format(2), "val")
    run_logger, shown = RunLogger(config, tmp_path, val, tiny.captioner().vocabulary), []
    run_logger.tracker.scalars = lambda step, values: shown.append(step)
    for step in range(1, 201):
        run_logger.after_step(step, torch.nn.Linear(1, 1), {})
    assert shown == [*range(5, 50, 5), 50, 100, 150, 200]
