"""Nobody waits for the device: no step of training, and a search once a word."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import tiny
import tiny_vit
import torch
from test_cross_entropy import batch_for
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy_language import Toy, photos

from sat.config.decoding import DecodingConfig
from sat.config.objectives import ScheduledSamplingConfig
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch
from sat.decoding.generate import generate
from sat.training import step_metrics
from sat.training import trainer as trainer_module
from sat.training.objectives.cross_entropy import CrossEntropyObjective
from sat.training.optim import build_ema, build_optimizer, optimizer_step
from sat.training.step_metrics import read_metrics
from sat.training.trainer import Trainer

WAITS = {
    *("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"),
    *("_unique2", "bincount", "repeat_interleave.Tensor"),
}
"""operations that on a GPU wait for all work that was handed to it before"""


class Waits(TorchDispatchMode):
    """Counts the operations that would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name, overload = func.__name__.rsplit(".", 1)
        waits = bool({name, f"{name}.{overload}"} & WAITS)
        if name == "index":  # by a mask
            waits |= any(i is not None and i.dtype == torch.bool for i in args[1])
        if waits:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "soft attention": ("lstm", {"alpha_c": 1.0, "label_smoothing": 0.1}),
    "bfloat16": ("lstm", {"precision": "bfloat16"}),
    "hard attention": ("hard", {"alpha_c": 1.0}),
    "scheduled sampling": ("lstm", {"scheduled_sampling": True}),
    "clipping by value": ("lstm", {"grad_clip_by": "value"}),
    "vit_gpt2": ("vit", {"alpha_c": 0.0}),
    "vit_gpt2 with maps": ("vit", {"alpha_c": 0.5}),
}


def model_and_batch(kind: str) -> tuple[Any, Batch]:
    captioner = tiny.captioner()
    batch = batch_for(captioner)
    if kind == "vit":
        images = torch.zeros(4, 3, tiny_vit.SIZE, tiny_vit.SIZE, dtype=torch.uint8)
        return tiny_vit.model(), batch._replace(images=images, captions=batch.captions % 9)
    decoder = captioner.model.decoder
    if kind == "hard":
        decoder.hard = True
        decoder.baseline = torch.tensor(-math.log(decoder.vocab_size))
    return captioner.model, batch


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is said to be none."""
    monkeypatch.setattr(Tensor, "is_cpu", False, raising=False)


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize(("kind", "how"), CASES.values(), ids=CASES)
def test_training_step_waits_for_nothing(kind: str, how: dict[str, Any]) -> None:
    model, batch = model_and_batch(kind)
    fields = dict(how)
    sampled = fields.pop("scheduled_sampling", False)
    schedule = ScheduledSamplingConfig("linear", k=0.5, c=0.1)
    more = {"scheduled_sampling": schedule} if sampled else {}
    stage = StageConfig(warmup=3, **more)
    config = TrainConfig(**fields)
    optimizer = build_optimizer(model, stage, embeddings=True)
    objective = CrossEntropyObjective(model, config, stage)
    model.train()
    made = []
    with Waits() as waits:
        for number in range(3):
            with objective.step(batch, number) as loss:
                metrics = optimizer_step(optimizer, [batch], loss, config)
            made.append(objective.after_step(metrics))
    assert not waits.found
    assert all(math.isfinite(value) for step in read_metrics(made) for value in step.values())
    with Waits() as waits:  # the test can fail
        made[0]["cross_entropy"].item()
    assert waits.found


class Counted(Toy):
    """Counts the words that are searched, and the copies from the device."""

    steps = 0

    def step(self, tokens: Tensor, state: Any) -> Any:
        self.steps += 1
        return super().step(tokens, state)


@pytest.mark.parametrize("rule", ["tutorial", "hugging_face"])
@pytest.mark.parametrize(
    "how",
    [
        {"beam_size": 1, "no_repeat_ngram_size": 2},
        {"beam_size": 3, "no_repeat_ngram_size": 2},
        {"top_k": 5, "top_p": 0.9},
    ],
    ids=str,
)
def test_generate_waits_once_a_word(
    rule: Any, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: Counter[str] = Counter()
    for name in ("cpu", "tolist", "item"):
        real = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, real: Any = real, name: str = name) -> Any:
            copies[name] += 1
            return real(self, *args)

        monkeypatch.setattr(Tensor, name, counted)
    toy, features = Counted(words=9), photos(1, 3, 9, 2)
    options = DecodingConfig(max_length=7, rule=rule, **how)
    with Waits() as waits:
        generate(toy, features, options)
    assert not waits.found
    assert 0 < copies["cpu"] <= toy.steps
    assert copies["item"] == 0


@pytest.mark.usefixtures("card")
@pytest.mark.parametrize("beams", [1, 3])
def test_steps_of_vit_gpt2_wait_for_nothing(beams: int) -> None:
    model = tiny_vit.model().eval()
    features = model.encode(torch.zeros(2, 3, tiny_vit.SIZE, tiny_vit.SIZE, dtype=torch.uint8))
    with Waits() as waits:
        generate(model, features, DecodingConfig(beam_size=beams, max_length=6))
    assert not waits.found


def test_vit_gpt2_computes_on_a_card_what_it_does_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its masks are others there; in double precision no rounding makes another caption."""
    model = tiny_vit.model().double()
    pixels = torch.zeros(2, 3, tiny_vit.SIZE, tiny_vit.SIZE, dtype=torch.uint8)
    features, captions = model.encode(pixels), torch.tensor([[2, 4, 5, 6, 3], [2, 6, 3, 1, 1]])
    how = {"captions": captions, "lengths": torch.tensor([5, 3]), "output_attentions": False}
    options = DecodingConfig(beam_size=3, max_length=6, num_return_sequences=3)
    found = []
    for is_cpu in (True, False):
        monkeypatch.setattr(Tensor, "is_cpu", is_cpu, raising=False)
        with torch.no_grad():
            logits = model(features, **how).logits
        found.append((generate(model, features, options), logits[0], logits[1, :2]))
    (one, *logits), (other, *others) = found
    assert [[c.words for c in image] for image in one] == [
        [c.words for c in image] for image in other
    ]
    torch.testing.assert_close(logits, others, atol=1e-5, rtol=1e-5)


class Crossings(TorchDispatchMode):
    """Counts the operations on tensors of two devices: copies that wait."""

    found = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        self.found += len({leaf.device for leaf in leaves if isinstance(leaf, Tensor)}) > 1
        return result


def test_moving_average_copies_nothing_to_the_device() -> None:
    """The "meta" device stands for a GPU."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).to("meta")
    average: Any = build_ema(model, StageConfig(ema=0.5))  # type: ignore[arg-type]
    with Crossings() as crossings:
        for _ in range(2):
            average.update_parameters(model)
    assert crossings.found == 0
    with Crossings() as crossings:  # the test can fail
        average.n_averaged.to("meta")
    assert crossings.found == 1


@pytest.mark.parametrize(("log_every", "at_least"), [(2, 100), (1000, 2)])
def test_metrics_are_read_every_log_every_steps_and_the_log_is_the_same(
    tmp_path, monkeypatch: pytest.MonkeyPatch, log_every: int, at_least: int
) -> None:
    """As on a GPU: the device is only said to be one."""
    monkeypatch.setattr(trainer_module, "READ_EVERY", at_least)
    data, reads, real = tiny.prepare(tmp_path / "data", known=2), [], read_metrics

    def watched(steps: Any, scaler: Any) -> Any:
        reads.append(len(steps))
        return real(steps, scaler)

    def run(name: str, every_step: bool) -> list[dict[str, Any]]:
        how = {"log_every": log_every, "stage1": {"epochs": 2}}
        trainer = Trainer(tiny.config(data, tmp_path / name, **how))
        trainer.reads_each_step = every_step
        trainer.run()
        return tiny.log(tmp_path / name)

    each = run("each", True)
    monkeypatch.setattr(step_metrics, "read_metrics", watched)
    some = run("some", False)
    assert max(reads) == 2
    times = ("captions_per_second", "waiting_share")
    for one, other in zip(each, some, strict=True):
        assert {k: v for k, v in one.items() if k not in times} == {
            k: v for k, v in other.items() if k not in times
        }


def test_step_whose_gradient_is_no_number_changes_nothing_and_is_told_later() -> None:
    model, batch = model_and_batch("lstm")
    optimizer = build_optimizer(model, StageConfig(), embeddings=True)
    config = TrainConfig()

    def loss_of(part: Batch) -> tuple[Tensor, dict[str, Any]]:
        weight = model.decoder.fc.bias
        return (weight * math.nan).sum(), {"cross_entropy": weight.sum().detach()}

    before = tiny.weights(model)
    bad = optimizer_step(optimizer, [batch], loss_of, config)
    assert tiny.equal(before, tiny.weights(model))
    assert all(not state["step"] for state in optimizer.state.values())
    good = {"cross_entropy": torch.tensor(1.0), "loss": torch.tensor(1.0)}
    read = read_metrics([good, bad])
    assert next(read) == {"cross_entropy": 1.0}
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        next(read)
