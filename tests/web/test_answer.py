"""The page's answer to a request, without a browser."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import tiny

from sat.captioner import Captioner
from sat.config.decoding import DecodingConfig
from sat.web.view import caption_html

pytest.importorskip("gradio")
PROGRESS = SimpleNamespace(tqdm=lambda paths, desc: paths)


def test_answer_without_sampling_searches_where_the_model_samples(tmp_path, monkeypatch):
    from sat.web.page import answer

    monkeypatch.setattr("sat.web.page._downloads", lambda captioned, kind: (None, None))
    made, path = tiny.captioner(), tiny.photos(tmp_path)[0]
    own = DecodingConfig(beam_size=1, do_sample=True, temperature=3.0, top_k=50, min_length=3)
    sampler = Captioner(made.model, made.vocabulary, dataclasses.replace(made.config, decoding=own))
    how = (lambda name: sampler, [str(path)], "a model", 4, 1, False, 0.9, 0, "png")
    shown, *_ = answer(*how, progress=PROGRESS)
    expected = made.candidates([path], DecodingConfig(beam_size=4, min_length=3))[0]
    assert shown == caption_html(path.name, expected)


def test_answer_with_an_empty_seed_samples_as_with_zero(tmp_path, monkeypatch):
    from sat.web.page import answer

    monkeypatch.setattr("sat.web.page._downloads", lambda captioned, kind: (None, None))
    captioner, path = tiny.captioner(), str(tiny.photos(tmp_path)[0])
    shown = [
        answer(lambda name: captioner, [path], "", 5, 1, True, 0.9, seed, "png", progress=PROGRESS)
        for seed in (None, 0)
    ]
    assert shown[0] == shown[1]


def test_answer_names_a_broken_image_without_its_folder(tmp_path):
    from sat.web.page import answer

    path = tmp_path / f"{'long' * 50}.jpg"
    path.write_bytes(b"no image")
    how = (lambda name: tiny.captioner(), [str(path)], "", 5, 1, False, 0.9, 0, "png")
    shown, *_ = answer(*how, progress=PROGRESS)
    assert f"{path.name}: cannot be read as an image" in shown
    assert "/" not in shown.removesuffix("</p>")
