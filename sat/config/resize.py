"""How an image becomes the square that the model sees: scaled, cropped, padded."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from sat.config.checks import check

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic")
"""in the order of Pillow's numbers, which are Hugging Face's too"""
BILINEAR = "bilinear"
SHORT_NAMES = {
    "squash": "size={size}",
    "crop": "shortest_edge={size},center_crop={size}",
    "inner_crop": "shortest_edge={larger},center_crop={size}",
}
SIDES = r"[1-9]\d{0,3}(x[1-9]\d{0,3})?"
"""a number of pixels, or two; larger ones would take all memory"""
PATTERN = re.compile(
    rf"((?P<scale>size|shortest_edge|max_size)=(?P<to>{SIDES})(:(?P<resample>\w+))?(,(?!$)|$))?"
    rf"(center_crop=(?P<crop>{SIDES})(,(?!$)|$))?"
    rf"(pad=(?P<pad>{SIDES})(:(?P<fill>[0-9a-f]{{6}}))?)?"
)
HELP = (
    "give squash, crop, inner_crop, or steps such as shortest_edge=256:bicubic,center_crop=224 "
    "(size, shortest_edge or max_size; center_crop; pad) that end in a square of"
)


@dataclass(frozen=True)
class ResizeRule:
    """The steps of a rule in their order; a step that is left out is empty. Sizes in pixels."""

    scale: str
    """size: to exactly this height and width; shortest_edge: the shorter side to the first number,
    the longer one at most to the second (0: any); max_size: as large as fits in height and width"""
    to: tuple[int, int]
    resample: str
    """the filter, one of FILTERS"""
    crop: tuple[int, int] | None
    """height and width around the center; black where the image is smaller"""
    pad: tuple[int, int] | None
    """height and width, filled up below and on the right"""
    fill: tuple[int, int, int]
    """color (RGB) of what is padded"""


@functools.cache
def parse_resize(text: str, size: int) -> ResizeRule:
    """The rule that `text` names, for a square of `size` pixels.

    A number alone is a square. Raises `ValueError` for other text, or if the steps do not end in
    such a square.
    """
    steps = text
    if text in SHORT_NAMES:
        steps = SHORT_NAMES[text].format(size=size, larger=round(size * 8 / 7))
    found = PATTERN.fullmatch(steps)
    remedy = f"{HELP} {size}"
    if found is None:
        raise ValueError(f"resize is {text!r}: {remedy}")
    scale, to, resample, crop, pad, fill = found.group(
        "scale", "to", "resample", "crop", "pad", "fill"
    )
    resample = resample or BILINEAR
    check(resample in FILTERS, "the filter of resize", resample, f"give {', '.join(FILTERS)}")
    exact = to if scale == "size" else None
    red, green, blue = bytes.fromhex(fill or "000000")
    last = next((sides for sides in (pad, crop, exact) if sides), None)
    check(last is not None and _sides(last) == (size, size), "resize", text, remedy)
    return ResizeRule(
        scale=scale or "",
        to=_sides(to or "0", second=0 if scale == "shortest_edge" else None),
        resample=resample,
        crop=_sides(crop) if crop else None,
        pad=_sides(pad) if pad else None,
        fill=(red, green, blue),
    )


def shortest_name(text: str, size: int) -> str:
    """squash, crop or inner_crop if it is the same rule, else the text."""
    rule = parse_resize(text, size)
    return next((name for name in SHORT_NAMES if parse_resize(name, size) == rule), text)


def sides_text(height: int, width: int) -> str:
    """Two sides as a rule has them: a square as one number."""
    return str(height) if height == width else f"{height}x{width}"


def _sides(text: str, second: int | None = None) -> tuple[int, int]:
    """Height and width of "HxW", or of "N", whose width is N or `second`."""
    first, _, width = text.partition("x")
    return int(first), int(width) if width else int(first) if second is None else second
