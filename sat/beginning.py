"""How a run begins: its folder, its data, its first weights, and what a stage learns with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sat import checkpoint
from sat.build import build, preprocessing_for
from sat.config import Decoding, ModelConfig, Preprocessing
from sat.data.batches import CaptionBatches
from sat.data.dataset import CaptionDataset, find_data_name, read_vocabulary
from sat.data.embeddings import load_embeddings
from sat.data.features import cache_features, fingerprint
from sat.data.images import normalise
from sat.data.vocabulary import Vocabulary
from sat.evaluate import check_fit
from sat.fields import check
from sat.models.show_attend_tell import ShowAttendTell
from sat.recipe import StageConfig, TrainConfig
from sat.warm_up import warm_up

if TYPE_CHECKING:
    from sat.models.vit_gpt2 import VitGpt2

LOG = "log.jsonl"


def check_folder(config: TrainConfig) -> None:
    """`FileExistsError` rather than two runs mixed in one folder.

    A run of a later stage alone goes on in the folder of its first.
    """
    folder = Path(config.output_dir)
    if config.resume or config.overwrite or config.stages[0] > 1:
        return
    if (folder / LOG).exists() or checkpoint.exists(folder / "last"):
        raise FileExistsError(
            f"{folder} holds a run already: pass --resume to go on with it, --overwrite to replace "
            "it, or another --output_dir"
        )


def identity(config: TrainConfig, begun: int) -> dict[str, Any]:
    """What may not change when a run is resumed: its first `begun` stages, and their order."""
    stages = config.stages[:begun]
    stage = getattr(config, f"stage{stages[-1]}")
    return {
        "stages": list(stages),
        "ema": stage.ema > 0,
        "batch_size": stage.batch_size,
        "captions_per_sample": stage.captions_per_sample,
        "objective": stage.objective,
        "by_length": config.by_length,
        "mirror": config.mirror,
        "captions": config.captions,
        "seed": config.seed,
    }


def check_resumable(config: TrainConfig, saved: dict[str, Any]) -> None:
    """`ValueError` when the run so far is not what the config says.

    Stages that were still to come may have changed.
    """
    now = identity(config, saved["position"]["stage"] + 1)
    for name, value in saved["identity"].items():
        if now[name] != value:
            raise ValueError(
                f"{name} is {now[name]}, but the run in {config.output_dir} has {value}: "
                "resume it as it was, or start another one"
            )


def claim_folder(config: TrainConfig) -> Path:
    """The run's folder; with `overwrite` an earlier run is removed from it.

    To be called when nothing can be wrong with the run any more.
    """
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if config.overwrite and not config.resume and config.stages[0] == 1:
        checkpoint.remove(folder / "best")
        checkpoint.remove(folder / "last")
        (folder / LOG).unlink(missing_ok=True)
    return folder


def log_lines(folder: Path) -> list[str]:
    """The lines of the folder's log."""
    path = folder / LOG
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def cut_log(folder: Path, lines: int) -> None:
    """Drop the lines of epochs that were logged but not saved when the run was killed."""
    (folder / LOG).write_text("".join(log_lines(folder)[:lines]), encoding="utf-8")


def open_data(config: TrainConfig) -> tuple[CaptionDataset, CaptionDataset, Vocabulary]:
    """The training and validation splits, and their words."""
    folder = Path(config.data_folder)
    name = config.data_name or find_data_name(folder)
    train, val = (CaptionDataset(folder, name, split) for split in ("TRAIN", "VAL"))
    for number in config.stages:
        together = getattr(config, f"stage{number}").captions_per_sample
        if train.captions_per_image % together:
            raise ValueError(
                f"captions_per_sample is {together}: choose a divisor of "
                f"{train.captions_per_image}, the captions that each image has in {folder}"
            )
    return train, val, read_vocabulary(folder, name)


def first_model(
    config: TrainConfig, train: CaptionDataset, vocabulary: Vocabulary
) -> tuple[ShowAttendTell, ModelConfig]:
    """The model to go on with or to start from, as the config says; else a fresh one."""
    start = f"{config.output_dir}/last" if config.resume else config.init
    if start is None and config.stages[0] > 1:
        start = f"{config.output_dir}/best"
    if start is None:
        return _fresh_model(config, train, vocabulary)
    model, words, model_config = checkpoint.load(start)
    if words != vocabulary:
        raise ValueError(
            f"{start} was trained with another word map ({len(words)} words) than the data's "
            f"({len(vocabulary)} words): use the data it was trained on"
        )
    check_fit(model_config.preprocessing, train)
    return model, model_config


def _fresh_model(
    config: TrainConfig, train: CaptionDataset, vocabulary: Vocabulary
) -> tuple[ShowAttendTell, ModelConfig]:
    if config.family == "vit_gpt2":
        return _fresh_vit_gpt2(config, train, vocabulary)
    decoder, vectors = config.decoder, None
    if config.embeddings:
        vectors = load_embeddings(config.embeddings, vocabulary)
        decoder = dataclasses.replace(decoder, embed_dim=vectors.shape[1])
    model_config = ModelConfig(encoder=config.encoder, decoder=decoder)
    model = build(model_config, vocabulary)
    if vectors is not None:
        model.decoder.load_pretrained_embeddings(vectors)
    preprocessing = preprocessing_for(model.encoder, size=train.image_size, resize=train.resize)
    return model, dataclasses.replace(model_config, preprocessing=preprocessing)


def _fresh_vit_gpt2(
    config: TrainConfig, train: CaptionDataset, vocabulary: Vocabulary
) -> tuple[VitGpt2, ModelConfig]:
    from sat.hf_folder import preprocessing_for

    check(config.alpha_c == 0, "alpha_c", config.alpha_c, "vit_gpt2 has no such penalty, give 0")
    check(not config.embeddings, "embeddings", config.embeddings, "vit_gpt2 brings its own")
    if isinstance(vocabulary, Vocabulary):
        raise ValueError(
            f"{train.path('CAPTIONS', '.json')} holds the words of a word map: prepare the data "
            "with --tokenizer, the decoder's own (or train)"
        )
    size = {"size": train.image_size, "resize": train.resize}
    preprocessing = preprocessing_for(config.hf.encoder, **size)
    longest = min(config.hf.positions - 1, Decoding.max_length)
    model_config = ModelConfig(
        family=config.family,
        hf=config.hf,
        preprocessing=preprocessing,
        decoding=Decoding(max_length=longest),
    )
    return build(model_config, vocabulary), model_config


def optimizer_for(
    model: ShowAttendTell | VitGpt2, stage: StageConfig, *, embeddings: bool
) -> torch.optim.Adam:
    """Adam over what the stage learns, after freezing the rest; group 0 is the decoder's."""
    if isinstance(model, ShowAttendTell):
        model.encoder.fine_tune(stage.fine_tunes, stage.encoder_from_block)
        model.decoder.fine_tune_embeddings(embeddings)
    else:
        model.choose_trainable(stage.trainable)
    seeing = set(model.encoder.parameters())
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    speaks = [weight for weight in learning if weight not in seeing]
    sees = [weight for weight in learning if weight in seeing]
    groups = [{"params": part} for part in (speaks, sees) if part]
    optimizer = torch.optim.Adam(groups, fused=True)
    warm_up(optimizer, stage.warmup)
    return optimizer


def batches_of(
    config: TrainConfig, stage: StageConfig, number: int, train: CaptionDataset
) -> CaptionBatches:
    """The batches of stage `number`, as the config says."""
    drawn = config.captions == "random"
    learns_words = stage.objective == "likelihood"
    return CaptionBatches(
        train.lengths,
        stage.batch_size,
        by_length=config.by_length and learns_words,
        mirror=config.mirror,
        every=train.captions_per_image if drawn or not learns_words else 1,
        drawn=drawn and learns_words,
        together=stage.captions_per_sample,
        seed=config.seed * 10 + number,
    )


def with_features(
    model: ShowAttendTell,
    preprocessing: Preprocessing,
    dataset: CaptionDataset,
    *,
    mirror: bool,
    bar: Callable[..., Any],
) -> CaptionDataset:
    """The data set reading features in place of pictures, encoded now unless they are there."""
    device = next(model.parameters()).device
    model.encoder.eval()

    def encode(images: Tensor) -> Tensor:
        return model.encode(normalise(images.to(device), preprocessing))

    key = fingerprint(model.encoder, preprocessing, 1 + mirror)
    progress = partial(bar, desc=f"encoding {dataset.split.lower()}", unit="batch")
    path = cache_features(encode, dataset, key, mirror=mirror, progress=progress)
    return dataset.reading(path)
