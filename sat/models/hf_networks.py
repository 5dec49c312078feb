"""Networks of Hugging Face: read, write, and join an encoder and a decoder by cross-attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, VisionEncoderDecoderModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from sat.config.checks import check
from sat.config.decoding import DecodingConfig
from sat.config.model import IMAGENET_MEAN, IMAGENET_STD
from sat.models.hf_configs import FRESH

Channels = tuple[float, float, float]
FRESH_MEAN: Channels = (0.5, 0.5, 0.5)
FRESH_STD: Channels = (0.5, 0.5, 0.5)
"""pixels from -1 to 1, for encoders that start from random weights"""


def read(folder: str | Path) -> VisionEncoderDecoderModel:
    """The network in a local folder, in evaluation mode."""
    with without_progress_bars():
        return VisionEncoderDecoderModel.from_pretrained(folder, local_files_only=True).eval()


def write(network: VisionEncoderDecoderModel, folder: str | Path, decoding: DecodingConfig) -> None:
    """Save the network as Hugging Face does, with our decoding options for its `generate`."""
    generation = network.generation_config
    generation.num_beams, generation.max_length = decoding.beam_size, decoding.max_length + 1
    searches = decoding.beam_size > 1  # one beam with another penalty than 1.0 is not valid there
    generation.length_penalty = decoding.length_penalty if searches else 1.0
    with without_progress_bars():
        network.save_pretrained(folder)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide the progress bars that transformers shows for files of any size."""
    restore = logging.enable_progress_bar if logging.is_progress_bar_enabled() else None
    logging.disable_progress_bar()
    yield
    if restore:
        restore()


def preprocessor(name: str) -> dict[str, Any]:
    """The values of an encoder's preprocessor_config.json, by Hub id or local folder."""
    return ImageProcessingMixin.get_image_processor_dict(name)[0]


def pixel_statistics(values: dict[str, Any]) -> tuple[Channels, Channels]:
    """Mean and standard deviation of the channels that a preprocessor_config.json names."""
    if not values.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, std = values.get("image_mean", IMAGENET_MEAN), values.get("image_std", IMAGENET_STD)
    (r, g, b), (r_std, g_std, b_std) = mean, std
    return (r, g, b), (r_std, g_std, b_std)


def encoder_statistics(encoder: str) -> tuple[Channels, Channels]:
    """Mean and standard deviation that an encoder was trained with; a fresh one takes -1 to 1."""
    if encoder.startswith(FRESH):
        return FRESH_MEAN, FRESH_STD
    return pixel_statistics(preprocessor(encoder))


def build_encoder_decoder(
    encoder: str,
    decoder: str,
    *,
    image_size: int,
    vocab_size: int,
    start_id: int,
    end_id: int,
    pad_id: int,
    fresh_encoder: dict[str, Any],
    fresh_decoder: dict[str, Any],
) -> VisionEncoderDecoderModel:
    """Join an encoder and a decoder with new cross-attention.

    Each is named by Hub id, local folder, or "fresh:" and its kind: then its weights are random and
    `fresh_encoder` or `fresh_decoder` holds the values of its configuration. Raises `ValueError`
    where they do not fit the images or the vocabulary.
    """
    if encoder.startswith(FRESH):
        config = AutoConfig.for_model(encoder.removeprefix(FRESH), **fresh_encoder)
        vision = AutoModel.from_config(config)
    else:
        vision = AutoModel.from_pretrained(encoder)
    if decoder.startswith(FRESH):
        config = AutoConfig.for_model(decoder.removeprefix(FRESH), **fresh_decoder)
        language = AutoModelForCausalLM.from_config(config)
    else:
        config = AutoConfig.from_pretrained(decoder)
        config.is_decoder = config.add_cross_attention = True
        language = AutoModelForCausalLM.from_pretrained(decoder, config=config)
    expected, known = vision.config.image_size, language.config.vocab_size
    remedy = f"{encoder} sees {expected} px: prepare the data with --image_size {expected}"
    check(expected == image_size, "image_size", image_size, remedy)
    remedy = f"{decoder} has {known}: prepare the data with --tokenizer {decoder}"
    check(vocab_size <= known, "the number of tokens", vocab_size, remedy)
    network = VisionEncoderDecoderModel(encoder=vision, decoder=language)
    settings: tuple[Any, Any] = (network.config, network.generation_config)
    for part in settings:
        part.decoder_start_token_id, part.eos_token_id = start_id, end_id
        part.bos_token_id, part.pad_token_id = start_id, pad_id
    return network.eval()
