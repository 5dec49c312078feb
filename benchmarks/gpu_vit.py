"""ViT-B/16 and distilGPT-2 (their sizes, random weights) against `transformers` on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import measure, pair
from benchmarks.gpu_setting import (
    PRECISIONS,
    Setting,
    computing,
    config_precision,
    forget_peak,
    minutes,
    peak,
    products,
    table,
    tried,
)
from sat.config.decoding import DecodingConfig
from sat.config.model import ModelConfig, Preprocessing, VitGpt2Config
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch
from sat.decoding.generate import generate
from sat.models.factory import build_model
from sat.models.vit_gpt2 import VitGpt2

TOKENS = 20
"""that a caption is made to have, so that both sides do the same work"""
HALF = (0.5, 0.5, 0.5)
LOUD = 0.3
"""spread of a small network's weights, so that what it says depends on the picture"""
WHOLE = VitGpt2Config(decoder_config={"n_layer": 6, "n_positions": 64})
SMALL = VitGpt2Config(
    encoder_config={
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "patch_size": 8,
    },
    decoder_config={"n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 24},
)  # fmt: skip


HEAD = (
    *("what", "precision", "batch", "ours, photos/s", "transformers", "ratio"),
    *("peak memory, ours", "transformers'"),
)


class Words:
    """A vocabulary of nameless tokens whose last is start, end and padding, as GPT-2's."""

    unk_id = None

    def __init__(self, size: int) -> None:
        self.size = size
        self.start_id = self.end_id = self.pad_id = size - 1

    def __len__(self) -> int:
        return self.size


def captioner(hf: VitGpt2Config, size: int, words: int) -> VitGpt2:
    """One with random weights."""
    preprocessing = Preprocessing(size=size, mean=HALF, std=HALF)
    config = ModelConfig(family="vit_gpt2", hf=hf, preprocessing=preprocessing)
    torch.manual_seed(6)
    return build_model(config, Words(words)).eval()  # type: ignore[arg-type,return-value]


@torch.no_grad()
def tiny_captioner() -> VitGpt2:
    """A small one that says something else of each picture."""
    model, generator = captioner(SMALL, 32, 12), torch.Generator().manual_seed(7)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(std=LOUD, generator=generator)
    return model


def theirs_of(model: VitGpt2) -> nn.Module:
    """The same network as `transformers` runs it by default: scaled dot products, fused."""
    network = copy.deepcopy(model.network)
    for part in (network.decoder, network.decoder.base_model):  # each may have its own config
        part.set_attn_implementation("sdpa")
    return network


def batch_for(size: int, side: int, words: int, device: torch.device) -> Batch:
    """Pixels and captions of `TOKENS` tokens between start and end."""
    generator = torch.Generator().manual_seed(8)
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    captions = torch.randint(words - 1, (size, TOKENS + 2), generator=generator)
    captions[:, 0] = captions[:, -1] = words - 1
    images = images.pin_memory() if device.type == "cuda" else images
    return Batch(images, captions, torch.full((size,), TOKENS + 2), torch.arange(size))


def steps(
    model: VitGpt2,
    batch: Batch,
    precision: str,
    trainable: Any = "all",
    cached: Batch | None = None,
) -> list[Callable[[], object]]:
    """A training step of the parts named, ours (from `cached` features, if given) and theirs."""
    device = next(model.parameters()).device
    ours = copy.deepcopy(model)
    ours.set_trainable(StageConfig(trainable=trainable))
    network = theirs_of(ours)
    ours.train()
    network.train()
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-5, fused=True)
    plain = torch.optim.Adam(network.parameters(), lr=1e-5)
    config = TrainConfig(precision=config_precision(precision), alpha_c=0.0)  # type: ignore[arg-type]

    def their_step() -> float:
        pixels = ours.normalize(batch.images.to(device, non_blocking=True))
        with computing(precision, device):
            loss = network(pixel_values=pixels, labels=batch.captions[:, 1:].to(device)).loss
        plain.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip)
        plain.step()
        return f"{loss.item()}"  # type: ignore[return-value]

    return [partial(pair.learn, ours, optimizer, cached or batch, config), their_step]


def searches(model: VitGpt2, images: Tensor, beam: int) -> list[Callable[[], list[list[int]]]]:
    """Captions of the images, ours and `transformers`' own; none may end before `TOKENS`."""
    device, network = next(model.parameters()).device, theirs_of(model).eval()
    options = DecodingConfig(beam_size=beam, max_length=TOKENS, min_length=TOKENS)

    @torch.inference_mode()
    def ours() -> list[list[int]]:
        features = model.encode(images.to(device))
        return [best.words for best, *_ in generate(model, features, options)]

    @torch.inference_mode()
    def theirs() -> list[list[int]]:
        pixels = model.normalize(images.to(device))
        found = network.generate(
            pixel_values=pixels, num_beams=beam, do_sample=False, length_penalty=0.0,
            min_new_tokens=TOKENS, max_new_tokens=TOKENS,
        )  # fmt: skip
        return [line[1:] for line in found.tolist()]

    return [ours, theirs]


def compared(
    name: str, precision: str, setting: Setting, calls: list, device: torch.device
) -> list[Any]:
    """A row: both sides in turn, photos a second, and the peak memory of each."""
    held, size = [], setting.pipeline.batch
    for call in calls:
        call()
        forget_peak(device)
        call()
        held.append(measure.megabytes(peak(device)))
    ours, theirs = measure.in_turn(calls, setting.rounds, device)
    rates = [f"{size / time.median:.0f}" for time in (ours, theirs)]
    return [name, precision, size, *rates, measure.ratio(theirs.median, ours.median), *held]


def vit(setting: Setting, quick: bool, device: torch.device) -> Iterator[str]:
    """Training and decoding."""
    hf, side, words = (SMALL, 32, 12) if quick else (WHOLE, 224, 50257)
    model = tiny_captioner() if quick else captioner(hf, side, words)
    model = model.to(device)
    batch = batch_for(setting.pipeline.batch, side, words, device)
    same: list[str] = []
    sees, speaks = model.network.config.encoder, model.network.config.decoder
    yield (
        f"{sees.num_hidden_layers} and {speaks.num_hidden_layers} layers of {speaks.hidden_size}, "
        f"{words:,} tokens, {side}×{side} px, captions of {TOKENS} tokens, dropout "
        f"{speaks.attn_pdrop}. Both sides use fused scaled dot products. Memory counts both "
        "sides' weights."
    )

    def training(precision: str, compiled: bool) -> Iterator[list[Any]]:
        with products(precision):
            calls = steps(model, batch, precision)
            if compiled:
                calls[0].args[0].compile_training()  # type: ignore[attr-defined]
            name = "training step, all learns" + ", ours compiled" * compiled
            yield compared(name, precision, setting, calls, device)

    def decoding(beam: int, precision: str) -> Iterator[list[Any]]:
        with computing(precision, device):
            calls = searches(model, batch.images, beam)
            if precision == "float32":
                equal = sum(one == other for one, other in zip(*(call() for call in calls)))
                same.append(f"{equal} of {len(batch.images)} at beam {beam}")
            found = compared(f"captions, beam {beam}", precision, setting, calls, device)
        if (beam, precision) == (5, "float32"):
            same.append(f"COCO's 5,000 test photos would take {minutes(float(found[3]), 5000)}")
        yield found

    ways = [(precision, False) for precision in PRECISIONS] + [("bfloat16", True)]
    rows = [tried(f"training step, {way}", len(HEAD), training, *way) for way in ways]
    rows += [
        tried(f"captions, beam {beam}, {precision}", len(HEAD), decoding, beam, precision)
        for beam in (5, 1)
        for precision in PRECISIONS
    ]
    yield from table(HEAD, chain.from_iterable(rows))
    yield f"Captions identical in float32: {'; '.join(same)}."
