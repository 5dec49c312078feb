"""Networks of Hugging Face: read, write, and join an encoder and a decoder by cross-attention."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    VisionEncoderDecoderModel,
)
from transformers.utils import logging

from sat.config.checks import check
from sat.hub import local_folder
from sat.reading import read_object, reading

logger = logging.get_logger(__name__)  # Python's own
FRESH = "fresh:"
"""before the model type of a part that starts from random weights"""

PARTS = "give a model of Hugging Face, or fresh: and a model type"
MAX_LAYERS, MAX_WIDTH, MAX_TOKENS = 256, 16384, 10**6
"""more would take all memory or time"""

Channels = tuple[float, float, float]
FRESH_MEAN: Channels = (0.5, 0.5, 0.5)
FRESH_STD: Channels = (0.5, 0.5, 0.5)
"""pixels from -1 to 1, for encoders that start from random weights"""
UNUSED = re.compile(
    r"^(encoder\.)?(vision_model\.)?(pooler|head)\.|\.position_ids$|\.attn\.(masked_)?bias$"
)
"""weights that no caption depends on: older folders lack them, or hold more of them"""
JOINT = re.compile("crossattention|cross_attn|encoder_attn|enc_to_dec_proj")
"""weights of the attention to the image, which a language model alone does not have"""

REGISTERS = ("num_register_tokens", "num_registers", "num_cls_tokens", "n_cls_tokens")
"""numbers of special tokens in the configs of encoders; a single class token has none"""


def read(folder: str | Path) -> VisionEncoderDecoderModel:
    """The network in a local folder, in single precision and evaluation mode.

    Raises `ValueError` with their names where weights are missing, left over or of other shapes.
    """
    config = read_object(Path(folder, "config.json"), "copy it again")
    for part in ("encoder", "decoder"):
        for key, value in dict(config[part]).items():
            _check_size(f"{folder}: {part}.{key}", value, MAX_TOKENS)
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


def _check_size(name: str, value: Any, most: int) -> None:
    """`check` that a whole number of a network is at most `most`, or `MAX_LAYERS`."""
    most = MAX_LAYERS if "layer" in name else most
    check(not isinstance(value, int) or value <= most, name, value, f"give at most {most}")


def _names(weights: Iterable[str], few: int = 5) -> str:
    """The first few of those weights that captions depend on, and how many more there are."""
    names = [name for name in sorted(weights) if not UNUSED.search(name)]
    more = f" and {len(names) - few} more" if len(names) > few else ""
    return ", ".join(names[:few]) + more


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide transformers' progress bars, shown for files of any size, and its reports of weights.

    Weights that do not fit are named in the errors of `read`.
    """
    restore = logging.enable_progress_bar if logging.is_progress_bar_enabled() else None
    level = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if restore:
            restore()


def _build_fresh(
    build: Callable[[Any], Any], part: str, name: str, values: dict[str, Any], data: dict[str, Any]
) -> Any:
    """The part "encoder" or "decoder" of a `name` "fresh:" and model type, with random weights.

    Its configuration has `values`, and those that the `data` decide. Unless it is given,
    `initializer_range` is width**-0.5, so that what passes through a layer neither shrinks nor
    swells: the usual 0.02 suits a width of 768, a small network that starts with it learns slowly.
    Raises `ValueError` for a type, key or value that Hugging Face does not take.
    """
    kind, field = name.removeprefix(FRESH), f"hf.{part}_config"
    remedy = "give fresh: and a model type of Hugging Face, as fresh:vit or fresh:gpt2"
    check(kind in CONFIG_MAPPING, f"hf.{part}", name, remedy)
    default = CONFIG_MAPPING[kind]()
    if isinstance(getattr(default, "image_size", None), (list, tuple)):  # height and width
        data = {key: [value] * 2 if key == "image_size" else value for key, value in data.items()}
    known = {*default.to_dict(), *default.attribute_map}
    for key, value in values.items():
        check(key not in data, f"{field}.{key}", value, "leave it out, the data decide it")
        nearest = ", ".join(difflib.get_close_matches(key, known, cutoff=0))
        remedy = f"{kind} has no such key, the nearest are {nearest}"
        check(key in known, f"{field}.{key}", value, remedy)
        _check_size(f"{field}.{key}", value, MAX_WIDTH)
    try:
        config = AutoConfig.for_model(kind, **values, **data)
        if "initializer_range" not in values:
            config.initializer_range = config.hidden_size**-0.5
        return build(config)
    except Exception as error:  # its kind differs between versions of transformers
        raise ValueError(f"{field} is {values}, with which {kind} fails: {error}") from error


def _pretrained(family: Any, name: str | Path, **options: Any) -> Any:
    """A part with its weights; a warning names those that start from random values."""
    with without_progress_bars(), reading(name, PARTS):
        part, found = family.from_pretrained(
            name, trust_remote_code=False, output_loading_info=True, **options
        )
    if lacking := _names(key for key in found["missing_keys"] if not JOINT.search(key)):
        logger.warning(f"{name} has no weights {lacking}: they start from random values")
    return part


def first_position(decoder: torch.nn.Module) -> int:
    """The position of a decoder's first token: RoBERTa and its kin begin after the padding's."""
    tables = [getattr(part, "position_embeddings", None) for part in decoder.modules()]
    paddings = [getattr(table, "padding_idx", None) for table in tables]
    return max(0 if padding is None else padding + 1 for padding in paddings)


def patch_places(encoder: Any, tokens: int) -> slice:
    """The places of the square of patches among the tokens of an encoder.

    Before them stand its registers and up to two class tokens (DeiT's second one is for
    distillation), after them YOLOS's detection tokens. Raises `ValueError` for other numbers.
    """
    config = encoder.config
    after = getattr(config, "num_detection_tokens", 0)
    registers = sum(getattr(config, name, 0) for name in REGISTERS)
    registers += getattr(getattr(encoder, "timm_model", None), "num_prefix_tokens", 0)
    rest = tokens - after - registers  # at most one square is up to two below it
    patches = math.isqrt(max(rest, 0)) ** 2
    remedy = f"which of them are patches is not known of {config.model_type}, choose another one"
    check(
        patches > 0 and rest - patches <= 2, "the number of tokens of the encoder", tokens, remedy
    )
    return slice(tokens - after - patches, tokens - after)


def build_encoder_decoder(
    encoder: str,
    decoder: str,
    *,
    image_size: int,
    vocab_size: int,
    start_id: int,
    end_id: int,
    pad_id: int,
    encoder_config: dict[str, Any],
    decoder_config: dict[str, Any],
) -> VisionEncoderDecoderModel:
    """Join an encoder and a decoder with new cross-attention.

    Each is named by Hub id, local folder, or "fresh:" and its model type: then its weights are
    random, and `encoder_config` or `decoder_config` holds values of its configuration. Raises
    `ValueError` where they do not fit the images or the vocabulary.
    """
    if encoder.startswith(FRESH):
        data: dict[str, Any] = {"image_size": image_size}
        build = AutoModel.from_config
        vision = _build_fresh(build, "encoder", encoder, encoder_config, data)
    else:
        vision = _pretrained(AutoModel, local_folder(encoder))
    if decoder.startswith(FRESH):
        data = {"vocab_size": vocab_size, "bos_token_id": start_id, "eos_token_id": end_id}
        data |= {"pad_token_id": pad_id, "is_decoder": True, "add_cross_attention": True}
        build = AutoModelForCausalLM.from_config
        language = _build_fresh(build, "decoder", decoder, decoder_config, data)
    else:
        folder = local_folder(decoder)
        with reading(folder, PARTS):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config.is_decoder = config.add_cross_attention = True
        language = _pretrained(AutoModelForCausalLM, folder, config=config)
    sees = vision.main_input_name == "pixel_values" and hasattr(vision.config, "image_size")
    remedy = "it is no vision transformer, give one such as google/vit-base-patch16-224"
    check(sees, "hf.encoder", encoder, remedy)
    remedy = "it hides random parts of each image, give one such as google/vit-base-patch16-224"
    check(vision.config.model_type != "vit_mae", "hf.encoder", encoder, remedy)
    remedy = "it has no attention to an image, give one such as gpt2, bert or roberta"
    check(any(map(JOINT.search, language.state_dict())), "hf.decoder", decoder, remedy)
    expected, known = vision.config.image_size, language.config.vocab_size
    sides = {*expected} if isinstance(expected, (list, tuple)) else {expected}
    remedy = f"it sees no squares ({expected} px), give others"
    check(len(sides) == 1, "hf.encoder", encoder, remedy)
    (side,) = sides
    remedy = f"{encoder} sees {side} px: prepare the data with --image_size {side}"
    check(side == image_size, "image_size", image_size, remedy)
    remedy = f"{decoder} has {known}: prepare the data with --tokenizer {decoder}"
    check(vocab_size <= known, "the number of tokens", vocab_size, remedy)
    network = VisionEncoderDecoderModel(encoder=vision, decoder=language)
    part: Any
    for part in (network.config, network.generation_config):
        part.decoder_start_token_id, part.eos_token_id = start_id, end_id
        part.bos_token_id, part.pad_token_id = start_id, pad_id
    return network.eval()
