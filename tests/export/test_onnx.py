"""Export to ONNX: a reader without torch says what the captioner says, and looks where it looks."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_vit
import torch
from PIL import Image
from torch import Tensor

from sat.atomic_io import write_json
from sat.captioner import Captioner
from sat.commands import export
from sat.config.decoding import DecodingConfig, TokenRules
from sat.data.image_files import read_image
from sat.data.transforms import resize
from sat.decoding.attention_maps import replay
from sat.decoding.generate import generate
from sat.export.onnx import description, export_onnx
from sat.models.base import encode_batch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from sat.export.caption_onnx import Reader, to_rgb

READ = """
import json, sys
import numpy as np
from caption_onnx import Image, Reader
reader = Reader()
read = [reader.caption(reader.pixels(Image.open(path))) for path in sys.argv[1:]]
print(json.dumps([(text, maps.tolist()) for text, maps in read]))
assert "torch" not in sys.modules and "sat" not in sys.modules
"""


def captioner(family: str) -> Captioner:
    """A random captioner whose captions depend on the image, and are short."""
    if family == "show_attend_tell":
        made = tiny.captioner()
    else:
        vocabulary = tiny_vit.subwords()
        made = Captioner(tiny_vit.model(vocabulary), vocabulary, tiny_vit.config())
    made.config = dataclasses.replace(made.config, decoding=DecodingConfig(max_length=8))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("family", ["show_attend_tell", "vit_gpt2"])
def test_exported_captioner_says_and_looks_as_the_original(family, tmp_path, monkeypatch):
    original, paths = captioner(family), tiny.photos(tmp_path)[:4]
    side = original.preprocessing.size
    for path in paths:  # as large as the model sees it: Pillow and torch scale alike to one value
        Image.open(path).resize((side, side)).save(path)
    monkeypatch.setattr("sat.captioner.load", lambda *_: original)
    export.main(["--onnx", str(tmp_path / "exported")])
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, paths)],
        cwd=tmp_path / "exported",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for (text, maps), path in zip(json.loads(done.stdout), paths, strict=True):
        words, expected = greedy(original, path)
        assert words
        assert text == original.vocabulary.decode(words)
        assert np.allclose(np.array(maps), expected.numpy(), atol=1e-4)


@torch.inference_mode()
def greedy(captioner: Captioner, path: Path) -> tuple[list[int], Tensor]:
    """The tokens of the greedy caption, and the attention map of each."""
    features = captioner.encode([Image.open(path).convert("RGB")])
    options = DecodingConfig(beam_size=1, max_length=8)
    caption = generate(captioner.model, features, options)[0][0]
    return caption.words, replay(captioner.model, features, [caption])[0].alphas


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Path:
    """The ONNX files of the captioner of words and image."""
    folder = tmp_path_factory.mktemp("networks") / "exported"
    export_onnx(captioner("show_attend_tell"), folder)
    return folder


PAIRS = tuple((i, j) for i in range(18) for j in range(18) if (i + j) % 3)
RULES: list[dict] = [  # the words are 1 to 14, <unk>, <start> and <end> 15 to 17
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 2, "rule": "hugging_face", "repetition_penalty": 1.5},
    {"min_length": 8},
    {"repetition_penalty": 3.0},
    {"repetition_penalty": 0.5, "forbid_unknown": True},
    {"tokens": TokenRules(eos_token_id=(1, 2, 3, 4, 5))},
    {"tokens": TokenRules(eos_token_id=(1, 2, 3, 4, 5)), "min_length": 2},
    {"tokens": TokenRules(forced_bos_token_id=3, begin_suppress_tokens=(1, 4, 6, 8, 9))},
    {"tokens": TokenRules(suppress_tokens=(2, 4, 6), begin_suppress_tokens=(1, 3, 5, 7, 8))},
    {"tokens": TokenRules(forced_eos_token_id=(5,)), "min_length": 8},
    {"tokens": TokenRules(bad_words_ids=((1,), (9, 9, 10), *PAIRS))},
    {"tokens": TokenRules(bad_words_ids=tuple((16, i) for i in range(12))), "rule": "hugging_face"},
    {"tokens": TokenRules(suppress_tokens=tuple(range(17))), "min_length": 1},
]


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES)
def test_reader_by_any_rules_of_decoding_says_what_the_captioner_says(networks, rules, tmp_path):
    original, paths = captioner("show_attend_tell"), tiny.photos(tmp_path)
    options = DecodingConfig(max_length=8, **rules)
    original.config = dataclasses.replace(original.config, decoding=options)
    write_json(networks / "captioner.json", description(original))
    reader = Reader(networks)
    pixels = np.stack([resize(read_image(path), original.preprocessing) for path in paths])
    with torch.inference_mode():
        features = encode_batch(original.model, torch.from_numpy(pixels))
        found = generate(original.model, features, options.changed(beam_size=1))
    said = [captions[0].words for captions in found]
    expected = [(original.vocabulary.decode(words), len(words)) for words in said]
    read = [reader.caption(one[None]) for one in pixels]
    assert [(text, len(maps)) for text, maps in read] == expected


@pytest.mark.slow
def test_reader_by_rules_that_forbid_every_token_raises_as_the_captioner(networks):
    original = captioner("show_attend_tell")
    none = TokenRules(suppress_tokens=tuple(range(18)))
    original.config = dataclasses.replace(original.config, decoding=DecodingConfig(tokens=none))
    about, side = description(original), original.preprocessing.size
    for ends in (about["end_ids"], [0]):  # a tokenizer that is learned ends with token 0
        write_json(networks / "captioner.json", about | {"end_ids": ends})
        with pytest.raises(ValueError, match="forbid every token after 0 words: let caption"):
            Reader(networks).caption(np.zeros((1, 3, side, side), np.uint8))
    with pytest.raises(ValueError, match=r"\(suppress_tokens, rule tutorial\) forbid every token"):
        original.caption(np.zeros((side, side, 3), np.uint8))


def test_export_onnx_leaves_the_captioner_as_it_is(tmp_path, monkeypatch):
    made = captioner("show_attend_tell")
    before = tiny.weights(made.model)

    def clear(module: torch.nn.Module, *_: object) -> None:
        for weight in module.parameters():
            weight.zero_()

    monkeypatch.setattr("sat.export.onnx.export_module", clear)
    export_onnx(made, tmp_path / "exported")
    assert tiny.equal(before, tiny.weights(made.model))


def test_export_onnx_that_fails_leaves_no_file(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr("sat.export.onnx.export_module", fail)
    with pytest.raises(RuntimeError, match="no such operator"):
        export_onnx(captioner("show_attend_tell"), tmp_path / "exported")
    assert not list(tmp_path.iterdir())


def image_files(folder: Path) -> dict[str, Path]:
    """An image of each kind that is read in another way than plain RGB."""
    values = np.random.default_rng(0).integers(0, 256, (12, 20, 4), np.uint8)
    gray = values[..., 0]
    turned = Image.Exif()
    turned[0x0112] = 6
    images = {
        "turned.jpg": (Image.fromarray(values[..., :3]), {"exif": turned}),
        "rgba.png": (Image.fromarray(values), {}),
        "la.png": (Image.fromarray(values).convert("LA"), {}),
        "palette.png": (Image.fromarray(gray).convert("P"), {"transparency": 7}),
        "16 bits.png": (Image.fromarray(gray.astype(np.uint16) * 257), {}),
        "32 bits.tif": (Image.fromarray(gray.astype(np.int32)), {}),
        "negative.tif": (Image.fromarray(gray.astype(np.int32) - 99), {}),
        "up to 1.tif": (Image.fromarray(gray.astype(np.float32) / 255), {}),
        "constant.tif": (Image.fromarray(np.full((2, 3), -1.5, np.float32)), {}),
        "cmyk.jpg": (Image.fromarray(values[..., :3]).convert("CMYK"), {}),
        "bilevel.png": (Image.fromarray(gray > 99), {}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in images}


def test_reader_of_any_kind_of_image_sees_the_pixels_of_the_captioner(tmp_path):
    for name, path in image_files(tmp_path).items():
        with Image.open(path) as image:
            assert np.array_equal(to_rgb(image), read_image(path)), name


def test_reader_of_an_image_with_damaged_exif_takes_it_as_upright(monkeypatch):
    monkeypatch.setattr("PIL.ImageOps.exif_transpose", lambda _: 1 / 0)
    assert to_rgb(Image.new("RGB", (3, 2))).size == (3, 2)


def test_export_resize_rule_that_the_reader_has_not_raises_value_error(tmp_path):
    made = captioner("show_attend_tell")
    size = made.preprocessing.size
    rule = dataclasses.replace(made.preprocessing, resize=f"size={size}:bicubic")
    made.config = dataclasses.replace(made.config, preprocessing=rule)
    with pytest.raises(ValueError, match=r"^resize is 'size=\d+:bicubic': give one of squash"):
        export_onnx(made, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_export_of_sampled_attention_is_refused_unless_another_is_chosen(
    tmp_path, monkeypatch, capsys
):
    made = tiny.captioner()
    made.model.set_attention_mode("sampled")
    modes = []
    monkeypatch.setattr("sat.captioner.load", lambda *_: made)
    monkeypatch.setattr(
        "sat.export.onnx.export_networks",
        lambda captioner, _: modes.append(captioner.model.decoder.test_attention),
    )
    arguments = ["--onnx", str(tmp_path / "exported")]
    with pytest.raises(SystemExit):
        export.main(arguments)
    assert "test_attention is 'sampled': ONNX files draw nothing, choose" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    for mode in ("expected", "argmax"):
        export.main([*arguments, "--test_attention", mode])
    assert modes == ["expected", "argmax"]


def test_export_script_without_onnxscript_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr("sat.captioner.load", lambda *_: tiny.captioner())
    with pytest.raises(SystemExit):
        export.main(["--onnx", str(tmp_path / "exported")])
    assert "[onnx]" in capsys.readouterr().err
    assert not list(Path(tmp_path).iterdir())
