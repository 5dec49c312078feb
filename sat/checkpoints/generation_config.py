"""Decoding options to the values of Hugging Face's generation_config.json, and back.

Their lengths count the start token, ours do not.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from sat.config.checks import from_dict
from sat.config.decoding import SAMPLING, DecodingConfig, TokenRules

logger = logging.getLogger(__name__)

LENGTHS = ("max_length", "max_new_tokens", "min_length", "min_new_tokens")
SHARED = (
    *("length_penalty", "early_stopping", "no_repeat_ngram_size", "repetition_penalty"),
    *("num_return_sequences", "do_sample"),
)
"""fields with the same name and meaning on both sides"""
OTHER_SAMPLING = ("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
HARMLESS = (
    *("use_cache", "return_dict_in_generate", "transformers_version", "compile_config"),
    *("disable_compile", "low_memory", "prefill_chunk_size", "trust_remote_code"),
    *("encoder_no_repeat_ngram_size", "encoder_repetition_penalty", "num_beams"),
    *("pad_token_id", "bos_token_id", "decoder_start_token_id", "eos_token_id"),
)
"""values that change no caption, and those that are read apart"""
HARMLESS_STARTS = ("_", "output_", "cache_", "assistant_", "num_assistant_", "is_assistant")


def decoding_from_generation(values: dict[str, Any]) -> DecodingConfig:
    """The options with which a search finds the captions of Hugging Face's `generate`.

    `values` are those of a generation config. One warning names those that change captions there
    and are not supported.
    """
    values = {name: value for name, value in values.items() if value is not None}
    samples = bool(values.get("do_sample"))
    longest = values.get("max_new_tokens", values.get("max_length", 21) - 1)
    shortest = values.get("min_new_tokens", max(values.get("min_length", 0) - 1, 0))
    fields = {"length_penalty": 1.0} | {name: values[name] for name in SHARED if name in values}
    if samples:
        fields |= {"top_k": 50} | {name: values[name] for name in SAMPLING if name in values}
    _warn_of_unsupported(values, samples)
    return DecodingConfig(
        rule="hugging_face",
        beam_size=values.get("num_beams", 1),
        max_length=longest,
        min_length=min(shortest, longest),
        tokens=_token_rules(values),
        **fields,
    )


def generation_from_decoding(
    decoding: DecodingConfig, start_id: int, end_id: int, pad_id: int
) -> dict[str, Any]:
    """The values of a generation config that say the same; None for those that have no effect.

    transformers refuses to save options of beams or of sampling for a search that has none.
    """
    values = {name: getattr(decoding, name) for name in SHARED}
    values |= {"do_sample": decoding.samples, "num_beams": decoding.beam_size}
    values |= dict.fromkeys(LENGTHS) | {"max_length": decoding.max_length + 1}
    if decoding.min_length:
        values["min_length"] = decoding.min_length + 1
    if decoding.samples:
        values |= {name: getattr(decoding, name) for name in SAMPLING}
    else:
        values |= dict.fromkeys((*SAMPLING, *OTHER_SAMPLING))
    if decoding.beam_size == 1:
        values |= {"length_penalty": None, "early_stopping": None}
    tokens = {name: _lists(value) for name, value in dataclasses.asdict(decoding.tokens).items()}
    ends = [end_id, *decoding.tokens.eos_token_id]
    ids = {"decoder_start_token_id": start_id, "pad_token_id": pad_id}
    return values | tokens | ids | {"eos_token_id": ends if len(ends) > 1 else end_id}


def _token_rules(values: dict[str, Any]) -> TokenRules:
    """The rules on tokens; the first of several ends is the vocabulary's own."""
    rules: dict[str, Any] = {}
    for item in dataclasses.fields(TokenRules):
        value = values.get(item.name)
        if item.name == "eos_token_id":
            value = value[1:] if isinstance(value, list) else None
        elif isinstance(value, int) and item.name != "forced_bos_token_id":
            value = [value]
        if value is not None:
            rules[item.name] = value
    return from_dict(TokenRules, rules)


def _lists(value: Any) -> Any:
    """Tuples as lists; None for an empty one."""
    if isinstance(value, tuple):
        return [_lists(part) for part in value] or None
    return value


def _warn_of_unsupported(values: dict[str, Any], samples: bool) -> None:
    known = {*HARMLESS, *SHARED, *SAMPLING, *LENGTHS}
    known |= {item.name for item in dataclasses.fields(TokenRules)}
    if not samples:
        known |= {*OTHER_SAMPLING}
    neutral: tuple[Any, ...] = (0, 1, [], {})
    names = [
        name
        for name, value in values.items()
        if name not in known
        and not name.startswith(HARMLESS_STARTS)
        and (value is True or value not in neutral)
    ]
    if samples and values.get("num_beams", 1) > 1:
        names.append("num_beams with do_sample")
    if names:
        logger.warning(
            f"captions may differ from Hugging Face's generate: {', '.join(names)} of the "
            "generation config is not supported"
        )
