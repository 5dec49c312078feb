"""Judge whether a caption of a synthetic scene is true.

The reader knows words, not templates, so it is independent of the grammar that writes captions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sat.data.synthetic.captions import (
    COLORS,
    ONE_THING,
    OPPOSITE,
    PHRASES,
    SHAPES,
    TWO_THINGS,
    relation,
)

MEANING = {
    word: where
    for where, phrases in PHRASES.items()
    for phrase in phrases
    for word in phrase.split()
    if word not in ("to", "the", "of")
}
FILLERS = {"a", "an", "the", "to", "of"} | {
    word for text in (*TWO_THINGS, *ONE_THING) for word in text.split() if "{" not in word
}


def describes(words: Iterable[str], things: Sequence[dict[str, Any]]) -> bool:
    """True when the caption names all things of the scene correctly, and their relation if two.

    It is read word by word, so mixtures of templates count if they are true. An unknown word, a
    thing left out or named twice, or a relation without its two things make it false.
    """
    claim = _claim(list(words))
    names = [tuple(thing["words"]) for thing in things]
    if len(things) == 1:
        return claim == (names[0],)
    where = relation(things[0]["box"], things[1]["box"])
    return claim in [(names[0], where, names[1]), (names[1], OPPOSITE[where], names[0])]


def _claim(words: list[str]) -> tuple[Any, ...] | None:
    """The claim of a caption: (thing,) or (thing, where, other thing); None if it is neither."""
    order = ""  # a letter for each word that matters: n(ame), w(here), i(t)
    names: list[tuple[str, str]] = []
    where = None
    rest = iter(words)
    for word in rest:
        if word in COLORS and (noun := next(rest, None)) in SHAPES:
            names.append((word, noun))
            order += "n"
        elif word in MEANING:
            where = MEANING[word]
            order += "w"
        elif word == "it":
            order += "i"
        elif word not in FILLERS:
            return None
    if order == "n":
        return (names[0],)
    if order == "nwn":
        return names[0], where, names[1]
    if order in ("nnwi", "wnn"):  # "A with B below it" and "below A there is B" put B below A
        return names[1], where, names[0]
    return None
