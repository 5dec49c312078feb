"""One step down a loss: parts against the whole, clipping, RMSProp by hand, and float16's scale."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from steps import learn
from test_cross_entropy import batch_for, by_hand, captioner, step
from torch import Tensor
from torch.amp import GradScaler
from torch.optim.swa_utils import AveragedModel

from sat import device
from sat.captioner import Captioner
from sat.checkpoints import native
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch, microbatches
from sat.device import autocast, grad_scaler
from sat.training import trainer as trainer_module
from sat.training.optim import OPTIMIZERS, build_ema, build_optimizer, optimizer_step
from sat.training.step_metrics import read_metrics
from sat.training.trainer import Trainer, fit

__all__ = ["captioner"]  # the fixture
RATE = 0.01
WHOLE = TrainConfig(grad_clip=0.0)


def long_batch(captioner: Captioner, together: int = 1) -> Batch:
    """32 captions of 2 to 8 words each, so many of each picture."""
    random = np.random.default_rng(3)
    lengths = torch.from_numpy(random.integers(4, 11, 32))
    captions = torch.from_numpy(random.integers(1, 9, (32, int(lengths.max()))))
    captions[:, 0] = captioner.vocabulary.start_id
    for line, length in zip(captions, lengths.tolist()):
        line[length - 1], line[length:] = captioner.vocabulary.end_id, 0
    images = torch.from_numpy(random.integers(0, 256, (32 // together, 3, 32, 32), np.uint8))
    every = torch.arange(32 // together)
    return Batch(images, captions, lengths, every, every % 2)


def gradients(captioner: Captioner) -> dict[str, Tensor]:
    found = captioner.model.decoder.named_parameters()
    return {name: weight.grad.clone() for name, weight in found}


@pytest.mark.parametrize("scaling", ["sum", "mean"])
@pytest.mark.parametrize(("parts", "together"), [(4, 1), (3, 1), (4, 2)])
def test_parts_of_a_batch_make_the_step_of_the_whole(captioner, scaling, parts, together):
    """4 parts of 8 equal a batch of 32, whose captions differ in length; 3 parts are uneven."""
    batch = long_batch(captioner, together)
    words = [int((part.lengths - 1).sum()) for part in microbatches(batch, parts)]
    assert len(set(words)) > 1
    config = TrainConfig(alpha_c=0.7, penalty_scaling=scaling, label_smoothing=0.1, grad_clip=0.0)
    found = []
    for accumulate in (1, parts):
        idle = torch.optim.SGD(captioner.model.decoder.parameters(), lr=0.0)
        losses = learn(captioner.model, idle, batch, config, accumulate=accumulate)
        found.append((losses, gradients(captioner)))
    (losses, whole), (again, summed) = found
    assert again == pytest.approx(losses, rel=1e-5)
    for name, gradient in whole.items():
        torch.testing.assert_close(summed[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_parts_are_whole_images_with_their_captions(captioner):
    batch = long_batch(captioner, together=2)
    parts = microbatches(batch, 3)
    assert [len(part.images) for part in parts] == [6, 6, 4]
    assert [len(part.captions) for part in parts] == [12, 12, 8]
    for name, whole in batch._asdict().items():
        if whole is None:
            continue
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), whole)
    assert len(microbatches(batch, 99)) == 16
    assert microbatches(batch, 1)[0] is batch


def test_a_run_in_parts_is_the_same_run(tmp_path):
    folder = tiny.prepare(tmp_path / "data", known=2)
    how = {"decoder": {"dropout": 0.0}, "batches": "random", "alpha_c": 0.5}
    lines = []
    for accumulate in (1, 4):
        stage = {"accumulate": accumulate, "epochs": 1}
        fit(tiny.config(folder, tmp_path / str(accumulate), stage1=stage, **how))
        lines.append(tiny.log(tmp_path / str(accumulate))[0])
    for name in ("cross_entropy", "penalty", "val_cross_entropy"):
        assert lines[0][name] == pytest.approx(lines[1][name], rel=1e-4)


@pytest.mark.parametrize("largest", [0.001, 0.02, 1000.0])
def test_each_element_is_clipped_where_asked(captioner, largest):
    batch, decoder = batch_for(captioner), captioner.model.decoder
    slow, likelihood, penalty = by_hand(captioner, batch)
    (likelihood + penalty).backward()
    before = tiny.weights(decoder)
    plain = torch.optim.SGD(decoder.parameters(), lr=RATE)
    step(captioner, batch, plain, alpha_c=1.0, grad_clip=largest, grad_clip_by="value")
    clipped = 0
    for name, weight in slow.named_parameters():
        expected = before[name] - RATE * weight.grad.clamp(-largest, largest)
        clipped += int((weight.grad.abs() > largest).sum())
        assert torch.allclose(decoder.state_dict()[name], expected, atol=1e-7), name
    assert (clipped > 0) == (largest < 1)


def test_rmsprop_is_that_of_graves_but_for_where_epsilon_stands():
    """Eq. 38-45 with 0.95, 0.9 and 1e-4; the last under the root there, and here beside it."""
    random = np.random.default_rng(0)
    start = random.normal(size=6)
    weight = torch.nn.Parameter(torch.tensor(start))
    optimizer = OPTIMIZERS["rmsprop"]([{"params": [weight], "lr": 1e-4}])
    square, mean, step, ours = np.zeros(6), np.zeros(6), np.zeros(6), start.copy()
    for scale in np.logspace(-4, 1, 40):
        gradient = scale * random.normal(size=6)
        weight.grad = torch.tensor(gradient)
        before = weight.detach().clone().numpy()
        optimizer.step()
        square = 0.95 * square + 0.05 * gradient**2
        mean = 0.95 * mean + 0.05 * gradient
        variance = square - mean**2
        step = 0.9 * step - 1e-4 * gradient / (np.sqrt(variance) + 0.01)
        ours += step
        assert weight.detach().numpy() == pytest.approx(ours, abs=1e-12)
        assert before != pytest.approx(ours, abs=1e-12)
        his, here = np.sqrt(variance + 1e-4), np.sqrt(variance) + 0.01
        assert ((his <= here) & (here <= math.sqrt(2) * his * (1 + 1e-9))).all()


def test_a_stage_gets_the_optimizer_it_names():
    model = tiny.captioner().model
    for name, kind in (("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop)):
        stage = StageConfig(optimizer=name, encoder_learning_rate=1e-3, encoder_from_block=0)
        optimizer = build_optimizer(model, stage, embeddings=False)
        assert type(optimizer) is kind
        learning = [weight for group in optimizer.param_groups for weight in group["params"]]
        assert {id(weight) for weight in learning} == {
            id(weight)
            for weight in model.parameters()
            if weight is not model.decoder.embedding.weight
        }


def test_a_scaled_loss_makes_the_same_step(captioner):
    """The scale is a power of two: it leaves no trace, whichever way is clipped."""
    batch, found = batch_for(captioner), []
    start = tiny.weights(captioner.model)
    for scaler, by in itertools.product(
        (None, GradScaler("cpu", init_scale=2.0**12)), ("norm", "value")
    ):
        captioner.model.load_state_dict(start)
        adam = torch.optim.Adam(captioner.model.decoder.parameters(), lr=RATE, fused=True)
        config = TrainConfig(grad_clip=0.05, grad_clip_by=by)
        losses = learn(
            captioner.model,
            adam,
            batch,
            config,
            accumulate=2,
            scaler=scaler,
        )
        found.append((losses, tiny.weights(captioner.model)))
    for plain, scaled in zip(found[:2], found[2:]):
        assert plain[0] == scaled[0]
        for name, value in plain[1].items():
            assert torch.allclose(value, scaled[1][name], atol=1e-7), name
    assert not tiny.equal(found[0][1], found[1][1])


def test_an_overflow_costs_one_step_and_halves_the_scale_until_there_is_none():
    weight = torch.nn.Parameter(torch.ones(2))
    adam = torch.optim.Adam([weight], fused=True, lr=RATE)
    scaler = GradScaler("cpu", init_scale=4.0)

    def take(slope: float) -> None:
        def loss_of(part: Tensor) -> tuple[Tensor, dict[str, float]]:
            loss = (part * weight).sum()
            weight.register_hook(lambda gradient: gradient * slope)
            return loss, {"loss": loss.item()}

        made = optimizer_step(adam, [torch.ones(2)], loss_of, WHOLE, scaler)
        assert list(read_metrics([made], scaler)) == [{}]  # no norm of such a gradient

    take(math.inf)
    assert (scaler.get_scale(), weight.tolist()) == (2.0, [1.0, 1.0])
    assert adam.state[weight]["step"] == 0
    take(math.inf)
    assert scaler.get_scale() == 1.0
    with pytest.raises(FloatingPointError, match="the norm of the gradient is"):
        take(math.inf)
    assert weight.tolist() == [1.0, 1.0]


def test_float16_learns_what_float32_learns(captioner):
    """On the CPU too, where nobody would ask for it: the arithmetic is that of CUDA."""
    batch, found = long_batch(captioner), []
    device = torch.device("cpu")
    for precision in ("float32", "float16"):
        config = TrainConfig(precision=precision, grad_clip=0.0)
        dtype = {"float32": torch.float32, "float16": torch.float16}[precision]
        with autocast(precision, device):
            assert torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype == dtype
        idle = torch.optim.SGD(captioner.model.decoder.parameters(), lr=0.0)
        scaler = GradScaler("cpu", init_scale=2.0**10, enabled=precision == "float16")
        losses = learn(captioner.model, idle, batch, config, scaler=scaler)
        found.append((losses, gradients(captioner)))
    assert found[0][0] == pytest.approx(found[1][0], rel=5e-3)
    whole = [torch.cat([value.flatten() for value in kept.values()]) for _, kept in found]
    assert torch.nn.functional.cosine_similarity(*whole, dim=0) > 0.999
    assert whole[0].norm().item() == pytest.approx(whole[1].norm().item(), rel=0.01)


def test_float16_is_refused_where_it_does_not_pay(tmp_path):
    told = "precision is 'float16', which is for CUDA, not for cpu: choose bfloat16 or float32"
    with pytest.raises(ValueError, match=told):
        device.resolve_precision("float16", torch.device("cpu"))
    folder = tiny.prepare(tmp_path / "data")
    with pytest.raises(ValueError, match=told):
        fit(tiny.config(folder, tmp_path / "run", precision="float16"))
    assert not (tmp_path / "run").exists()
    for precision in ("float32", "bfloat16"):
        assert not grad_scaler(precision, torch.device("cpu")).is_enabled()


@pytest.mark.parametrize(
    ("found", "expected"),
    [({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "bfloat16"), ({}, "float32")],
)
def test_precision_auto_is_what_the_processor_has_and_the_run_keeps_it(
    tmp_path, monkeypatch, caplog, found, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    config = tiny.config(tiny.prepare(tmp_path / "data"), tmp_path / "run", precision="auto")
    caplog.set_level("INFO")
    assert Trainer(config).config.precision == expected
    assert f"precision auto: {expected}" in caplog.text


def test_tf32_is_set_in_the_process_of_every_rank(tmp_path, monkeypatch):
    """Rank zero chooses the precision; a flag of torch's is set by each rank for itself."""
    asked = []
    monkeypatch.setattr(trainer_module, "resolve_precision", lambda name, _: asked.append(name))
    real = trainer_module.on_rank_zero
    answers = iter([real, lambda _: "tf32", real, real])  # those of a rank that is not zero
    monkeypatch.setattr(trainer_module, "on_rank_zero", lambda make: next(answers)(make))
    Trainer(tiny.config(tiny.prepare(tmp_path / "data"), tmp_path / "run", precision="float32"))
    assert asked == ["tf32"]


def test_run_in_precision_auto_is_not_resumed_in_another(tmp_path, monkeypatch):
    folder = tiny.prepare(tmp_path / "data")
    how = {"precision": "auto", "stage1": {"epochs": 1}}
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    fit(tiny.config(folder, tmp_path / "run", **how))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    with pytest.raises(ValueError, match="precision is bfloat16, but the run in"):
        fit(tiny.config(folder, tmp_path / "run", **how, resume=True))


def test_the_scale_is_resumed(tmp_path, monkeypatch):
    def scaler_of(*args: Any) -> GradScaler:
        return GradScaler("cpu", init_scale=8.0, growth_interval=2)

    monkeypatch.setattr(trainer_module, "grad_scaler", scaler_of)
    folder = tiny.prepare(tmp_path / "data", known=2)
    config = tiny.config(folder, tmp_path / "run", stage1={"epochs": 1})
    fit(config)  # three steps: it has grown once
    saved = native.load_trainer(tmp_path / "run" / "last")["scaler"]
    assert (saved["scale"], saved["_growth_tracker"]) == (16.0, 1)
    trainer = Trainer(tiny.config(folder, tmp_path / "run", stage1={"epochs": 2}, resume=True))
    trainer.run()
    assert trainer.scaler.state_dict()["scale"] == 64.0  # after six steps
    assert device.DTYPES["float16"] is torch.float16


def test_ema_with_warmup_follows_the_formula_and_goes_on_from_its_saved_count():
    """Decays 2/11, 3/12 and 4/13, then 0.35, less than 5/14; the first update copies."""
    model = torch.nn.Linear(1, 1, bias=False)
    averages = [build_ema(model, StageConfig(ema=0.35)) for _ in range(2)]

    def follow(value: float, average: AveragedModel) -> float:
        with torch.no_grad():
            model.weight.fill_(value)
        average.update_parameters(model)
        return average.module.weight.item()

    found = [follow(value, averages[0]) for value in (1.0, 2.0, 3.0)]
    averages[1].load_state_dict(averages[0].state_dict())
    found += [follow(value, averages[1]) for value in (4.0, 5.0)]
    second = 2 / 11 * 1 + 9 / 11 * 2
    third = 3 / 12 * second + 9 / 12 * 3
    fourth = 4 / 13 * third + 9 / 13 * 4
    assert found == pytest.approx([1, second, third, fourth, 0.35 * fourth + 0.65 * 5])
