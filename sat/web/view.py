"""The HTML of a captioned image: point at a word, and the image lights up where the model looked.

It needs no script: each word is a button, each attention map a layer over the image, and the style
sheet shows the layer of the word that the pointer or the keyboard is on.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sat.captioner import CaptionResult

MOST_WORDS = 60
"""words of one caption that can be pointed at"""
LARGEST_SIDE = 800
"""pixels of the image on the page"""
SMOOTH = 8
"""pixels of a layer for each cell of the attention map"""
DARKEST = 0.8
"""opacity of the shade where the model did not look"""

STYLE = """
.sat { margin: 0 0 1.5rem; }
.sat .view { position: relative; width: 100%; overflow: hidden; line-height: 0; }
.sat .view img { margin: 0; width: 100%; }
.sat .map { position: absolute; opacity: 0; transition: opacity .15s; pointer-events: none; }
.sat .caption { margin: .6rem 0 .3rem; font-size: 1.25rem; line-height: 2; }
.sat .word { border: 0; border-bottom: 3px solid; border-radius: 3px; padding: 0 .25em;
  background: none; color: inherit; font: inherit; cursor: pointer; }
.sat .word:hover, .sat .word:focus { background: #f59e0b; color: #000; outline: none; }
.sat ol { margin: .3rem 0 0 1.4rem; font-size: .9rem; }
.sat figcaption { font-size: .85rem; opacity: .75; }
.sat-error { border-left: 4px solid #dc2626; padding: .4rem .8rem; }
""" + "".join(
    f".sat:has(.w{i}:hover) .m{i}, .sat:not(:has(.word:hover)):has(.w{i}:focus) .m{i} "
    "{ opacity: 1; }\n"
    for i in range(MOST_WORDS)
)


def caption_html(name: str, results: Sequence[CaptionResult]) -> str:
    """The image with its best caption, and the others (n-best) below it with their scores."""
    best = results[0]
    photo = best.photo.copy()
    photo.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    layers = [_layer(i, best) for i in range(min(len(best.words), MOST_WORDS))]
    words = [
        f'<button type="button" class="word w{min(i, MOST_WORDS)}"{_probability(best, i)}>'
        f"{html.escape(word)}</button>"
        for i, word in enumerate(best.words)
    ]
    others = "".join(
        f"<li>{html.escape(one.text)} <small>({one.score:.2f})</small></li>" for one in results
    )
    return (
        f'<figure class="sat"><div class="view"><img alt="{html.escape(best.text)}" '
        f'src="{_data_uri(photo, "JPEG")}">{"".join(layers)}</div>'
        f'<p class="caption">{" ".join(words) or "(no words)"}</p>'
        f"<figcaption>{html.escape(name)}: log-probability {best.score:.2f}</figcaption>"
        f"{f'<ol>{others}</ol>' if len(results) > 1 else ''}</figure>"
    )


def error_html(name: str, reason: str) -> str:
    """One sentence on the page about an image that cannot be captioned."""
    return f'<p class="sat-error" role="alert">{html.escape(f"{name}: {reason}")}</p>'


def _layer(i: int, result: CaptionResult) -> str:
    """The shade over the image for word i: dark, but clear where the model looked."""
    alphas = result.alphas[i]
    shade = DARKEST * (1 - alphas / max(alphas.max(), 1e-12))
    pixels = np.zeros((*shade.shape, 4), np.uint8)
    pixels[..., 3] = np.rint(255 * shade)
    width, height = result.photo.size
    left, top, right, bottom = result.box
    style = (
        f"left:{100 * left / width:.2f}%;top:{100 * top / height:.2f}%;"
        f"width:{100 * (right - left) / width:.2f}%;height:{100 * (bottom - top) / height:.2f}%"
    )
    size = (SMOOTH * shade.shape[1], SMOOTH * shade.shape[0])
    uri = _data_uri(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), "PNG")
    return f'<img alt="" class="map m{i}" style="{style}" src="{uri}">'


def _probability(result: CaptionResult, i: int) -> str:
    """The probability of word i as a tooltip and as the color of its line."""
    if not result.word_log_probs:
        return ""
    probability = float(np.exp(result.word_log_probs[i]))
    color = f"hsl({120 * probability:.0f} 70% 45%)"
    return f' title="probability {probability:.2f}" style="border-bottom-color:{color}"'


def _data_uri(image: Image.Image, kind: str) -> str:
    stream = io.BytesIO()
    image.save(stream, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
