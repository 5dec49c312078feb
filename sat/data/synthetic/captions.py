"""What can be said about a scene of `shapes`, and whether something said is true.

A small grammar writes every true caption of a scene; an independent reader, which knows words and
not templates, judges any caption: so accuracy can be counted exactly, not only by BLEU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")

# Phrases of one meaning with their weights: how often people of this little world use them.
PHRASES = {
    "left": {"to the left of": 3, "left of": 1},
    "right": {"to the right of": 3, "right of": 1},
    "above": {"above": 3, "over": 1},
    "below": {"below": 3, "under": 1},
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
TWO_THINGS = {
    "{a} is {where} {b}": 12,
    "there is {a} {where} {b}": 3,
    "{a} {where} {b}": 3,
    "{the_a} is {where} {the_b}": 2,
    "{a} with {b} {opposite} it": 1,
    "{where} {the_b} there is {a}": 1,
}
ONE_THING = {
    "there is {a}": 6,
    "{a}": 3,
    "there is only {a}": 3,
    "{a} on its own": 2,
    "a picture of {a}": 2,
    "the picture shows {a}": 1,
    "a single {name}": 1,
}


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


def relation(first: Sequence[float], second: Sequence[float]) -> str:
    """Where the first box lies seen from the second: left, right, above or below."""
    right = (first[0] + first[2]) - (second[0] + second[2])
    down = (first[1] + first[3]) - (second[1] + second[3])
    if abs(right) > abs(down):
        return "left" if right < 0 else "right"
    return "above" if down < 0 else "below"


def true_captions(things: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Every caption of the grammar that is true of the scene, with its weight.

    `things` are the scene's `boxes` (see `sat.data.shapes`): one or two.
    """
    if len(things) == 1:
        name = " ".join(things[0]["words"])
        return {text.format(a=_an(name), name=name): w for text, w in ONE_THING.items()}
    captions = {}
    for a, b in (things, things[::-1]):
        where = relation(a["box"], b["box"])
        for template, weight in TWO_THINGS.items():
            for (phrase, often), opposite in zip(PHRASES[where].items(), PHRASES[OPPOSITE[where]]):
                first, second = " ".join(a["words"]), " ".join(b["words"])
                text = template.format(
                    a=_an(first),
                    b=_an(second),
                    the_a=f"the {first}",
                    the_b=f"the {second}",
                    where=phrase,
                    opposite=opposite,
                )
                captions[text] = weight * often
    return captions


def describes(words: Iterable[str], things: Sequence[dict[str, Any]]) -> bool:
    """True when the caption names all things of the scene rightly, and their relation if two.

    Read word by word, so mixtures of templates count if they are true. A word that nobody uses
    here, a thing left out or named twice, a relation without its two things make it false.
    """
    claim = _claim(list(words))
    names = [tuple(thing["words"]) for thing in things]
    if len(things) == 1:
        return claim == (names[0],)
    where = relation(things[0]["box"], things[1]["box"])
    return claim in [(names[0], where, names[1]), (names[1], OPPOSITE[where], names[0])]


def _claim(words: list[str]) -> tuple[Any, ...] | None:
    """What a caption says: (thing,) or (thing, where, other thing); None if it says neither."""
    order = ""  # a letter for each word that matters: n(ame), w(here), i(t)
    names: list[tuple[str, str]] = []
    where = None
    rest = iter(words)
    for word in rest:
        if word in COLOURS and (noun := next(rest, None)) in SHAPES:
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


def _an(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
