"""Networks of Hugging Face: read, write, and join an encoder and a decoder by cross-attention."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, VisionEncoderDecoderModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from sat.config.checks import check
from sat.config.model import IMAGENET_MEAN, IMAGENET_STD
from sat.models.hf_configs import FRESH

logger = logging.get_logger(__name__)  # Python's own

Channels = tuple[float, float, float]
FRESH_MEAN: Channels = (0.5, 0.5, 0.5)
FRESH_STD: Channels = (0.5, 0.5, 0.5)
"""pixels from -1 to 1, for encoders that start from random weights"""
UNUSED = re.compile(
    r"^(encoder\.)?(vision_model\.)?(pooler|head)\.|\.position_ids$|\.attn\.(masked_)?bias$"
)
"""weights that no caption depends on: older folders lack them, or hold more of them"""
JOINT = re.compile("crossattention|cross_attn|encoder_attn")
"""weights of the attention to the image, which a language model alone does not have"""


def read(folder: str | Path) -> VisionEncoderDecoderModel:
    """The network in a local folder, in single precision and evaluation mode.

    Raises `ValueError` with their names where weights are missing, left over or of other shapes.
    """
    loading: Any = VisionEncoderDecoderModel.from_pretrained
    with without_progress_bars():
        network, found = loading(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,  # as the pixels are
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below
        )
    found["mismatched_keys"] = [name for name, *_ in found["mismatched_keys"]]
    for kind, problem in (
        ("missing", "misses the weights"),
        ("unexpected", "holds weights that its model does not have:"),
        ("mismatched", "holds weights of other shapes than its config.json says:"),
    ):
        if wrong := _names(found[f"{kind}_keys"]):
            raise ValueError(
                f"{folder} {problem} {wrong}: copy the whole folder again, weights and config.json "
                "of one model"
            )
    return network.eval()


def write(
    network: VisionEncoderDecoderModel, folder: str | Path, generation: dict[str, Any]
) -> None:
    """Save the network as Hugging Face does, with these values for its `generate`."""
    for name, value in generation.items():
        setattr(network.generation_config, name, value)
    with without_progress_bars():
        network.save_pretrained(folder)


def _names(weights: Iterable[str], few: int = 5) -> str:
    """The first few of those weights that captions depend on, and how many more there are."""
    names = [name for name in sorted(weights) if not UNUSED.search(name)]
    more = f" and {len(names) - few} more" if len(names) > few else ""
    return ", ".join(names[:few]) + more


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


def _pretrained(family: Any, name: str, **options: Any) -> Any:
    """A part with its weights; a warning names those that start from random values."""
    part, found = family.from_pretrained(
        name, trust_remote_code=False, output_loading_info=True, **options
    )
    if lacking := _names(key for key in found["missing_keys"] if not JOINT.search(key)):
        logger.warning(f"{name} has no weights {lacking}: they start from random values")
    return part


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
        vision = _pretrained(AutoModel, encoder)
    if decoder.startswith(FRESH):
        config = AutoConfig.for_model(decoder.removeprefix(FRESH), **fresh_decoder)
        language = AutoModelForCausalLM.from_config(config)
    else:
        config = AutoConfig.from_pretrained(decoder, trust_remote_code=False)
        config.is_decoder = config.add_cross_attention = True
        language = _pretrained(AutoModelForCausalLM, decoder, config=config)
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
