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

from sat.captioner import Captioner
from sat.commands import export
from sat.config.decoding import DecodingConfig
from sat.decoding.attention_maps import replay
from sat.decoding.generate import generate
from sat.export.onnx import export_onnx

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
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


def test_export_resize_rule_that_the_reader_has_not_raises_value_error(tmp_path):
    made = captioner("show_attend_tell")
    size = made.preprocessing.size
    rule = dataclasses.replace(made.preprocessing, resize=f"size={size}:bicubic")
    made.config = dataclasses.replace(made.config, preprocessing=rule)
    with pytest.raises(ValueError, match=r"^resize is 'size=\d+:bicubic': give one of squash"):
        export_onnx(made, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_export_script_without_onnxscript_names_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr("sat.captioner.load", lambda *_: tiny.captioner())
    with pytest.raises(SystemExit):
        export.main(["--onnx", str(tmp_path / "exported")])
    assert "[onnx]" in capsys.readouterr().err
    assert not list(Path(tmp_path).iterdir())
