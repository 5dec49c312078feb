"""Is what the card computes what the CPU computes? The same weights and inputs on both.

TF32 is off. Distances are the largest difference over the largest value; of gradients, the norm of
the difference over the gradient's norm, for the weight where it is worst.
"""

from __future__ import annotations

import copy
import dataclasses
import runpy
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import decode, pair, train_step
from benchmarks.gpu_setting import DEFAULTS, Setting, products, table, tried
from benchmarks.gpu_vit import batch_for, steps, tiny_captioner
from benchmarks.pipeline import our_model
from sat.checkpoints import native
from sat.config.decoding import DecodingConfig
from sat.data.dataloader import Batch
from sat.decoding.generate import generate
from sat.device import autocast
from sat.models.decoder import DecoderWithAttention
from sat.training.trainer import fit

CPU = torch.device("cpu")
NEAR, SLOPES, ROUGH = 1e-4, 1e-3, 5e-2
"""limits: of values, of gradients, and of both in bfloat16"""
HEAD = ("what", "found", "limit", "within")
READINGS = {"the tutorial's reading": pair.TUTORIAL, "our reading": pair.OURS}


class Check(NamedTuple):
    """A distance and the most it may be."""

    what: str
    found: float
    limit: float

    def row(self) -> list[str]:
        told = "yes" if self.found <= self.limit else "**no**"
        return [self.what, f"{self.found:.1e}", f"{self.limit:.0e}", told]


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value."""
    found, expected = found.detach().cpu().float(), expected.detach().cpu().float()
    return float((found - expected).abs().max() / expected.abs().max())


def slopes_apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The worst weight's; those whose gradient is next to nothing are left out."""
    whole = torch.stack([slope.norm() for slope in expected.values()]).norm()
    return max(
        float((found[name] - slope).norm() / slope.norm())
        for name, slope in expected.items()
        if slope.norm() > train_step.NOTHING * whole
    )


def learned(
    sizes: Any, batch: Batch, reading: dict[str, str], where: torch.device, precision: str
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Logits and maps, and each weight's gradient after a step without dropout, on the CPU."""
    ours, step = train_step.our_step(sizes, where, reading, precision)
    ours.eval()
    with torch.no_grad(), autocast(precision, where):
        output = ours(*(part.to(where) for part in batch[:3]))
    step(batch)
    slopes = {name: weight.grad.cpu() for name, weight in ours.named_parameters()}
    return output.logits.cpu(), output.alphas.cpu(), slopes


def teacher_forced(setting: Setting, quick: bool, device: torch.device) -> Iterator[Check]:
    """Logits, maps and gradients of either reading, exact and in bfloat16."""
    for name, reading in READINGS.items():
        sizes = pair.sizes_for(quick, 196, pair.NATIVE, reading["output"] == "deep")
        batch = train_step.batch_of(setting.pipeline.batch, sizes, CPU)
        expected = learned(sizes, batch, reading, CPU, "float32")
        for precision, near, slopes in (("float32", NEAR, SLOPES), ("bfloat16", ROUGH, ROUGH)):
            found = learned(sizes, batch, reading, device, precision)
            what = f"{name}, 14×14 from 8×8, {precision}"
            yield Check(f"{what}: logits", apart(found[0], expected[0]), near)
            yield Check(f"{what}: maps", apart(found[1], expected[1]), near)
            yield Check(f"{what}: gradients", slopes_apart(found[2], expected[2]), slopes)


def beams(setting: Setting, quick: bool, device: torch.device) -> Iterator[Check]:
    """Captions at beam 5: card against CPU, and against the tutorial's search on the card."""
    for name, reading in READINGS.items():
        sizes = pair.sizes_for(quick, 196, pair.NATIVE, reading["output"] == "deep")
        features = pair.random_features(2 * setting.few, sizes, CPU)
        found = []
        for where in (CPU, device):
            ours = decode.decoder(DecoderWithAttention, sizes, reading, where)
            found.append(decode.together(ours, features.to(where), 5, len(features)))
        reference = decode.decoder(pair.ReferenceDecoder, sizes, reading, device)
        others = pair.enlarged(features, sizes.regions).to(device)
        found.append(decode.one_by_one(reference, others, 5))
        for whose, expected in (("the CPU's", found[0]), ("the tutorial's search", found[2])):
            differ = sum(one[0] != other[0] for one, other in zip(found[1], expected))
            what = f"{name}: share of beam 5 captions that are not {whose}"
            yield Check(what, differ / len(features), 0.0)


def draws(setting: Setting, quick: bool, device: torch.device) -> Iterator[Check]:
    """Captions drawn on the card: their scores are what the CPU makes of them, word by word."""
    options = DecodingConfig(do_sample=True, top_p=0.9, num_return_sequences=5)
    for name, reading in READINGS.items():
        sizes = pair.sizes_for(quick, 196, pair.NATIVE, reading["output"] == "deep")
        features = pair.random_features(setting.few, sizes, CPU)
        model = pair.captioner(decode.decoder(DecoderWithAttention, sizes, reading, CPU)).eval()
        there = copy.deepcopy(model).to(device)
        found = [generate(there, features.to(device), options) for _ in range(2)]
        yield Check(f"{name}: draws of one seed that differ", float(found[0] != found[1]), 0.0)
        flat = [caption for image in found[0] for caption in image]
        lines = [[model.start_id, *one.words] + [model.end_id] * one.finished for one in flat]
        lengths = torch.tensor([len(line) for line in lines])
        rows = [torch.tensor(line) for line in lines]
        captions = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        with torch.no_grad():
            log_p = model(features, captions, lengths).logits.log_softmax(dim=2)
        said = log_p.gather(2, captions[:, 1:].unsqueeze(2)).squeeze(2)
        real = torch.arange(said.shape[1]) < lengths.unsqueeze(1) - 1
        scores = torch.tensor([one.score for one in flat])
        yield Check(f"{name}: scores of draws", apart(scores, (said * real).sum(dim=1)), NEAR)


def hard_attention(setting: Setting, quick: bool, device: torch.device) -> Iterator[Check]:
    """Steps of hard attention: some draw a region, and all leave numbers behind."""
    sizes = pair.sizes_for(quick, pair.NATIVE, deep=True)
    reading = pair.OURS | {"attention": "hard"}
    ours, step = train_step.our_step(sizes, device, reading)
    first = ours.baseline.item()
    ours.train()
    for _ in range(6):
        step(train_step.batch_of(setting.pipeline.batch, sizes, CPU))
    broken = sum(not weight.isfinite().all() for weight in ours.state_dict().values())
    yield Check("hard attention: weights that are no numbers after six steps", float(broken), 0.0)
    yield Check("hard attention: its baseline stood still", float(ours.baseline == first), 0.0)


@torch.no_grad()
def encoder(setting: Setting, quick: bool, device: torch.device) -> Iterator[Check]:
    """Features, through a hundred layers."""
    model = our_model(setting.pipeline, quick, CPU, setting.words)
    there = copy.deepcopy(model).to(device)
    side = setting.pipeline.side
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(4))
    found = apart(there.encode(images.to(device)), model.encode(images))
    yield Check(f"{setting.pipeline.backbone}: features", found, SLOPES)


@torch.no_grad()
def vit(setting: Setting, quick: bool, device: torch.device) -> Iterator[Check]:
    """A small ViT and GPT-2: logits, maps, and captions at beam 5."""
    model = tiny_captioner()
    there = copy.deepcopy(model).to(device)
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(8, 3, 32, 32, generator=generator)
    captions = torch.randint(1, 11, (8, 9), generator=generator)
    lengths, outputs, said = torch.full((8,), 9), [], []
    for one, where in ((model, CPU), (there, device)):
        features = one.encode(images.to(where))
        outputs.append(one(features, captions.to(where), lengths.to(where)))
        found = generate(one, features, DecodingConfig(beam_size=5, max_length=12))
        said.append([best.words for best, *_ in found])
    expected, found = outputs
    yield Check("ViT and GPT-2, small: logits", apart(found.logits, expected.logits), NEAR)
    yield Check("ViT and GPT-2, small: maps", apart(found.alphas, expected.alphas), NEAR)
    differ = sum(one != other for one, other in zip(*said)) / len(images)
    yield Check("ViT and GPT-2, small: beam 5 captions that are not the CPU's", differ, 0.0)


def waits_of(call: Callable[[], object], device: torch.device) -> float:
    """How often the second call waits for the card."""
    call()
    if device.type != "cuda":
        return 0.0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return float(sum("synchronizing" in str(one.message) for one in told))


def waiting(setting: Setting, quick: bool, device: torch.device) -> Iterator[Check]:
    """Waits for the card: none in a training step, one a word in a search."""
    size = setting.pipeline.batch
    sizes = pair.sizes_for(quick, pair.NATIVE, deep=True)
    for attention in ("soft", "hard"):
        ours, step = train_step.our_step(sizes, device, pair.OURS | {"attention": attention})
        ours.train()
        count = waits_of(partial(step, train_step.batch_of(size, sizes, device)), device)
        yield Check(f"waits of a training step, {attention} attention", count, 0.0)
    model = tiny_captioner().to(device)
    ours, _ = steps(model, batch_for(4, 32, 12, device), "bfloat16")
    yield Check("waits of a training step, ViT and GPT-2", waits_of(ours, device), 0.0)
    decoder = decode.decoder(DecoderWithAttention, sizes, pair.OURS, device)
    searched = pair.captioner(decoder).eval(), model.eval()
    dims = pair.random_features(size, sizes, device), torch.randn(size, 17, 16, device=device)
    for name, one, features in zip(("LSTM", "ViT and GPT-2"), searched, dims):
        options = DecodingConfig(beam_size=5, max_length=12)
        count = waits_of(partial(generate, one, features, options), device) / 12
        yield Check(f"waits of a search a word, {name}", count, 1.0)


CHECKS = (teacher_forced, beams, draws, hard_attention, encoder, vit, waiting)


def parity(setting: Setting, quick: bool, device: torch.device) -> Iterator[str]:
    """One table; and that each row of the training benchmark agrees with the reference there."""

    def rows(check: Callable[..., Iterator[Check]]) -> Iterator[list[str]]:
        yield from (one.row() for one in check(setting, quick, device))

    def agreement(row: train_step.Row) -> Iterator[list[str]]:
        yield [row.name, train_step.agreement(row, setting.pipeline.batch, quick, device)]

    with products("float32"):
        found = (tried(check.__name__, len(HEAD), rows, check) for check in CHECKS)
        yield from table(HEAD, chain.from_iterable(found))
        yield "A step of ours and one of the tutorial's algorithm, both on the card:"
        told = (tried(row.name, 2, agreement, row) for row in train_step.ROWS)
        yield from table(("features", "agreement"), chain.from_iterable(told))


def whole_runs(setting: Setting, quick: bool, device: torch.device) -> Iterator[str]:
    """Three stages of a tiny training run in each precision; and one that is stopped and resumed.

    The data set and the model are those of the tests: here it is the path that counts.
    """
    tiny = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "support" / "tiny.py"))
    wanted = ("float32", "bfloat16") + ("float16",) * (device.type == "cuda")
    with products(DEFAULTS), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = tiny["prepare"](folder / "data", known=2)
        config = partial(tiny["config"], data, device=str(device), mirror=True)
        found = [tried(f"stages in {one}", 2, three_stages, config, folder, one) for one in wanted]
        found.append(tried("resuming", 2, resumed, config, folder))
        yield from table(("run", "result"), chain.from_iterable(found))


def three_stages(config: Any, folder: Path, precision: str) -> Iterator[list[str]]:
    """A run through all stages, with everything in it that keeps a state on the card."""
    stages: dict[str, Any] = {"stages": (1, 2, 3), "cache_features": True}
    stages |= {"stage1": {"epochs": 2, "ema": 0.5}, "stage2": {"epochs": 1, "warmup": 2}}
    stages["stage3"] = {"epochs": 1, "batch_size": 4, "samples": 2}
    best = fit(config(output=folder / precision, precision=precision, **stages))
    score = native.scores(best)["Bleu_4"]
    yield [f"stages 1, 2, 3 in {precision}", f"ran, BLEU-4 {score:.3f}"]


def resumed(config: Any, folder: Path) -> Iterator[list[str]]:
    """How far apart a run in one go and one in two end; atomic sums on the card differ a little."""
    whole = config(output=folder / "whole", stage1={"epochs": 2, "ema": 0.5}, workers=1)
    fit(whole)
    half = config(output=folder / "half", stage1={"epochs": 1, "ema": 0.5}, workers=1)
    fit(half)
    fit(dataclasses.replace(whole, output_dir=half.output_dir, resume=True))
    ends = [native.load_trainer(folder / name / "last") for name in ("whole", "half")]
    found, expected = ([*end["average"].values()] for end in (ends[1], ends[0]))
    worst = max(apart(one, other) for one, other in zip(found, expected) if other.abs().max() > 0)
    yield [
        "stopped after an epoch and resumed, against a run in one go",
        f"the averaged weights are apart by {worst:.0e}",
    ]
