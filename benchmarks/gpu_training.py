"""Stages 1 and 2 of training on a GPU, against the tutorial's algorithm on the same card.

COCO-sized pictures, features and vocabulary, made on the spot; files lie in the system's cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks import measure, pair, stand_in, train_step
from benchmarks.gpu_reference import frozen_reference, tuned_reference
from benchmarks.gpu_setting import (
    DEFAULTS,
    PRECISIONS,
    Pace,
    Setting,
    Way,
    config_precision,
    endless,
    minutes,
    pace,
    products,
    table,
    tried,
)
from benchmarks.pipeline import our_model
from sat.config.training import StageConfig, TrainConfig
from sat.data.dataloader import Batch, CaptionBatchSampler, training_loader
from sat.data.dataset import CaptionDataset
from sat.training.optim import build_optimizer, set_learning_rates

TOGETHER = 5
"""captions shown with one encoding of their picture, in a row of stage 2"""
HEAD = (
    *("what", "precision", "batch", "workers", "captions/s", "ratio"),
    *("waiting", "peak memory", "COCO epoch"),
)


def row(way: Way, found: Pace, reference: Sequence[Pace]) -> list[object]:
    """The way, its rate, how many times the reference's that is (if known), and what it takes."""
    ratio = measure.ratio(found.rate, reference[0].rate) if reference else measure.NOT_MEASURED
    return [
        *(way.name, way.precision, way.batch, way.workers, found),
        ratio,
        *(f"{found.waiting:.1%}", measure.megabytes(found.peak), minutes(found.rate)),
    ]


def loader_for(data: CaptionDataset, way: Way, device: torch.device, **order: Any) -> DataLoader:
    """Batches as `train.py` reads them."""
    batches = CaptionBatchSampler(data.lengths, way.batch, group_size=way.together, **order)
    return training_loader(data, batches, workers=way.workers, pin=device.type == "cuda")


def decoder_alone(setting: Setting, quick: bool, device: torch.device) -> Iterator[str]:
    """Steps of the decoder from features that are on the card, ours and the reference's in turn."""

    def rows(one: train_step.Row, precision: str) -> Iterator[list[object]]:
        with products(precision):
            size = setting.pipeline.batch
            ours, theirs = train_step.compare(one, size, setting.rounds, quick, device)
        ratio = measure.ratio(theirs.median, ours.median)
        yield [one.name, precision, ours, theirs, ratio, f"{size / ours.median:.0f}"]

    head = ("features", "float32 products as", "ours", "tutorial's", "ratio", "captions/s, ours")
    yield "A step of the decoder alone, features on the card:"
    found = (tried(one.name, len(head), rows, one, "TF32") for one in train_step.ROWS)
    yield from table(head, chain.from_iterable(found))


def paces(
    slow: Callable[[], Pace], slow_way: Way, ways: Sequence[Way], fast: Callable[[Way], Pace]
) -> Iterator[str]:
    """The table of the tutorial's pace and of ours in each of the ways, as they are measured."""
    reference: list[Pace] = []

    def first() -> Iterator[list[object]]:
        reference.append(slow())
        yield row(slow_way, reference[0], reference)

    def other(way: Way) -> Iterator[list[object]]:
        yield row(way, fast(way), reference)

    found = [tried(slow_way.name, len(HEAD), first)]
    found += [tried(f"{way.name}, {way.precision}", len(HEAD), other, way) for way in ways]
    yield from table(HEAD, chain.from_iterable(found))


def from_cache(
    cached: CaptionDataset, dim: int, way: Way, setting: Setting, quick: bool, device: torch.device
) -> Pace:
    """Our stage 1: from cached features."""
    deep = way.reading["output"] == "deep"
    sizes = pair.sizes_for(quick, way.cells, pair.NATIVE, deep)
    sizes = sizes._replace(features=dim, vocabulary=setting.words)
    precision = config_precision(way.precision)
    decoder, step = train_step.our_step(sizes, device, way.reading, precision, way.compiled)
    decoder.train()
    with products(way.precision):
        batches = endless(loader_for(cached, way, device))
        return pace(step, batches, lambda batch: len(batch.captions), setting, device)


def stage1(setting: Setting, quick: bool, device: torch.device) -> Iterator[str]:
    """An epoch of the decoder on a frozen encoder; aim: COCO in under 3 minutes."""
    size, dim = setting.pipeline.batch, 512 if quick else 2048
    slow_way = Way("the tutorial's algorithm", DEFAULTS, size, 1)
    native = {"cells": pair.NATIVE, "reading": pair.OURS}
    workers = setting.workers
    ways = [Way("ours, 14×14 from 8×8", precision, size, workers) for precision in PRECISIONS]
    ways += [
        Way("ours, our reading on 8×8", precision, 80, workers, **native)
        for precision in PRECISIONS
    ]
    ways += [
        Way("ours, compiled, our reading on 8×8", precision, 80, workers, **native, compiled=True)
        for precision in ("TF32", "bfloat16")
    ]
    yield (
        "Aim: COCO's epoch in under 3 minutes (the tutorial on a Titan X: 55). Ours is from "
        "features that were cached once, which takes what the table of the encoder says."
    )
    with tempfile.TemporaryDirectory() as name:
        shown, kept = Path(name) / "pictures", Path(name) / "features"
        shown.mkdir(), kept.mkdir()
        stand_in.prepared(shown, setting.pictures, setting.pipeline.side, setting.words)
        data = stand_in.prepared(kept, setting.features, 8, setting.words)
        cached = data.reading(stand_in.features(kept, setting.features, pair.NATIVE, dim))
        yield from paces(
            partial(frozen_reference, shown, slow_way, setting, quick, device),
            slow_way,
            ways,
            lambda way: from_cache(cached, dim, way, setting, quick, device),
        )
    yield from decoder_alone(setting, quick, device)


def tuned(
    pixels: CaptionDataset, way: Way, setting: Setting, quick: bool, device: torch.device
) -> Pace:
    """Our stage 2."""
    model = our_model(setting.pipeline, quick, device, setting.words)
    stage = StageConfig(learning_rate=1e-4, encoder_learning_rate=1e-4)
    optimizer = build_optimizer(model, stage, embeddings=True)
    set_learning_rates(optimizer, stage, 1.0)
    config = TrainConfig(precision=config_precision(way.precision))  # type: ignore[arg-type]
    if way.compiled:
        model.compile_training()
    model.train()

    def step(batch: Batch) -> None:
        pair.learn(model, optimizer, batch, config)

    with products(way.precision):
        batches = endless(loader_for(pixels, way, device))
        return pace(step, batches, lambda batch: len(batch.captions), setting, device)


def stage2(setting: Setting, quick: bool, device: torch.device) -> Iterator[str]:
    """An epoch in which the encoder learns from layer2 on; aim: COCO in under 15 minutes."""
    size, workers = setting.pipeline.batch, setting.workers
    slow_way = Way("the tutorial's algorithm", DEFAULTS, size, 1)
    ways = [Way("ours", precision, size, workers) for precision in PRECISIONS]
    ways += [
        Way(
            f"ours, {TOGETHER} captions a photo",
            "bfloat16",
            TOGETHER * n,
            workers,
            together=TOGETHER,
        )
        for n in (max(1, size // TOGETHER), size)
    ]
    ways += [ways[-1]._replace(name=f"{ways[-1].name}, compiled", compiled=True)]
    yield "Aim: COCO's epoch in under 15 minutes (the tutorial on a Titan X: 2.5 hours)."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = stand_in.prepared(folder, setting.pictures, setting.pipeline.side, setting.words)
        yield from paces(
            partial(tuned_reference, folder, slow_way, setting, quick, device),
            slow_way,
            ways,
            lambda way: tuned(pixels, way, setting, quick, device),
        )
