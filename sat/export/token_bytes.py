"""The bytes that each token adds to a caption: one alone may be part of a character."""

from __future__ import annotations

import re
from typing import Any

from sat.data.vocabulary import Vocabulary

PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = sorted({*range(256)} - {*PRINTED})
BYTE_OF = {chr(byte): byte for byte in PRINTED} | {chr(256 + i): b for i, b in enumerate(OTHERS)}
"""the byte that each letter stands for in the tokens of GPT-2 (its `bytes_to_unicode`)"""
FALLBACK = re.compile("<0x([0-9A-F]{2})>")
"""a token of one byte, as Llama's"""
BROKEN = "\ufffd"
"""what decoders give for a part of a character"""


def token_bytes(vocabulary: Any) -> list[bytes]:
    """The UTF-8 bytes that each id adds to a caption, a blank before it included.

    `vocabulary` is a word map or a tokenizer. Ids are decoded between two equal others, since the
    ends of a caption are stripped.
    """
    decode, ids = vocabulary.decode, range(len(vocabulary))
    texts = ((i, decode([i])) for i in ids)
    other = next((i for i, text in texts if text and BROKEN not in text), 0)
    before = decode([other])
    after = decode([other, other]).removeprefix(before)
    added = [decode([other, i, other]).removeprefix(before).removesuffix(after) for i in ids]
    if isinstance(vocabulary, Vocabulary):
        return [text.encode() for text in added]
    return [
        _of_token(vocabulary.special(i)) if BROKEN in text else text.encode()
        for i, text in enumerate(added)
    ]


def _of_token(token: str) -> bytes:
    """The bytes of a token that holds a part of a character, by its name."""
    if match := FALLBACK.fullmatch(token):
        return bytes.fromhex(match[1])
    if {*token} <= {*BYTE_OF}:
        return bytes(BYTE_OF[letter] for letter in token)
    return token.encode()
