"""The drawn scenes: what the captions say is what the pixels show."""

import hashlib
import itertools
import json

import numpy as np
import pytest
from caption_truth import describes
from PIL import Image

from sat.data.synthetic import scenes
from sat.data.synthetic.captions import (
    COLORS,
    OPPOSITE,
    PHRASES,
    SHAPES,
    relation,
    true_captions,
)

SIZE = 96


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder, and the images of its Karpathy file."""
    path = scenes.draw_shapes(tmp_path_factory.mktemp("shapes"), number=200, seed=1, size=SIZE)
    return path.parent, json.loads(path.read_text())["images"]


def pairs(images, split):
    return [
        {tuple(thing["words"]) for thing in image["boxes"]}
        for image in images
        if image["split"] == split
    ]


def test_combinations_of_splits_are_disjoint(drawn):
    _, images = drawn
    sets = {s: {frozenset(p) for p in scenes.combinations_of(s)} for s in ("train", "val", "test")}
    assert not any(sets[a] & sets[b] for a, b in itertools.combinations(sets, 2))
    everything = set(itertools.product(COLORS, SHAPES))
    assert {thing for pair in sets["train"] for thing in pair} == everything
    assert len(sets["val"]) == len(sets["test"]) == 112
    for split, count in {"train": 160, "val": 20, "test": 20}.items():
        shown = pairs(images, split)
        assert len(shown) == count
        assert all(frozenset(scene) in sets[split] for scene in shown if len(scene) == 2)
        alone = sum(len(scene) == 1 for scene in shown)
        assert alone == 0 if split != "train" else 10 < alone < 45


def test_draw_shapes_captions_are_true_and_different(drawn):
    _, images = drawn
    for image in images:
        texts = [sentence["raw"] for sentence in image["sentences"]]
        assert len(set(texts)) == 5
        assert all(describes(text.split(), image["boxes"]) for text in texts)
        assert all(s["tokens"] == s["raw"].split() for s in image["sentences"])


def test_make_scene_things_are_in_one_clear_relation(drawn):
    _, images = drawn
    scenes = [image["boxes"] for image in images if len(image["boxes"]) == 2]
    assert len(scenes) > 100
    for first, second in scenes:
        a, b = first["box"], second["box"]
        gaps = max(a[0], b[0]) - min(a[2], b[2]), max(a[1], b[1]) - min(a[3], b[3])
        assert max(gaps) > 0.02 * SIZE, "apart along one axis"
        assert min(gaps) < -0.1 * SIZE, "side by side along the other one"
        assert first["words"] != second["words"]


def test_draw_scene_fills_each_box_with_its_color(drawn):
    folder, images = drawn
    for image in images[::5]:
        pixels = np.asarray(Image.open(folder / "images" / image["filename"]).convert("RGB"))
        for thing in image["boxes"]:
            colour = np.array(scenes.RGB[thing["words"][0]])
            others = [
                o for o in image["boxes"] if o is not thing and o["words"][0] == thing["words"][0]
            ]
            near = np.abs(pixels.astype(int) - colour).max(-1) <= 9
            for other in others:
                x0, y0, x1, y1 = np.round(other["box"]).astype(int)
                near[max(y0 - 1, 0) : y1 + 2, max(x0 - 1, 0) : x1 + 2] = False
            rows, columns = np.nonzero(near)
            extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            # the tip of a star or triangle is thinner than a pixel: it fades before the box ends
            assert np.abs(np.array(extent) - thing["box"]).max() < 4, (image["filename"], thing)


def test_draw_shapes_with_the_same_seed_gives_the_same_bytes(tmp_path):
    def fingerprint(folder, seed):
        scenes.draw_shapes(tmp_path / folder, number=12, seed=seed, size=64)
        files = sorted(path for path in (tmp_path / folder).rglob("*") if path.is_file())
        return [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]

    first = fingerprint("a", 3)
    assert len(first) == 13
    assert first == fingerprint("b", 3)
    assert first != fingerprint("c", 4)


def test_draw_shapes_with_invalid_arguments_raises(tmp_path):
    with pytest.raises(ValueError, match="number of scenes is 9: give at least 10"):
        scenes.draw_shapes(tmp_path, number=9)
    with pytest.raises(ValueError, match="size of the scenes is 20 pixels: give at least 32"):
        scenes.draw_shapes(tmp_path, size=20)
    scenes.draw_shapes(tmp_path, number=10, size=32)
    with pytest.raises(
        FileExistsError, match=r"dataset_shapes\.json: was drawn before.*--overwrite"
    ):
        scenes.draw_shapes(tmp_path, number=10, size=32)
    scenes.draw_shapes(tmp_path, number=11, size=32, overwrite=True)
    assert len(json.loads((tmp_path / "dataset_shapes.json").read_text())["images"]) == 11


def thing(colour, shape, x, y):
    return {"words": [colour, shape], "noun": shape, "box": [x, y, x + 20, y + 20]}


STAR, CIRCLE = thing("red", "star", 10, 50), thing("orange", "circle", 70, 45)
UNDER = thing("red", "circle", 12, 80)


def test_relation_of_boxes_is_the_larger_offset():
    assert relation(STAR["box"], CIRCLE["box"]) == "left"
    assert relation(CIRCLE["box"], STAR["box"]) == "right"
    assert relation(STAR["box"], UNDER["box"]) == "above"
    assert relation(UNDER["box"], STAR["box"]) == "below"


def test_true_captions_equal_those_worked_by_hand():
    captions = true_captions([STAR, CIRCLE])
    assert len(captions) == 24
    assert captions["a red star is to the left of an orange circle"] == 36
    assert captions["there is an orange circle right of a red star"] == 3
    assert captions["a red star with an orange circle to the right of it"] == 3
    assert captions["left of the orange circle there is a red star"] == 1
    assert captions["the red star is left of the orange circle"] == 2
    assert "a single orange circle" in true_captions([CIRCLE])


@pytest.mark.parametrize(
    ("caption", "true"),
    [
        ("a red star is to the left of an orange circle", True),
        ("there is the orange circle to the right of a red star", True),  # no template says so
        ("a red star with an orange circle right of it", True),
        ("to the right of the red star there is an orange circle", True),
        ("a red star is to the right of an orange circle", False),
        ("a red star with an orange circle left of it", False),
        ("a red star is above an orange circle", False),
        ("a red circle is to the left of an orange star", False),
        ("a red star is to the left of an orange square", False),
        ("a red star and an orange circle", False),
        ("there is a red star", False),
        ("a red star a red star left of an orange circle", False),
        ("a red star left of an orange", False),
        ("a red left of an orange circle", False),
        ("a star left of a circle", False),
        ("a red star left of an orange circle it", False),
        ("", False),
    ],
)
def test_describes_of_two_things_judges_caption(caption, true):
    assert describes(caption.split(), [STAR, CIRCLE]) is true
    assert describes(caption.split(), [CIRCLE, STAR]) is true, "the order of boxes says nothing"


def test_describes_of_one_thing_judges_caption():
    assert describes(["an", "orange", "circle", "on", "its", "own"], [CIRCLE])
    assert not describes(["a", "red", "circle"], [CIRCLE])
    assert not describes(["an", "orange", "circle", "left", "of", "a", "red", "star"], [CIRCLE])
    assert not describes(["an", "orange", "circle", "left"], [CIRCLE])


def test_describes_accepts_only_true_captions_of_every_arrangement():
    """Of all captions about two things in four arrangements, a quarter fits each arrangement."""
    places = {"left": (0, 40), "right": (80, 40), "above": (40, 0), "below": (40, 80)}
    scenes = {
        where: [thing("red", "star", *place), thing("blue", "star", *places[OPPOSITE[where]])]
        for where, place in places.items()
    }
    for said, shown in itertools.product(PHRASES, PHRASES):
        verdicts = {describes(text.split(), scenes[shown]) for text in true_captions(scenes[said])}
        assert verdicts == {said == shown}, (said, shown)
