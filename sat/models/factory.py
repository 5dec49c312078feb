"""Build a captioner from its config: the only place where models meet configs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from sat.config.checks import check
from sat.config.model import ModelConfig, Preprocessing, VitGpt2Config
from sat.config.training import TrainConfig
from sat.data.vocabulary import Vocabulary
from sat.data.word_vectors import load_embeddings
from sat.models.base import CaptionModel, Normalize
from sat.models.decoder import DecoderWithAttention
from sat.models.encoder import Encoder
from sat.models.exported_parts import ExportedParts, show_attend_tell_parts, vit_gpt2_parts
from sat.models.show_attend_tell import ShowAttendTell

if TYPE_CHECKING:
    from sat.models.vit_gpt2 import VitGpt2


class Builder(NamedTuple):
    """The two ways to build a captioner of one family."""

    build: Callable[[ModelConfig, Vocabulary], CaptionModel]
    """from the config of a checkpoint"""
    initialize: Callable[[TrainConfig, Preprocessing, Vocabulary], tuple[CaptionModel, ModelConfig]]
    """from the config of a run and the size and resize rule of its data"""
    export: Callable[[Any], ExportedParts]
    """its encoder and step as functions of tensors, for an exporter to trace"""


def build_model(config: ModelConfig, vocabulary: Vocabulary) -> CaptionModel:
    """A captioner for the words of `vocabulary`, its parts loaded with the weights named."""
    return BUILDERS[config.family].build(config, vocabulary)


def initialize_model(
    config: TrainConfig, images: Preprocessing, vocabulary: Vocabulary
) -> tuple[CaptionModel, ModelConfig]:
    """A new captioner for training, and its config.

    `images` says the size and resize rule of the prepared data; mean and standard deviation are
    those that the encoder's weights were trained with. Raises `ValueError` where the run's config
    does not fit the family.
    """
    return BUILDERS[config.family].initialize(config, images, vocabulary)


def _show_attend_tell(config: ModelConfig, vocabulary: Vocabulary) -> ShowAttendTell:
    encoder = Encoder(**dataclasses.asdict(config.encoder))
    encoder.to(memory_format=torch.channels_last)  # the same numbers, nearly twice as fast on CPUs
    decoder = DecoderWithAttention(
        vocab_size=len(vocabulary),
        encoder_dim=encoder.encoder_dim,
        encoded_image_size=config.encoder.encoded_image_size,
        **dataclasses.asdict(config.decoder),
    )
    return ShowAttendTell(
        encoder=encoder,
        decoder=decoder,
        mean=config.preprocessing.mean,
        std=config.preprocessing.std,
        **_special_ids(vocabulary),
    )


def _new_show_attend_tell(
    config: TrainConfig, images: Preprocessing, vocabulary: Vocabulary
) -> tuple[ShowAttendTell, ModelConfig]:
    decoder, vectors = config.decoder, None
    if config.embeddings:
        vectors = load_embeddings(config.embeddings, vocabulary)
        decoder = dataclasses.replace(decoder, embed_dim=vectors.shape[1])
    model_config = ModelConfig(encoder=config.encoder, decoder=decoder)
    model = _show_attend_tell(model_config, vocabulary)
    model.encoder.check_side(images.size)
    if vectors is not None:
        model.decoder.load_pretrained_embeddings(vectors)
    mean, std = model.encoder.mean, model.encoder.std
    model.normalize = Normalize(mean, std)
    preprocessing = dataclasses.replace(images, mean=mean, std=std)
    return model, dataclasses.replace(model_config, preprocessing=preprocessing)


def _vit_gpt2(config: ModelConfig, vocabulary: Vocabulary) -> VitGpt2:
    from sat.models.hf_networks import build_encoder_decoder

    hf, ids = config.hf, _special_ids(vocabulary)
    del ids["unk_id"]
    network = build_encoder_decoder(
        hf.encoder,
        hf.decoder,
        image_size=config.preprocessing.size,
        vocab_size=len(vocabulary),
        encoder_config=hf.encoder_config,
        decoder_config=hf.decoder_config,
        **ids,
    )
    return wrap_network(network, config, vocabulary)


def wrap_network(network: Any, config: ModelConfig, vocabulary: Vocabulary) -> VitGpt2:
    """The captioner around a network that Hugging Face's own functions built or read."""
    from sat.models.vit_gpt2 import VitGpt2

    return VitGpt2(
        network,
        attention_layer=config.hf.attention_layer,
        attention_head=config.hf.attention_head,
        mean=config.preprocessing.mean,
        std=config.preprocessing.std,
        **_special_ids(vocabulary),
    )


def _new_vit_gpt2(
    config: TrainConfig, images: Preprocessing, vocabulary: Vocabulary
) -> tuple[VitGpt2, ModelConfig]:
    from sat.models.hf_pixels import encoder_statistics

    check(config.alpha_c == 0, "alpha_c", config.alpha_c, "vit_gpt2 has no such penalty, give 0")
    check(not config.embeddings, "embeddings", config.embeddings, "vit_gpt2 brings its own")
    if isinstance(vocabulary, Vocabulary):
        raise ValueError(
            f"{config.data_folder} holds the words of a word map: prepare the data with "
            "--tokenizer, the decoder's own (or train)"
        )
    mean, std = encoder_statistics(config.hf.encoder)
    model_config = ModelConfig(
        family=config.family,
        hf=config.hf,
        preprocessing=dataclasses.replace(images, mean=mean, std=std),
    )
    model = _vit_gpt2(model_config, vocabulary)
    _check_that_parts_run(model, config.hf, images.size)
    return model, model_config


def _check_that_parts_run(model: VitGpt2, hf: VitGpt2Config, side: int) -> None:
    """Raise `ValueError` unless one image passes through both parts, at once and in steps."""
    words = torch.tensor([[model.start_id, model.end_id, model.end_id]])
    try:
        with torch.inference_mode():
            features = model.encode(torch.zeros(1, 3, side, side))
            model(features, words, torch.tensor([words.shape[1]]))
            model.step(words[:, 0], model.start(features))
    except Exception as error:  # of any kind: the parts are transformers' own
        raise ValueError(
            f"hf.encoder {hf.encoder} and hf.decoder {hf.decoder} do not run together "
            f"({type(error).__name__}: {error}): choose others, as fresh:vit and fresh:gpt2"
        ) from error


def _special_ids(vocabulary: Vocabulary) -> dict[str, Any]:
    names = ("start_id", "end_id", "pad_id", "unk_id")
    return {name: getattr(vocabulary, name) for name in names}


BUILDERS = {
    "show_attend_tell": Builder(_show_attend_tell, _new_show_attend_tell, show_attend_tell_parts),
    "vit_gpt2": Builder(_vit_gpt2, _new_vit_gpt2, vit_gpt2_parts),
}
