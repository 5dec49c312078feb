"""Parts from random weights, by Hugging Face's own configuration keys; what is refused, and how."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import tiny_vit
from transformers import (
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    ResNetConfig,
    ResNetModel,
    RobertaConfig,
    SwinConfig,
    ViTConfig,
    YolosConfig,
    YolosModel,
)

from sat.commands.train import parse
from sat.config.model import ModelConfig, Preprocessing
from sat.models.factory import build_model

OPT = {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 8}
OPT |= {"num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8}
"""takes features of images without an error, and leaves them aside"""
ROOT = Path(__file__).parents[2]


def test_fresh_parts_have_the_keys_given_and_the_defaults_of_hugging_face():
    network = tiny_vit.model().network
    sees, speaks = network.encoder.config, network.decoder.config
    assert isinstance(sees, ViTConfig)
    assert isinstance(speaks, GPT2Config)
    assert {name: getattr(sees, name) for name in tiny_vit.VISION} == tiny_vit.VISION
    given = tiny_vit.DECODERS["fresh:gpt2"]
    assert {name: getattr(speaks, name) for name in given} == given
    assert speaks.attn_pdrop == GPT2Config().attn_pdrop
    assert (speaks.vocab_size, speaks.bos_token_id, speaks.pad_token_id) == (11, 2, 1)
    assert sees.image_size == tiny_vit.SIZE


def test_fresh_parts_start_from_weights_that_suit_their_width():
    """A Swin's is that of its last stage; a value that is given stays."""
    network = tiny_vit.model(
        encoder="fresh:swin", decoder="fresh:roberta", decoder_config={"initializer_range": 0.5}
    ).network
    assert isinstance(network.encoder.config, SwinConfig)
    assert network.encoder.config.initializer_range == 16**-0.5
    assert isinstance(network.decoder.config, RobertaConfig)
    assert network.decoder.config.initializer_range == 0.5
    assert tiny_vit.model().decoder.config.initializer_range == 12**-0.5


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"decoder": "fresh:gpt5"}, "hf.decoder is 'fresh:gpt5': give fresh: and a model type"),
        (
            {"decoder": "fresh:opt", "decoder_config": OPT},
            "hf.decoder is 'fresh:opt': it has no attention to an image",
        ),
        ({"encoder": "fresh:vit_mae"}, "hf.encoder is 'fresh:vit_mae': it hides random parts"),
        (
            {"decoder_config": {"n_layers": 3}},
            "hf.decoder_config.n_layers is 3: gpt2 has no such key, the nearest are n_layer, ",
        ),
        (
            {"decoder_config": {"vocab_size": 9}},
            "hf.decoder_config.vocab_size is 9: leave it out, the data decide it",
        ),
        (
            {"decoder_config": {"n_layer": 10**9}},
            "decoder_config.n_layer is 1000000000: give at m",
        ),
        ({"decoder_config": {"n_embd": 10**6}}, "decoder_config.n_embd is 1000000: give at most 1"),
        ({"decoder_config": {"n_layer": "two"}}, "hf.decoder_config is {.*'two'.* gpt2 fails: "),
        ({"decoder_config": {"n_head": 5}}, "hf.decoder_config is {.*'n_head': 5.* gpt2 fails: "),
    ],
)
def test_fresh_part_that_cannot_be_built_raises_one_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_vit.model(**values)


def test_encoder_that_is_no_vision_transformer_is_refused(tmp_path, monkeypatch):
    """A network of words, one of convolutions, and both halves of CLIP at once."""
    monkeypatch.setitem(tiny_vit.ENCODERS, "fresh:bert", tiny_vit.BERT)
    sizes = [8, 8]
    resnet = ResNetConfig(embedding_size=8, hidden_sizes=sizes, depths=[1, 1], layer_type="basic")
    ResNetModel(resnet).save_pretrained(tmp_path / "resnet")
    text, vision = (tiny_vit.VISION | {"vocab_size": 11}, tiny_vit.VISION | {"image_size": 32})
    clip = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(clip).save_pretrained(tmp_path / "clip")
    for name in ("fresh:bert", str(tmp_path / "resnet"), str(tmp_path / "clip")):
        with pytest.raises(ValueError, match=f"hf.encoder is '{name}': it is no vision transf"):
            tiny_vit.model(encoder=name)


@pytest.mark.parametrize(("recipe", "size"), [("shapes", 112), ("flickr8k", 224)])
def test_recipes_of_fresh_parts_can_be_built(recipe, size):
    hf = parse(["--config", str(ROOT / "configs" / f"vit_gpt2_{recipe}.yaml")]).hf
    config = ModelConfig(family="vit_gpt2", hf=hf, preprocessing=Preprocessing(size=size))
    model = build_model(config, tiny_vit.Words())  # type: ignore[arg-type]
    assert model.positions == hf.decoder_config["n_positions"]
    smaller = dataclasses.replace(hf, encoder_config=hf.encoder_config | {"patchsize": 7})
    with pytest.raises(ValueError, match=r"patchsize is 7: vit has no such key, .* patch_size"):
        build_model(dataclasses.replace(config, hf=smaller), tiny_vit.Words())  # type: ignore


@pytest.mark.parametrize(
    ("sides", "sentence"),
    [
        ([64, 96], r"hf.encoder is '.*': it sees no squares \(\[64, 96\] px\), give others"),
        ([64, 64], "image_size is 32: .* sees 64 px: prepare the data with --image_size 64"),
    ],
)
def test_pretrained_encoder_with_a_height_and_a_width_is_held_to_them(sides, sentence, tmp_path):
    config = YolosConfig(**tiny_vit.VISION, image_size=sides, num_detection_tokens=3)
    folder = tmp_path / "{run}"
    YolosModel(config).save_pretrained(folder)
    with pytest.raises(ValueError, match=sentence):
        build_model(tiny_vit.config(encoder=str(folder)), tiny_vit.Words())
    config.image_size = [tiny_vit.SIZE] * 2
    YolosModel(config).save_pretrained(folder)
    assert build_model(tiny_vit.config(encoder=str(folder)), tiny_vit.Words())
