"""The data and the model that a run starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from sat.checkpoints import native
from sat.config.checks import check
from sat.config.decoding import DecodingConfig
from sat.config.model import ModelConfig
from sat.config.training import TrainConfig
from sat.data.dataset import CaptionDataset, find_data_name, read_vocabulary
from sat.data.vocabulary import Vocabulary
from sat.data.word_vectors import load_embeddings
from sat.evaluation import check_preprocessing
from sat.models.factory import build_model, preprocessing_for
from sat.models.show_attend_tell import ShowAttendTell

if TYPE_CHECKING:
    from sat.models.vit_gpt2 import VitGpt2

if TYPE_CHECKING:
    from sat.models.vit_gpt2 import VitGpt2


def open_data(config: TrainConfig) -> tuple[CaptionDataset, CaptionDataset, Vocabulary]:
    """The training and validation splits, and their words."""
    folder = Path(config.data_folder)
    name = config.data_name or find_data_name(folder)
    train, val = (CaptionDataset(folder, name, microbatches) for microbatches in ("TRAIN", "VAL"))
    for number in config.stages:
        together = getattr(config, f"stage{number}").captions_per_sample
        if train.captions_per_image % together:
            raise ValueError(
                f"captions_per_sample is {together}: choose a divisor of "
                f"{train.captions_per_image}, the captions that each image has in {folder}"
            )
    return train, val, read_vocabulary(folder, name)


def initial_model(
    config: TrainConfig, train: CaptionDataset, vocabulary: Vocabulary
) -> tuple[ShowAttendTell, ModelConfig]:
    """The model to go on with or to start from, as the config says; else a fresh one."""
    start = f"{config.output_dir}/last" if config.resume else config.init
    if start is None and config.stages[0] > 1:
        start = f"{config.output_dir}/best"
    if start is None:
        return _fresh_model(config, train, vocabulary)
    model, words, model_config = native.load(start)
    if words != vocabulary:
        raise ValueError(
            f"{start} was trained with another word map ({len(words)} words) than the data's "
            f"({len(vocabulary)} words): use the data it was trained on"
        )
    check_preprocessing(model_config.preprocessing, train)
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
    model = build_model(model_config, vocabulary)
    if vectors is not None:
        model.decoder.load_pretrained_embeddings(vectors)
    preprocessing = preprocessing_for(model.encoder, size=train.image_size, resize=train.resize)
    return model, dataclasses.replace(model_config, preprocessing=preprocessing)


def _fresh_vit_gpt2(
    config: TrainConfig, train: CaptionDataset, vocabulary: Vocabulary
) -> tuple[VitGpt2, ModelConfig]:
    from sat.checkpoints.hugging_face import preprocessing_for

    check(config.alpha_c == 0, "alpha_c", config.alpha_c, "vit_gpt2 has no such penalty, give 0")
    check(not config.embeddings, "embeddings", config.embeddings, "vit_gpt2 brings its own")
    if isinstance(vocabulary, Vocabulary):
        raise ValueError(
            f"{train.path('CAPTIONS', '.json')} holds the words of a word map: prepare the data "
            "with --tokenizer, the decoder's own (or train)"
        )
    size = {"size": train.image_size, "resize": train.resize}
    preprocessing = preprocessing_for(config.hf.encoder, **size)
    longest = min(config.hf.positions - 1, DecodingConfig.max_length)
    model_config = ModelConfig(
        family=config.family,
        hf=config.hf,
        preprocessing=preprocessing,
        decoding=DecodingConfig(max_length=longest),
    )
    return build_model(model_config, vocabulary), model_config
