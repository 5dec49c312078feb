"""Training steps that torch.compile made: the same steps."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import tiny
import tiny_vit
import torch
from test_cross_entropy import batch_for

import sat
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch
from sat.ops import unrolled_lstm
from sat.training.objectives.cross_entropy import CrossEntropyObjective
from sat.training.optim import build_optimizer, optimizer_step
from sat.training.step_metrics import read_metrics
from sat.training.trainer import fit

pytestmark = pytest.mark.slow

BACKENDS = [
    "eager",  # what torch captures, run as it is: in seconds
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.stress,  # a minute of the C++ compiler
            pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
        ],
    ),
]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    unrolled_lstm.step_functions.cache_clear()
    torch.compiler.reset()
    name: str = request.param
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=name))
    yield name
    unrolled_lstm.step_functions.cache_clear()


def three_steps(model: Any, batches: list[Batch], *, compiled: bool) -> list[dict[str, float]]:
    stage = StageConfig(learning_rate=1e-3, encoder_learning_rate=1e-3, encoder_from_block=0)
    config = TrainConfig(alpha_c=0.5)
    optimizer = build_optimizer(model, stage, embeddings=True)
    objective = CrossEntropyObjective(model, config, stage)
    if compiled:
        model.compile_training()
    model.train()
    made = []
    for number, batch in enumerate(batches):
        with objective.step(batch, number) as loss:
            made.append(optimizer_step(optimizer, [batch], loss, config))
    return list(read_metrics(made))


def shorter(batch: Batch) -> Batch:
    """The batch without its last caption, which is not of the longest."""
    return batch._replace(
        images=batch.images[:-1], captions=batch.captions[:-1], lengths=batch.lengths[:-1]
    )


@pytest.mark.parametrize("kind", ["show_attend_tell", "vit_gpt2"])
def test_compiled_steps_are_the_plain_ones(kind: str, backend: str) -> None:
    captioner = tiny.captioner()
    batch, model = batch_for(captioner), captioner.model
    if kind == "vit_gpt2":
        if not hasattr(torch.compiler, "is_exporting"):  # torch 2.6
            with pytest.raises(ValueError, match=r"torch is .*: compile of vit_gpt2 needs 2\.7"):
                tiny_vit.model().compile_training()
            return
        images = torch.zeros(4, 3, tiny_vit.SIZE, tiny_vit.SIZE, dtype=torch.uint8)
        batch = batch._replace(images=images, captions=batch.captions % 9)
        model = tiny_vit.model()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    else:
        model.decoder.dropout.p = 0.0
    batches = [batch, shorter(batch), batch]
    start = tiny.weights(model)
    plain = three_steps(model, batches, compiled=False)
    expected = tiny.weights(model)
    model.load_state_dict(start)
    torch._dynamo.utils.counters.clear()
    made = three_steps(model, batches, compiled=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for one, other in zip(plain, made, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    found = tiny.weights(model)
    assert found.keys() == start.keys()
    # Adam makes noise of a gradient that is zero but for rounding, so all together.
    moved, apart = (
        torch.cat([(expected[name] - other[name]).float().flatten() for name in start])
        for other in (start, found)
    )
    assert apart.norm() < 0.1 * moved.norm()


def test_compiled_recurrence_of_enlarged_grid_has_no_graph_breaks(backend: str) -> None:
    if backend != "eager" or not hasattr(torch.compiler, "is_exporting"):
        pytest.skip("the same, or torch 2.6, which breaks elsewhere too")
    captioner = tiny.captioner()
    batch, model = batch_for(captioner), captioner.model
    model.decoder.attention.encoded_image_size = 20  # more regions than cells
    torch._dynamo.utils.counters.clear()
    three_steps(model, [batch, shorter(batch), batch], compiled=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]


def test_compiled_run_is_resumed_without_and_loads(tmp_path, backend: str) -> None:
    if backend != "eager":
        pytest.skip("the same")
    data = tiny.prepare(tmp_path / "data", known=2)
    config = tiny.config(data, tmp_path / "run", compile=True, stage1={"epochs": 1, "ema": 0.9})
    fit(config)
    more = dataclasses.replace(config.stage1, epochs=2)
    best = fit(dataclasses.replace(config, compile=False, resume=True, stage1=more))
    assert len(tiny.log(tmp_path / "run")) == 2
    sat.load(best)
