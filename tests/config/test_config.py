"""Configs: what they refuse and in which words, and what comes back from JSON and from flags."""

from __future__ import annotations

import dataclasses
import json
import math
import typing

import pytest
from jsonargparse import ArgumentParser

from sat.cli import add_flags
from sat.config.checks import from_dict, to_dict
from sat.config.decoding import DecodingConfig, TokenRules
from sat.config.model import DecoderConfig, EncoderConfig, ModelConfig, Preprocessing, VitGpt2Config
from sat.config.objectives import HardAttentionConfig
from sat.config.training import StageConfig, TrainConfig

CONFIGS = [
    Preprocessing,
    EncoderConfig,
    DecoderConfig,
    ModelConfig,
    DecodingConfig,
    StageConfig,
    TrainConfig,
]
LITERALS = [
    (cls, name, typing.get_args(hint))
    for cls in CONFIGS
    for name, hint in typing.get_type_hints(cls).items()
    if typing.get_origin(hint) is typing.Literal
]


def nested(levels: int) -> list:
    """A list within a list ..."""
    return [nested(levels - 1)] if levels else []


REFUSED = [
    (Preprocessing, {"size": 0}, "size is 0: give a whole number in [1, 4096]"),
    (Preprocessing, {"resize": "fit"}, "resize is 'fit': give squash, crop, inner_crop, or steps"),
    (
        Preprocessing,
        {"resize": "shortest_edge=256,center_crop=224"},
        "resize is 'shortest_edge=256,center_crop=224': give squash",
    ),
    (Preprocessing, {"resize": "size=256:cubic"}, "the filter of resize is 'cubic': give nearest"),
    (
        Preprocessing,
        {"std": (1.0, 0.0, 1.0)},
        "std is (1.0, 0.0, 1.0): give a list of 3, each a number in (0, 1",
    ),
    (DecoderConfig, {"attention_dim": 0}, "attention_dim is 0: give a whole number in [1, 8192]"),
    (DecoderConfig, {"embed_dim": -1}, "embed_dim is -1: give a whole number in [1, 8192]"),
    (DecoderConfig, {"decoder_dim": 0}, "decoder_dim is 0: give a whole number in [1, 8192]"),
    (DecoderConfig, {"dropout": 1.0}, "dropout is 1.0: give a number in [0, 1)"),
    (DecoderConfig, {"dropout": -0.1}, "dropout is -0.1: give a number in [0, 1)"),
    (DecoderConfig, {"dropout_sites": ("fc",)}, "dropout_sites is 'fc': choose one of mean, hid"),
    (HardAttentionConfig, {"reward": -1.0}, "reward is -1.0: give a number in [0, 1000]"),
    (HardAttentionConfig, {"entropy": -1.0}, "entropy is -1.0: give a number in [0, 1000]"),
    (HardAttentionConfig, {"baseline": 1.0}, "baseline is 1.0: give a number in [0, 1)"),
    (DecodingConfig, {"beam_size": 0}, "beam_size is 0: give a whole number in [1, 1024]"),
    (DecodingConfig, {"max_length": 0}, "max_length is 0: give a whole number in [1, 4096]"),
    (
        DecodingConfig,
        {"min_length": -1},
        "min_length is -1: give a whole number in [0, 4096]",
    ),
    (
        DecodingConfig,
        {"min_length": 9, "max_length": 8},
        "min_length is 9: give a number from 0 to",
    ),
    (
        DecodingConfig,
        {"no_repeat_ngram_size": -1},
        "no_repeat_ngram_size is -1: give a whole number in [0, 4096]",
    ),
    (
        DecodingConfig,
        {"num_return_sequences": 0},
        "num_return_sequences is 0: give a whole number in [1, 10000",
    ),
    (
        DecodingConfig,
        {"num_return_sequences": 4, "beam_size": 3},
        "num_return_sequences is 4: one search returns at most beam_size (3) captions",
    ),
    (DecodingConfig, {"temperature": 0.0}, "temperature is 0.0: give a number in [1e-30, 1e6]"),
    (DecodingConfig, {"temperature": 1e-40}, "temperature is 1e-40: give a number in [1e-30, 1e6]"),
    (DecodingConfig, {"top_k": -1}, "top_k is -1: give a whole number in [0, 1e9]"),
    (DecodingConfig, {"top_p": 0.0}, "top_p is 0.0: give a number in (0, 1]"),
    (DecodingConfig, {"top_p": 1.1}, "top_p is 1.1: give a number in (0, 1]"),
    (StageConfig, {"epochs": -1}, "epochs is -1: give a whole number in [0, 1e6]"),
    (StageConfig, {"batch_size": 0}, "batch_size is 0: give a whole number in [1, 65536]"),
    (StageConfig, {"learning_rate": 0.0}, "learning_rate is 0.0: give a number in (0, 1e30]"),
    (
        StageConfig,
        {"encoder_learning_rate": -1.0},
        "encoder_learning_rate is -1.0: give a number in [0, 1e30]",
    ),
    (StageConfig, {"decay": 0.0}, "decay is 0.0: give a number in (0, 1]"),
    (StageConfig, {"decay": 1.5}, "decay is 1.5: give a number in (0, 1]"),
    (StageConfig, {"decay_patience": 0}, "decay_patience is 0: give a whole number in [1, 1e6]"),
    (StageConfig, {"stop_patience": 0}, "stop_patience is 0: give a whole number in [1, 1e6]"),
    (StageConfig, {"accumulate": 0}, "accumulate is 0: give a whole number in [1, 65536]"),
    (StageConfig, {"samples": 1}, "samples is 1: give at least 2: each judges the others"),
    (
        TrainConfig,
        {"batches": "equal_length", "stage1": StageConfig(captions_per_sample=5)},
        "batches is 'equal_length': captions_per_sample mixes lengths: leave it 1",
    ),
    (
        TrainConfig,
        {"cache_features": True, "encoder": EncoderConfig(batch_norm="drifts")},
        "cache_features is True: leave it out, features change while the encoder's",
    ),
    (
        TrainConfig,
        {"init": "runs/a/best", "embeddings": "glove.txt"},
        "embeddings is 'glove.txt': leave it out, init brings word vectors",
    ),
    (TrainConfig, {"stages": ()}, "stages is (): choose from 1, 2 and 3, in that"),
    (TrainConfig, {"stages": (1, 4)}, "stages is (1, 4): choose from 1, 2 and 3, in"),
    (TrainConfig, {"label_smoothing": 1.0}, "label_smoothing is 1.0: give a number in [0, 1)"),
    (StageConfig, {"ema": 1.0}, "ema is 1.0: give a number in [0, 1)"),
    (TrainConfig, {"alpha_c": -0.5}, "alpha_c is -0.5: give a number in [0, 1e6]"),
    (TrainConfig, {"grad_clip": -1.0}, "grad_clip is -1.0: give a number in [0, 1e9]"),
    (
        TrainConfig,
        {"validation_batch_size": 0},
        "validation_batch_size is 0: give a whole number in [1, 65536]",
    ),
    (TrainConfig, {"workers": -1}, "workers is -1: give a whole number in [0, 1024]"),
    (DecodingConfig, {"max_length": 100000}, "max_length is 100000: give a whole number in [1"),
    (DecodingConfig, {"beam_size": 100000}, "beam_size is 100000: give a whole number in [1, "),
    (DecoderConfig, {"decoder_dim": 16000}, "decoder_dim is 16000: give a whole number in [1"),
    (DecodingConfig, {"beam_size": True}, "beam_size is True: give a whole number in [1, 1024]"),
    (DecodingConfig, {"beam_size": 3.0}, "beam_size is 3.0: give a whole number in [1, 1024]"),
    (DecodingConfig, {"beam_size": None}, "beam_size is None: give a whole number in [1, 10"),
    (DecodingConfig, {"forbid_unknown": 1}, "forbid_unknown is 1: give true or false"),
    (DecodingConfig, {"early_stopping": 1}, "early_stopping is 1: give true or false or never"),
    (DecodingConfig, {"length_penalty": math.inf}, "length_penalty is inf: give a number in ["),
    (DecodingConfig, {"length_penalty": 2**2000}, "length_penalty is 1148130695"),
    (DecodingConfig, {"tokens": {}}, "tokens is {}: give TokenRules"),
    (TokenRules, {"suppress_tokens": ("a",)}, "suppress_tokens is ('a',): give a list, each"),
    (TokenRules, {"bad_words_ids": (1,)}, "bad_words_ids is (1,): give a list, each a list, eac"),
    (Preprocessing, {"mean": (math.nan, 0, 0)}, "mean is (nan, 0, 0): give a list of 3, each"),
    (Preprocessing, {"mean": (0.5, 0.5)}, "mean is (0.5, 0.5): give a list of 3, each a"),
    (Preprocessing, {"resize": "size=99999x99999"}, "resize is 'size=99999x99999': give squas"),
    (DecoderConfig, {"attention_depth": True}, "attention_depth is True: choose one of 1, 2"),
    (EncoderConfig, {"backbone": ["a"]}, "backbone is ['a']: give a text"),
    (EncoderConfig, {"blocks": 0}, "blocks is 0: give nothing or a whole number in [1, 1000]"),
    (EncoderConfig, {"weights": "a\0"}, "weights is 'a\\x00': give a text"),
    (VitGpt2Config, {"encoder_config": {"a": nested(9)}}, "encoder_config is {'a': [[[[[[...]]"),
    (VitGpt2Config, {"encoder_config": {"a": math.nan}}, "encoder_config is {'a': nan}: give "),
    (TrainConfig, {"save_minutes": -1.0}, "save_minutes is -1.0: give a number in [0, 1e6]"),
]

ALLOWED = [
    DecoderConfig(dropout=0.0),
    DecodingConfig(min_length=8, max_length=8, num_return_sequences=5, top_p=1.0),
    DecodingConfig(num_return_sequences=9, beam_size=1, do_sample=True),
    StageConfig(samples=1, baseline="greedy", objective="self_critical"),
    StageConfig(epochs=0, decay=1.0, decay_patience=1, stop_patience=1),
    TrainConfig(stages=(1, 3), label_smoothing=0.0, alpha_c=0.0, grad_clip=0.0, save_minutes=0.0),
]

UNUSUAL = TrainConfig(
    data_name="toy",
    encoder=EncoderConfig(blocks=3, encoded_image_size=14),
    decoder=DecoderConfig(dropout=0.0, gate="scalar"),
    stage2=StageConfig(epochs=1, encoder_from_block=2, encoder_learning_rate=1e-5),
    stages=(1, 2),
    validation=DecodingConfig(beam_size=3, top_p=0.5),
    embeddings="glove.txt",
    resume=True,
)


@pytest.mark.parametrize(("cls", "values", "sentence"), REFUSED)
def test_config_with_an_invalid_value_names_it_and_the_remedy(cls, values, sentence):
    with pytest.raises(ValueError) as caught:
        cls(**values)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("config", ALLOWED, ids=repr)
def test_config_with_values_on_the_edge_is_valid(config):
    assert from_dict(type(config), json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(("cls", "name", "choices"), LITERALS)
def test_config_with_an_unknown_choice_lists_the_choices(cls, name, choices):
    for choice in choices:
        assert getattr(cls(**{name: choice}), name) == choice
    with pytest.raises(ValueError) as caught:
        cls(**{name: "other"})
    assert str(caught.value) == f"{name} is 'other': choose one of {', '.join(map(str, choices))}"


def test_literal_fields_include_the_known_choices():
    names = {name for _, name, _ in LITERALS}
    assert {"activation", "gate", "initial_state", "output", "precision"} <= names


@pytest.mark.parametrize(
    "config",
    [
        *(cls() for cls in CONFIGS),
        UNUSUAL,
        ModelConfig(
            encoder=EncoderConfig(weights="none"),
            preprocessing=Preprocessing(size=32, resize="crop", mean=(0.1, 0.2, 0.3)),
        ),
    ],
    ids=lambda config: type(config).__name__,
)
def test_config_through_json_comes_back_equal(config):
    again = from_dict(type(config), json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert hash(again) == hash(config)  # a list in the place of a tuple has none
    assert type(again) is type(config)


def test_from_dict_with_missing_keys_takes_defaults():
    assert from_dict(TrainConfig, {"stage1": {"epochs": 3}}) == TrainConfig(
        stage1=StageConfig(epochs=3)
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"encodr": {}}, "unknown key 'encodr' in ModelConfig: the nearest that it has is encoder"),
        (
            {"decoder": {"dims": 3}},
            "unknown key 'dims' in DecoderConfig: the nearest that it has is embed_dim",
        ),
        ({"decoder": []}, "DecoderConfig is []: give an object with attention_dim, embed_dim"),
        ([], "ModelConfig is []: give an object with encoder, decoder, preprocessing, decoding"),
        ({"decoder": {"gate": "wide"}}, "gate is 'wide': choose one of vector, scalar, none"),
    ],
)
def test_from_dict_with_unknown_keys_or_values_names_them(values, sentence):
    with pytest.raises(ValueError) as caught:
        from_dict(ModelConfig, values)
    assert str(caught.value).startswith(sentence)


def test_from_dict_of_an_earlier_version_leaves_out_its_sizes():
    earlier = {"hf": {"positions": 64, "encoder_layers": 4, "attention_layer": 2}}
    assert from_dict(ModelConfig, earlier).hf == VitGpt2Config(attention_layer=2)


def test_config_field_assignment_raises_frozen_instance_error():
    for cls in CONFIGS:
        config = cls()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, dataclasses.fields(cls)[0].name, None)


@pytest.mark.parametrize(
    ("choices", "samples"),
    [
        ({}, False),
        ({"beam_size": 9, "length_penalty": 0.7, "seed": 3}, False),
        ({"do_sample": True}, True),
        ({"temperature": 0.9}, True),
        ({"top_k": 1}, True),
        ({"top_p": 0.9}, True),
    ],
)
def test_decoding_samples_is_true_for_sampling_options(choices, samples):
    assert DecodingConfig(**choices).samples is samples


def test_changed_with_do_sample_false_switches_off_the_sampling_that_was_not_asked_for():
    sampler = DecodingConfig(beam_size=1, do_sample=True, temperature=0.5, top_k=50, top_p=0.9)
    assert sampler.changed(num_beams=3, do_sample=False) == DecodingConfig(beam_size=3)
    assert sampler.changed(beam_size=3).samples
    asked = sampler.changed(do_sample=False, top_k=7)
    assert (asked.temperature, asked.top_k, asked.top_p) == (1.0, 7, 1.0)


def test_fine_tunes_with_an_encoder_rate_is_true():
    assert not TrainConfig().stage1.fine_tunes
    assert TrainConfig().stage2.fine_tunes


def test_train_config_stage_of_a_number_is_its_field():
    for number in (1, 2, 3):
        assert UNUSUAL.stage(number) is getattr(UNUSUAL, f"stage{number}")


def test_add_flags_of_a_config_parses_its_fields(capsys):
    parser = ArgumentParser(prog="toy")
    add_flags(parser, DecodingConfig, skip=("seed",))
    defaults = parser.parse_args([]).as_dict()
    expected = to_dict(DecodingConfig())
    del expected["seed"]
    assert defaults == expected
    flags = parser.parse_args(["--beam_size", "3", "--top_p", "0.9", "--forbid_unknown", "true"])
    assert (flags.beam_size, flags.top_p, flags.forbid_unknown) == (3, 0.9, True)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "sample from this many likeliest words; 0: from all" in text
    assert "--seed" not in text


@pytest.mark.parametrize(
    "flags",
    [
        ["--decoder_config.n_layer", "2", "--decoder_config.attn_pdrop", "0.3"],
        ["--decoder_config", '{"n_layer": 2, "attn_pdrop": 0.3}'],
        ["--decoder_config", "{n_layer: 4, attn_pdrop: 0.3}", "--decoder_config.n_layer=2"],
    ],
)
def test_add_flags_of_a_dict_field_parses_keys_and_json(flags):
    parser = ArgumentParser(prog="toy")
    add_flags(parser, VitGpt2Config)
    assert parser.parse_args(flags).decoder_config == {"n_layer": 2, "attn_pdrop": 0.3}


def test_decoding_with_both_names_of_the_beam_size_is_refused():
    assert DecodingConfig().changed(num_beams=4) == DecodingConfig(beam_size=4)
    with pytest.raises(ValueError, match="num_beams is 4: that is another name of beam_size"):
        DecodingConfig().changed(beam_size=3, num_beams=4)
