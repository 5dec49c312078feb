"""The words of a raw caption."""

from __future__ import annotations

import re
import unicodedata

WORD = re.compile(r"[^\W_]+")
INNER_APOSTROPHE = re.compile(r"(?<=[^\W_]{2})['\u2019](?=[^\W_])")
SCRIPTS_WITHOUT_BLANKS = (
    *("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"),
)
"""as the Unicode names of their characters begin"""


def split_words(caption: str) -> tuple[str, ...]:
    """The words of a caption: its runs of letters and digits, lower case, without punctuation.

    Hyphens separate words; an apostrophe after two letters or more is dropped (someone's:
    someones; o'clock: o clock). These are the tokens of Karpathy's JSON files. Languages
    that are written without blanks are split into characters.
    """
    text = caption.lower()
    if "'" in text or "\u2019" in text:
        text = INNER_APOSTROPHE.sub("", text)
    return tuple(WORD.findall(text)) if text.isascii() else tuple(_split_unicode(text))


def _split_unicode(text: str) -> list[str]:
    """`split_words` of lower-case text in any script: accents and vowel signs stay with letters."""
    words: list[str] = []
    inside = False  # the next letter continues the last word
    for character in unicodedata.normalize("NFC", text):
        category = unicodedata.category(character)
        if category == "Cf":  # joiners between letters
            continue
        if category[0] == "M" and words:
            words[-1] += character
        elif category[0] in "LN":
            alone = is_of_script_without_blanks(character)
            if inside and not alone:
                words[-1] += character
            else:
                words.append(character)
            inside = not alone
        else:
            inside = False
    return words


def is_of_script_without_blanks(character: str) -> bool:
    """True for characters of Chinese, Japanese, Thai ..., each a word of its own."""
    return unicodedata.name(character, "").startswith(SCRIPTS_WITHOUT_BLANKS)
