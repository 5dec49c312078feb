"""Text that matplotlib's font can draw."""

from __future__ import annotations

from matplotlib.font_manager import FontProperties, findfont, get_font

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def drawable(text: str) -> str:
    """The text with a replacement mark for each character that the default font lacks."""
    glyphs = get_font(findfont(FontProperties())).get_charmap()
    return "".join(char if ord(char) in glyphs else REPLACEMENT for char in text)
