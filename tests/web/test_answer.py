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


def test_answer_without_sampling_searches_where_the_model_samples(tmp_path, monkeypatch):
    from sat.web.page import answer

    monkeypatch.setattr("sat.web.page._downloads", lambda captioned, kind: (None, None))
    made, path = tiny.captioner(), tiny.photos(tmp_path)[0]
    own = DecodingConfig(beam_size=1, do_sample=True, temperature=3.0, top_k=50, min_length=3)
    sampler = Captioner(made.model, made.vocabulary, dataclasses.replace(made.config, decoding=own))
    progress = SimpleNamespace(tqdm=lambda paths, desc: paths)
    how = (lambda name: sampler, [str(path)], "a model", 4, 1, False, 0.9, 0, "png")
    shown, *_ = answer(*how, progress=progress)
    expected = made.candidates([path], DecodingConfig(beam_size=4, min_length=3))[0]
    assert shown == caption_html(path.name, expected)
