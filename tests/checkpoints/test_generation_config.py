"""Decoding options against the generation config of transformers that says the same."""

from __future__ import annotations

import json
import logging

import pytest
from transformers import GenerationConfig

from sat.checkpoints.generation_config import decoding_from_generation, generation_from_decoding
from sat.config.checks import from_dict, to_dict
from sat.config.decoding import DecodingConfig, TokenRules

IDS = (1, 2, 3)


@pytest.mark.parametrize(
    "options",
    [
        DecodingConfig(),
        DecodingConfig(beam_size=1),
        DecodingConfig(beam_size=1, length_penalty=1.5),
        DecodingConfig(beam_size=1, early_stopping="never"),
        DecodingConfig(beam_size=4, length_penalty=0.7, early_stopping=True, min_length=3),
        DecodingConfig(beam_size=1, do_sample=True, top_p=0.9, num_return_sequences=5),
        DecodingConfig(beam_size=1, temperature=0.5, top_k=7),
        DecodingConfig(
            tokens=TokenRules(
                eos_token_id=(5, 6),
                forced_bos_token_id=4,
                forced_eos_token_id=(2,),
                suppress_tokens=(8, 9),
                begin_suppress_tokens=(7,),
                bad_words_ids=((7,), (8, 9)),
            )
        ),
    ],
    ids=str,
)
def test_generation_from_decoding_is_valid_and_reads_back(options, tmp_path):
    """transformers refuses to save options of beams or sampling where there are none."""
    assert from_dict(DecodingConfig, json.loads(json.dumps(to_dict(options)))) == options
    GenerationConfig(**generation_from_decoding(options, *IDS)).save_pretrained(tmp_path)
    values = GenerationConfig.from_pretrained(tmp_path).to_dict()
    assert (values["decoder_start_token_id"], values["pad_token_id"]) == (1, 3)
    assert values["eos_token_id"] == ([2, 5, 6] if options.tokens.eos_token_id else 2)
    found = decoding_from_generation(values)
    assert found.rule == "hugging_face"
    names = ["beam_size", "max_length", "min_length", "no_repeat_ngram_size", "tokens", "samples"]
    names += ["num_return_sequences", "repetition_penalty"]
    if options.beam_size > 1:
        names += ["length_penalty", "early_stopping"]
    if options.samples:
        names += ["temperature", "top_k", "top_p"]
    for name in names:
        assert getattr(found, name) == getattr(options, name), name


def test_decoding_from_an_empty_generation_config_is_that_of_generate():
    options = decoding_from_generation(GenerationConfig().to_dict())
    assert (options.beam_size, options.max_length, options.samples) == (1, 20, False)
    assert decoding_from_generation({"do_sample": True}).top_k == 50
    assert not decoding_from_generation({"temperature": 0.3, "top_p": 0.5}).samples
    both = decoding_from_generation({"max_length": 8, "max_new_tokens": 30, "min_new_tokens": 4})
    assert (both.max_length, both.min_length) == (30, 4)


def test_decoding_from_generation_names_in_one_warning_what_is_not_supported(caplog):
    values = {"exponential_decay_length_penalty": [3, 1.1], "renormalize_logits": True}
    decoding_from_generation(values | {"do_sample": True, "typical_p": 0.4, "num_beams": 3})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for name in (*values, "typical_p", "num_beams with do_sample"):
        assert name in record.message
    caplog.clear()
    harmless = {"renormalize_logits": False, "num_assistant_tokens": 20, "output_scores": True}
    decoding_from_generation(harmless | {"num_beams": 3, "typical_p": 0.4})
    assert not caplog.records, "what has no effect in transformers is not named"
