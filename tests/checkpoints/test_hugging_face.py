"""A ViT + GPT-2 checkpoint is a folder that plain Hugging Face code reads, and the other way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_vit
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel

import sat
from sat.captioner import Captioner
from sat.checkpoints import native
from sat.config.decoding import DecodingConfig
from sat.config.model import Preprocessing
from sat.data.transforms import resize
from sat.models.base import Normalize
from sat.models.factory import build_model
from sat.models.hf_pixels import (
    PROCESSOR,
    encoder_statistics,
    preprocessing_of,
    processor_values,
)

CAPTION = "a red dog runs"


def normalize(images: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    return Normalize(preprocessing.mean, preprocessing.std)(images)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    words = tiny_vit.subwords()
    return Captioner(tiny_vit.model(words), words, tiny_vit.config())


@pytest.fixture
def folder(captioner: Captioner, tmp_path: Path) -> Path:
    place = tmp_path / "best"
    parts = captioner.model, captioner.vocabulary, captioner.config
    native.save(place, *parts, scores={"Bleu_4": 0.5})
    return place


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((75, 50), Image.Resampling.BICUBIC)


def logits(model: torch.nn.Module, captioner: Captioner) -> torch.Tensor:
    caption = torch.tensor([captioner.vocabulary.encode(captioner.vocabulary.split([CAPTION]))])
    with torch.inference_mode():
        return model(tiny_vit.features(model, 1), caption, torch.tensor([caption.shape[1]])).logits


def test_hugging_face_saved_captioner_loads_unchanged(captioner, folder, image):
    loaded = sat.load(folder)
    assert not tiny.changed(tiny.weights(captioner.model), loaded.model)
    assert (loaded.config, loaded.vocabulary) == (captioner.config, captioner.vocabulary)
    assert native.scores(folder) == {"Bleu_4": 0.5}
    ours, theirs = captioner.caption(image, max_length=9), loaded.caption(image, max_length=9)
    assert (ours.text, ours.score) == (theirs.text, pytest.approx(theirs.score))
    assert ours.alphas.shape == (len(ours.words), 4, 4)
    np.testing.assert_allclose(ours.alphas.sum((1, 2)), 1, rtol=1e-5)
    other = tiny_vit.model(captioner.vocabulary, seed=9)
    native.load_weights(other, folder)
    assert not tiny.changed(tiny.weights(captioner.model), other)
    wider = tiny_vit.model(captioner.vocabulary, decoder_config={"n_embd": 16})
    with pytest.raises(ValueError, match="is of another architecture"):
        native.load_weights(wider, folder)


def test_hugging_face_saved_folder_is_read_by_plain_transformers(captioner, folder, image):
    network = VisionEncoderDecoderModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    ids = tokenizer(CAPTION).input_ids
    assert ids == captioner.vocabulary.encode(captioner.vocabulary.split([CAPTION]))[1:-1]
    assert tokenizer.decode(ids) == CAPTION
    special = captioner.model.start_id
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == special
    assert network.config.decoder_start_token_id == network.config.eos_token_id == special
    pixels = processor(image, return_tensors="pt").pixel_values
    ours = normalize(
        torch.from_numpy(resize(image, captioner.preprocessing))[None], captioner.preprocessing
    )
    assert (
        pixels - ours
    ).abs().max() <= 1.01 / 127.5  # one grey level: the filters may round apart
    captions = torch.tensor([[special, *ids, special]])
    with torch.inference_mode():
        theirs = network(pixel_values=ours, decoder_input_ids=captions[:, :-1]).logits
        lengths = torch.tensor([captions.shape[1]])
        found = captioner.model(captioner.model.encode(ours), captions, lengths).logits
    torch.testing.assert_close(found, theirs, atol=1e-5, rtol=1e-5)


def test_hugging_face_folder_with_the_size_keys_of_earlier_versions_loads(captioner, folder):
    """They said what the networks' own config.json says."""
    header = json.loads((folder / "sat.json").read_text())
    header["model"]["hf"] = {
        "encoder": "fresh:vit", "decoder": "fresh:gpt2", "patch_size": 8, "encoder_layers": 2,
        "encoder_width": 16, "encoder_heads": 2, "decoder_layers": 2, "decoder_width": 12,
        "decoder_heads": 2, "positions": 24, "dropout": 0.1, "attention_layer": 0,
        "attention_head": 1,
    }  # fmt: skip
    (folder / "sat.json").write_text(json.dumps(header))
    loaded = sat.load(folder)
    assert not tiny.changed(tiny.weights(captioner.model), loaded.model)
    assert (loaded.model.attention_layer, loaded.model.attention_head) == (0, 1)
    native.save(folder, loaded.model, loaded.vocabulary, loaded.config)
    assert sat.load(folder).config == loaded.config


@pytest.mark.parametrize("resize_rule", ["squash", "crop", "inner_crop"])
def test_processor_values_of_own_rules_are_read_back_as_they_were(resize_rule, tmp_path):
    own = Preprocessing(size=24, resize=resize_rule, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.5))
    (tmp_path / PROCESSOR).write_text(json.dumps(processor_values(own)))
    assert preprocessing_of(str(tmp_path)) == own


@pytest.mark.parametrize("binary", [False, True])
def test_hugging_face_folder_without_sat_json_captions_the_same(captioner, folder, image, binary):
    """As nlpconnect's: older preprocessor, GPT-2's vocabulary, perhaps weights as a pickle."""
    os.remove(folder / "sat.json")
    old = {"feature_extractor_type": "ViTFeatureExtractor", "size": tiny_vit.SIZE, "resample": 2}
    old |= {
        "do_resize": True,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    generation = json.loads((folder / "generation_config.json").read_text())
    generation |= {"num_beams": 4, "max_length": 16, "length_penalty": 1.0}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    if binary:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        os.remove(folder / "model.safetensors")
    loaded = sat.load(folder)
    assert loaded.preprocessing == captioner.preprocessing
    assert loaded.config.decoding == DecodingConfig(
        rule="hugging_face", beam_size=4, max_length=15, length_penalty=1.0
    )
    torch.testing.assert_close(logits(loaded.model, captioner), logits(captioner.model, captioner))
    same = captioner.caption(image, loaded.config.decoding)
    assert loaded.caption(image).text == same.text


def test_hugging_face_tokenizer_of_another_model_raises_value_error(captioner, folder):
    type(captioner.vocabulary).train([*tiny_vit.CAPTIONS, "many more words"], 400).save(
        folder / "tokenizer.json"
    )
    with pytest.raises(ValueError, match="they are not of one model"):
        sat.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"misses the weights decoder\.transformer\.ln_f\.bias: copy the whole"),
        ("left over", r"holds weights that its model does not have: decoder\.more: copy"),
        ("shape", r"of other shapes than its config\.json says: decoder\.transformer\.ln_f\.bias"),
    ],
)
def test_hugging_face_weights_that_do_not_fit_raise_value_error_with_names(folder, change, message):
    weights, name = load_file(folder / "model.safetensors"), "decoder.transformer.ln_f.bias"
    if change == "missing":
        del weights[name]
    elif change == "left over":
        weights["decoder.more"] = torch.ones(3)
    else:
        weights[name] = torch.ones(3)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=message):
        sat.load(folder)


def test_hugging_face_weights_that_no_caption_needs_may_be_missing_or_left_over(captioner, folder):
    weights = load_file(folder / "model.safetensors")
    unused = [name for name in weights if name.startswith("encoder.pooler.")]
    assert unused
    for name in unused:
        del weights[name]
    weights["decoder.transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"is not the file that was written .* on purpose"):
        sat.load(folder)
    header = json.loads((folder / "sat.json").read_text())
    del header["sha256"]
    (folder / "sat.json").write_text(json.dumps(header))
    loaded = sat.load(folder)
    torch.testing.assert_close(logits(loaded.model, captioner), logits(captioner.model, captioner))


def test_hugging_face_folder_with_code_of_its_own_runs_none_of_it(
    captioner, folder, tmp_path, monkeypatch
):
    """Not even where the question of transformers, whether to run it, would be answered by yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    part = tmp_path / "part"
    captioner.model.encoder.save_pretrained(part)
    for place in (folder, part):
        (place / "own.py").write_text(code)
        config = json.loads((place / "config.json").read_text())
        config["auto_map"] = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
        (place / "config.json").write_text(json.dumps(config))
    sat.load(folder)
    build_model(tiny_vit.config(encoder=str(part)), captioner.vocabulary)
    config["model_type"] = "unknown"
    (part / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        build_model(tiny_vit.config(encoder=str(part)), captioner.vocabulary)
    assert not (tmp_path / "ran").exists()


def test_build_model_hugging_face_parts_keep_their_weights(captioner, tmp_path, caplog):
    """What from_encoder_decoder_pretrained does: the parts keep their weights."""
    model = captioner.model
    model.encoder.save_pretrained(tmp_path / "sight")
    model.decoder.save_pretrained(tmp_path / "speech")
    values = processor_values(captioner.preprocessing)
    (tmp_path / "sight" / "preprocessor_config.json").write_text(json.dumps(values))
    parts = {"encoder": str(tmp_path / "sight"), "decoder": str(tmp_path / "speech")}
    joined = build_model(tiny_vit.config(**parts), captioner.vocabulary)
    assert not tiny.changed(tiny.weights(model.encoder), joined.encoder)
    assert not tiny.changed(tiny.weights(model.decoder), joined.decoder)
    expected = captioner.preprocessing
    assert encoder_statistics(parts["encoder"]) == (expected.mean, expected.std)
    assert not caplog.records, "cross-attention is expected to be new"
    weights = load_file(tmp_path / "sight" / "model.safetensors")
    del weights["layernorm.bias"]
    save_file(weights, tmp_path / "sight" / "model.safetensors", {"format": "pt"})
    build_model(tiny_vit.config(**parts), captioner.vocabulary)
    (record,) = (record for record in caplog.records if record.name.startswith("sat"))
    assert "sight has no weights layernorm.bias: they start from random values" in record.message
    tiny_vit.model(tiny_vit.Words(5)).decoder.save_pretrained(tmp_path / "small")
    with pytest.raises(ValueError, match="has 5: prepare the data with --tokenizer"):
        build_model(tiny_vit.config(decoder=str(tmp_path / "small")), captioner.vocabulary)


@pytest.mark.parametrize("header", [{}, {"model": None}, {"model": {"famly": "vit_gpt2"}}])
def test_load_header_without_a_config_raises_with_its_name(folder, header):
    (folder / "sat.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=r"sat\.json cannot be read \(.*\): copy the whole"):
        sat.load(folder)
