"""The HTML of a captioned image."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from sat.captioner import CaptionResult
from sat.web.view import DARKEST, STYLE, caption_html, error_html


def result(words: list[str], alphas: np.ndarray, **changes: object) -> CaptionResult:
    fields = {
        "text": " ".join(words),
        "score": -1.5,
        "finished": True,
        "words": words,
        "alphas": alphas,
        "photo": Image.new("RGB", (200, 100), "red"),
        "box": (50.0, 0.0, 150.0, 100.0),
    }
    return CaptionResult(**fields | changes)


def layers(page: str) -> list[np.ndarray]:
    """The opacities of each word's layer, from 0 to 1."""
    found = re.findall(r'class="map m\d+".*?base64,([\w+/=]+)', page)
    images = [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]
    return [np.asarray(image)[..., 3] / 255 for image in images]


def test_caption_html_layer_is_clear_at_the_peak_and_dark_elsewhere():
    alphas = np.zeros((2, 3, 3), np.float32)
    alphas[0, 0, 0] = alphas[1, 2, 2] = 1
    first, second = layers(caption_html("a.jpg", [result(["a", "dog"], alphas)]))
    assert first[:4, :4].max() < 0.05 < DARKEST - 0.05 < first[-8:, -8:].min()
    assert second[-4:, -4:].max() < 0.05 < DARKEST - 0.05 < second[:8, :8].min()


def test_caption_html_layer_covers_the_part_that_the_model_saw():
    page = caption_html("a.jpg", [result(["dog"], np.full((1, 2, 2), 0.25, np.float32))])
    assert "left:25.00%;top:0.00%;width:50.00%;height:100.00%" in page


def test_caption_html_with_html_in_words_and_name_escapes_it():
    alphas = np.full((1, 2, 2), 0.25, np.float32)
    page = caption_html("<b>.jpg", [result(["<script>"], alphas)])
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<i>" not in error_html("x", "<i>")


def test_caption_html_with_several_captions_lists_them_with_their_scores():
    alphas = np.full((1, 2, 2), 0.25, np.float32)
    page = caption_html("a.jpg", [result(["dog"], alphas), result(["cat"], alphas, score=-2.25)])
    assert re.findall(r"<li>(\w+) <small>\((.*?)\)", page) == [("dog", "-1.50"), ("cat", "-2.25")]


def test_style_has_a_rule_for_the_layer_of_each_word():
    page = caption_html("a.jpg", [result(list("abc"), np.full((3, 2, 2), 0.25, np.float32))])
    for i in range(3):
        assert f"word w{i}" in page
        assert f".sat:has(.w{i}:hover) .m{i}" in STYLE


def test_caption_html_tells_the_probability_of_each_word():
    alphas = np.full((2, 2, 2), 0.25, np.float32)
    page = caption_html("a.jpg", [result(["a", "b"], alphas, word_log_probs=[0.0, np.log(0.25)])])
    assert re.findall(r'title="probability (.*?)"', page) == ["1.00", "0.25"]
