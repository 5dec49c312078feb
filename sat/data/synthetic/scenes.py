"""Draw the synthetic data set `shapes`: scenes, true captions, and the box of every thing.

A scene is one or two colored shapes on a soft background, side by side or one above the other. It
is stored as the `boxes` of a Karpathy file, one for each thing, for example
{"words": ["red", "star"], "noun": "star", "box": [x0, y0, x1, y1]} in pixels. The two things of a
validation or test scene never occur together in training, so its caption cannot be memorized.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from sat.atomic_io import atomic_write_text
from sat.data.progress import Progress
from sat.data.synthetic.captions import COLORS, SHAPES, true_captions

RGB = {
    "red": (214, 40, 40),
    "orange": (242, 140, 30),
    "yellow": (248, 222, 50),
    "green": (40, 150, 60),
    "blue": (40, 80, 214),
    "purple": (132, 50, 164),
    "black": (26, 26, 26),
    "white": (246, 246, 246),
}
CAPTIONS_PER_SCENE = 5
SUPERSAMPLING = 4

Point = tuple[float, float]
Name = tuple[str, str]
Thing = dict[str, Any]


def _round(corners: int, radii: Sequence[float]) -> list[Point]:
    """Points around a center, the first on top, their distances taken from `radii` in turn."""
    turns = [2 * math.pi * i / corners for i in range(corners)]
    reach = [radii[i % len(radii)] for i in range(corners)]
    return [(r * math.sin(turn), -r * math.cos(turn)) for r, turn in zip(reach, turns)]


def _heart() -> list[Point]:
    turns = [2 * math.pi * i / 60 for i in range(60)]
    return [
        (16 * math.sin(t) ** 3, -13 * math.cos(t) + 5 * math.cos(2 * t) + 2 * math.cos(3 * t))
        for t in turns
    ]


OUTLINES: dict[str, list[Point]] = {
    "circle": _round(72, [1]),
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0.5, 0), (1, 0.9), (0, 0.9)],
    "star": _round(10, [1, 0.42]),
    "cross": [
        *[(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2)],
        *[(2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1)],
    ],
    "heart": _heart(),
}


@functools.cache
def combinations_of(split: str) -> list[tuple[Name, Name]]:
    """The pairs of things that only scenes of this split show together."""
    pairs = list(itertools.combinations(itertools.product(COLORS, SHAPES), 2))
    random.Random("combinations").shuffle(pairs)
    held_out = len(pairs) // 10
    first, last = {"val": (0, 1), "test": (1, 2), "train": (2, 99)}[split]
    return pairs[first * held_out : last * held_out]


def draw_shapes(
    folder: str | Path,
    number: int = 2000,
    seed: int = 0,
    size: int = 224,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Draw scenes into `folder`/images; return the path of its dataset_shapes.json.

    The file has Karpathy's layout. A tenth of the `number` scenes is for validation, another tenth
    for test. The same arguments give the same bytes. `progress` wraps the loop, as tqdm does.
    Raises `ValueError` for fewer than 10 scenes or tiny images, and `FileExistsError` if scenes
    were drawn before.
    """
    if number < 10:
        raise ValueError(f"number of scenes is {number}: give at least 10, a tenth is for test")
    if size < 32:
        raise ValueError(f"size of the scenes is {size} pixels: give at least 32")
    path = Path(folder) / "dataset_shapes.json"
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: was drawn before; draw it again with --overwrite")
    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it describes images that change now
    held_out = number // 10
    splits = ["train"] * (number - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
    entries = []
    for i, split in enumerate(progress(splits, desc="drawing") if progress else splits):
        generator = random.Random(f"{seed}/{i}")
        things = make_scene(generator, split, size)
        filename = f"scene_{i:05d}.png"
        draw_scene(things, size, generator).save(path.parent / "images" / filename)
        entries.append(_entry(i, split, filename, things, generator))
    atomic_write_text(path, json.dumps({"images": entries, "dataset": "shapes"}))
    return path


def make_scene(generator: random.Random, split: str, size: int) -> list[Thing]:
    """Place two things of a combination of this split, apart and clearly in one relation.

    In one of six training scenes, one of them stands alone.
    """
    pairs = list(generator.choice(combinations_of(split)))
    generator.shuffle(pairs)
    if split == "train" and generator.random() < 1 / 6:
        pairs.pop()
    if len(pairs) == 1:
        centers = [(generator.uniform(0.25, 0.75), generator.uniform(0.25, 0.75))]
    else:
        shared = generator.uniform(0.3, 0.7)
        across = [shared + generator.uniform(-0.05, 0.05) for _ in pairs]
        along = [generator.uniform(0.18, 0.24), generator.uniform(0.76, 0.82)]
        sideways = generator.random() < 0.5
        centers = [(a, b) if sideways else (b, a) for a, b in zip(along, across)]
    sides = [generator.uniform(0.27, 0.34) for _ in pairs]
    return [
        {"words": list(pair), "noun": pair[1], "box": _box(pair[1], center, side, size)}
        for pair, center, side in zip(pairs, centers, sides)
    ]


def draw_scene(things: Sequence[Thing], size: int, generator: random.Random) -> Image.Image:
    """Draw each thing, antialiased, in a shade of its color on a soft uneven gray."""
    image = _background(size, generator)
    for thing in things:
        color, shape = thing["words"]
        shade = tuple(value + generator.randint(-9, 9) for value in RGB[color])
        left, top, right, bottom = thing["box"]
        corner = math.floor(left), math.floor(top)
        extent = math.ceil(right) - corner[0], math.ceil(bottom) - corner[1]
        mask = Image.new("L", (extent[0] * SUPERSAMPLING, extent[1] * SUPERSAMPLING))
        points = [
            ((left + x * (right - left) - corner[0]), (top + y * (bottom - top) - corner[1]))
            for x, y in _unit_outline(shape)
        ]
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        ImageDraw.Draw(mask).polygon(scaled, fill=255)
        image.paste(shade, corner, mask.reduce(SUPERSAMPLING))
    return image


def _background(size: int, generator: random.Random) -> Image.Image:
    """A middle gray with a tint, in smooth patches, on which every color is visible."""
    cells = generator.randint(2, 6)
    tint = [generator.randint(125, 175) for _ in range(3)]
    strength = generator.choice([0, 6, 14])
    values = [
        channel + generator.randint(-strength, strength)
        for _ in range(cells * cells)
        for channel in tint
    ]
    patches = Image.frombytes("RGB", (cells, cells), bytes(values))
    return patches.resize((size, size), Image.Resampling.BICUBIC)


def _unit_outline(shape: str) -> list[Point]:
    """The outline stretched to the square from (0, 0) to (1, 1)."""
    columns, rows = zip(*OUTLINES[shape])
    left, top, width, height = min(columns), min(rows), _span(columns), _span(rows)
    return [((x - left) / width, (y - top) / height) for x, y in OUTLINES[shape]]


def _box(shape: str, center: Point, side: float, size: int) -> list[float]:
    """The box of a shape in pixels; center and longer side are fractions of the image side."""
    columns, rows = zip(*OUTLINES[shape])
    scale = side / max(_span(columns), _span(rows)) / 2
    half = _span(columns) * scale, _span(rows) * scale
    corners = (center[0] - half[0], center[1] - half[1], center[0] + half[0], center[1] + half[1])
    return [round(value * size, 2) for value in corners]


def _span(values: Sequence[float]) -> float:
    return max(values) - min(values)


def _entry(
    number: int, split: str, filename: str, things: list[Thing], generator: random.Random
) -> dict[str, Any]:
    """One image of the Karpathy file, with different captions drawn by weight."""
    keyed = [(generator.random() ** (1 / w), words) for words, w in true_captions(things).items()]
    chosen = [words for _, words in sorted(keyed, reverse=True)[:CAPTIONS_PER_SCENE]]
    generator.shuffle(chosen)
    first = number * CAPTIONS_PER_SCENE
    sentences = [
        {"tokens": words.split(), "raw": words, "imgid": number, "sentid": first + i}
        for i, words in enumerate(chosen)
    ]
    return {
        "filename": filename,
        "imgid": number,
        "split": split,
        "sentids": [sentence["sentid"] for sentence in sentences],
        "sentences": sentences,
        "boxes": things,
    }
