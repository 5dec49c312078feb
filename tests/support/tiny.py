"""A data set of twelve small pictures, and runs that learn it by heart within seconds."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sat.captioner import Captioner
from sat.config.data import InputFilesConfig
from sat.config.decoding import DecodingConfig
from sat.config.model import DecoderConfig, EncoderConfig, ModelConfig, Preprocessing
from sat.config.training import StageConfig, TrainConfig
from sat.data.annotations.record import Record
from sat.data.prepare import create_input_files
from sat.data.vocabulary import Vocabulary
from sat.models.factory import build_model
from sat.training import trainer
from sat.training.stage import Stage

SIZE = 32
PHOTOS = 12
CAPTIONS = [
    f"a {colour} {animal} {verb}"
    for colour in ("red", "green", "blue")
    for animal, verb in (("dog", "runs"), ("cat", "sleeps"), ("bird", "sings"), ("fish", "swims"))
]
OTHERS = [caption.replace("a ", "the small ") for caption in CAPTIONS]
NAME = "flickr8k_{}_cap_per_img_1_min_word_freq"
FIRST_ID = {"train": 100, "val": 200, "test": 300}


def photos(folder: Path) -> list[Path]:
    """Pictures of 4 by 3 random colours, wider than high so that squash and crop differ."""
    random, paths = np.random.default_rng(0), []
    for i in range(PHOTOS):
        colours = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        paths.append(folder / f"{i}.png")
        Image.fromarray(colours.repeat(14, 0).repeat(14, 1)).save(paths[-1])
    return paths


def prepare(
    folder: Path,
    *,
    known: int = 1,
    captions_per_image: int | None = None,
    resize: str = "squash",
    overwrite: bool = False,
) -> Path:
    """The folder with prepared files, written from the photos beside them.

    The three splits show the same photos, in another order each time. Of each photo `known`
    captions are known: that of `CAPTIONS`, and for two that of `OTHERS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths, records = photos(folder), []
    for turn, (split, first) in enumerate(FIRST_ID.items()):
        for i in np.roll(range(PHOTOS), 5 * turn).tolist():
            raw = (CAPTIONS[i], OTHERS[i])[:known]
            words = tuple(tuple(caption.split()) for caption in raw)
            box = {"words": raw[0].split()[1:3], "noun": "", "box": [0, 0, SIZE / 2, SIZE]}
            records.append(Record(first + i, paths[i], split, words, raw, [box]))
    config = InputFilesConfig(
        dataset="flickr8k",
        captions_per_image=captions_per_image or known,
        min_word_freq=1,
        max_len=8,
        image_size=SIZE,
        resize=resize,  # type: ignore[arg-type]
        workers=1,
    )
    create_input_files(records, folder, config, overwrite=overwrite)
    return folder


def config(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """A run of a small model: with two captions known, epochs of three batches; and `changes`."""
    stage = StageConfig(epochs=2, batch_size=8, learning_rate=1e-2)
    finer = dataclasses.replace(stage, learning_rate=1e-3, encoder_learning_rate=1e-3)
    start = TrainConfig(
        data_folder=str(data),
        output_dir=str(output),
        encoder=EncoderConfig(backbone="efficientnet_lite0", weights="none", blocks=3),
        decoder=DecoderConfig(attention_dim=8, embed_dim=16, decoder_dim=16),
        stage1=stage,
        stage2=finer,
        validation=DecodingConfig(beam_size=1, max_length=8),
        choose_decoding=False,
        workers=0,
        device="cpu",
        tracker="none",
    )
    nested = {
        name: dataclasses.replace(getattr(start, name), **value)
        for name, value in changes.items()
        if isinstance(value, dict)
    }
    return dataclasses.replace(start, **changes | nested)


def captioner(*, seed: int = 4, resize: str = "squash") -> Captioner:
    """An untrained captioner of the words above that says something else of most photos."""
    vocabulary = Vocabulary.build([line.split() for line in CAPTIONS + OTHERS], min_word_freq=1)
    model_config = ModelConfig(
        encoder=EncoderConfig(backbone="efficientnet_lite0", weights="none", blocks=2),
        decoder=DecoderConfig(attention_dim=8, embed_dim=8, decoder_dim=8),
        preprocessing=Preprocessing(size=SIZE, resize=resize),  # type: ignore[arg-type]
    )
    model = build_model(model_config, vocabulary)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.normal_(std=0.8, generator=generator)
        model.decoder.fc.bias[vocabulary.end_id] += 5  # so that half of its captions end
        for weight in model.encoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) if weight.ndim > 1 else 1)
        colours = torch.randn(16, 3, 3, 4, generator=generator)
        _measure(model.encoder.body, nn.functional.interpolate(colours, (SIZE, SIZE)))
    return Captioner(model, vocabulary, model_config)


def _measure(body: nn.Module, images: torch.Tensor) -> None:
    """Give every batch norm the statistics of these images, so that features differ enough."""
    norms = [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = None
    body(images)
    body.eval()


def log(output: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, without what a clock measured."""
    lines = (output / "log.jsonl").read_text().splitlines()
    measured = {"captions_per_second", "waiting_share"}
    return [
        {key: value for key, value in json.loads(line).items() if key not in measured}
        for line in lines
    ]


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers."""
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: nn.Module) -> set[str]:
    """Names of the parameters and buffers that are no longer bit for bit what they were."""
    now = module.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, now[name])}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether both hold the same names and bit for bit the same numbers."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def script(
    monkeypatch: pytest.MonkeyPatch,
    scores: Iterable[float],
    cross_entropies: Iterable[float] = itertools.repeat(1.0),
) -> list[dict]:
    """Let validation find these scores in turn; the list fills with the weights it was given."""
    given, turn = [], zip(scores, cross_entropies)

    def validate(captioner: Captioner, *args: Any) -> dict[str, float]:
        given.append(weights(captioner.model))
        return dict(zip(("Bleu_4", "val_cross_entropy"), next(turn)))

    monkeypatch.setattr(trainer, "validate", validate)
    return given


def weights_before(monkeypatch: pytest.MonkeyPatch, wanted: Callable[[int], bool]) -> list[dict]:
    """A list that fills with the weights before each step whose number, from 0, is `wanted`."""
    seen, number, step = [], itertools.count(), trainer.training_step

    def watched(stage: Stage, *args: Any) -> dict[str, float]:
        if wanted(next(number)):
            seen.append(weights(stage.objective.model))
        return step(stage, *args)

    monkeypatch.setattr(trainer, "training_step", watched)
    return seen
