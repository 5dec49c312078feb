"""A small grammar that writes every true caption of a scene of `shapes`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")

# Phrases of the same meaning, with the weights by which they are drawn.
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


def relation(first: Sequence[float], second: Sequence[float]) -> str:
    """The place of the first box relative to the second: left, right, above or below."""
    right = (first[0] + first[2]) - (second[0] + second[2])
    down = (first[1] + first[3]) - (second[1] + second[3])
    if abs(right) > abs(down):
        return "left" if right < 0 else "right"
    return "above" if down < 0 else "below"


def true_captions(things: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Every caption of the grammar that is true of the scene, with its weight.

    `things` are the scene's `boxes` (see `sat.data.synthetic.scenes`): one or two.
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


def _an(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
