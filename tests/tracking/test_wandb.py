"""Weights & Biases: calls to a stand-in, and the files of a real offline run."""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny

from sat.tracking.backends import TRACKERS
from sat.training import trainer
from sat.training.trainer import fit

HOW = {"tracker": "wandb", "log_every": 2, "stage1": {"epochs": 1}}
STEP = [f"step/{name}" for name in ("cross_entropy", "gradient_norm", "learning_rate", "penalty")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls to a stand-in for wandb: arguments of `init`, logged values, exit codes."""
    received: list[Any] = []

    def init(**how: Any) -> SimpleNamespace:
        name = how["id"] or f"id{len(received)}"
        (Path(how["dir"]) / "wandb" / f"offline-run-2026010{len(received)}_101010-{name}").mkdir(
            parents=True
        )
        received.append(how | {"id": name, "asked": how["id"]})
        return SimpleNamespace(
            log=lambda values, step: received.append((step, values)),
            finish=lambda exit_code: received.append(exit_code),
        )

    stand_in = SimpleNamespace(
        init=init,
        login=lambda verify: True,
        Histogram=lambda values, num_bins: np.histogram(values, num_bins),
        Image=lambda image, caption=None: (image, caption),
        Error=RuntimeError,
        Table=lambda columns, data: [dict(zip(columns, row)) for row in data],
    )
    monkeypatch.setattr("sat.tracking.backends.is_installed", lambda package: True)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    return received


def test_wandb_run_receives_config_curves_histograms_and_samples(data, tmp_path, calls):
    fit(tiny.config(data, tmp_path / "first", **HOW))
    begun, (first, _), (again, _), (step, scalars), (second, bars), *later = calls
    (third, line), (last, shown), drawn, ended = later
    assert (first, again) == (1, 1)
    assert (drawn[0], len(drawn[1]["attention"])) == (3, 2)
    assert (begun["project"], begun["name"], begun["asked"]) == ("sat", "first", None)
    assert begun["config"]["stage1"]["learning_rate"] == 0.01
    assert (step, second, third, last, ended) == (2, 2, 3, 3, 0)
    assert sorted(scalars) == STEP
    counts, edges = bars["weights/decoder.fc.bias"]
    assert (counts.sum(), len(edges)) == (18, 65)
    (logged,) = tiny.log(tmp_path / "first")
    expected = {name: logged[name] for name in logged if name not in ("best", "epoch")}
    assert {name: line[f"epoch/{name}"] for name in expected} == expected
    assert [row["image_id"] for row in shown["samples"]][:3] == ["207", "208", "210"]
    assert shown["samples"][0]["references"] == "a green fish swims\nthe small green fish swims"
    for row, (image, caption) in zip(shown["samples"], shown["images"]):
        assert row["hypothesis"] == caption
        assert np.array_equal(row["image"][0], image)


def test_wandb_resumed_run_keeps_its_id(data, tmp_path, calls):
    config = tiny.config(data, tmp_path, **HOW)
    fit(config)
    fit(dataclasses.replace(config, resume=True))
    fit(dataclasses.replace(config, overwrite=True))
    first, resumed, other = (received for received in calls if isinstance(received, dict))
    assert (first["asked"], resumed["asked"], other["asked"]) == (None, first["id"], None)
    assert resumed["resume"] == "allow"


def refuse(**_: Any) -> None:
    raise RuntimeError("No API key configured.")


@pytest.mark.parametrize("function", ["login", "init"])
def test_wandb_without_a_key_is_told_in_one_line(data, tmp_path, calls, monkeypatch, function):
    monkeypatch.setattr(sys.modules["wandb"], function, refuse)
    with pytest.raises(ValueError) as caught:
        fit(tiny.config(data, tmp_path, **HOW))
    assert str(caught.value) == (
        "tracker is 'wandb', which does not start (No API key configured.): run `wandb login`, set "
        "WANDB_MODE=offline, or choose another --tracker"
    )


def test_wandb_without_a_key_leaves_the_run_that_would_be_overwritten(
    data, tmp_path, calls, monkeypatch
):
    fit(tiny.config(data, tmp_path, **HOW))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr(sys.modules["wandb"], "login", refuse)
    with pytest.raises(ValueError, match="does not start"):
        fit(tiny.config(data, tmp_path, overwrite=True, **HOW))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_wandb_failed_run_ends_with_exit_code_one(data, tmp_path, calls, monkeypatch):
    def no_number(*_: Any, **__: Any) -> None:
        raise FloatingPointError("the loss is nan")

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "training_step", no_number)
        with pytest.raises(FloatingPointError):
            fit(tiny.config(data, tmp_path, **HOW))
    assert calls[-1] == 1
    fit(tiny.config(data, tmp_path, overwrite=True, **HOW))  # another run, from step 1
    assert (
        next(received for received in reversed(calls) if isinstance(received, dict))["asked"]
        is None
    )


def records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after a header of seven bytes."""
    block, content, place, whole = 32768, path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb_offline_run_stores_curves_histograms_and_samples(data, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    fit(tiny.config(data, run, **HOW))
    wandb.teardown()  # its other process has then written everything
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    found: dict[int, dict[str, Any]] = {}
    for content in records(path):
        record = Record.FromString(content)
        values = {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        if values:
            found[values["_step"]] = values
    assert sorted(found) == [1, 2, 3]
    assert set(STEP) <= set(found[2])
    bars = {key: found[2][f"gradients/decoder.fc.bias/{key}"] for key in ("_type", "values")}
    assert (bars["_type"], sum(bars["values"])) == ("histogram", 18)
    (line,) = tiny.log(run)
    assert found[3]["epoch/Bleu_4"] == line["Bleu_4"]
    assert found[3]["epoch/val_cross_entropy"] == pytest.approx(line["val_cross_entropy"])
    (table,) = run.glob("wandb/offline-run-*/files/media/table/samples_3_*.table.json")
    rows = json.loads(table.read_text("utf-8"))["data"]
    assert [row[0] for row in rows][:3] == ["207", "208", "210"]
    assert len(list(run.glob("wandb/offline-run-*/files/media/images/images_3_*.png"))) == 8


def test_trackers_registry_holds_every_choice():
    assert set(TRACKERS) == {"tensorboard", "wandb"}
