"""The pointing game on maps and boxes small enough to compute by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sat.config.model import Preprocessing
from sat.data.vocabulary import Vocabulary
from sat.decoding.hypothesis import Hypothesis
from sat.evaluation import PointingGame
from sat.metrics.pointing_game import (
    cells_inside,
    centered_blob,
    named_objects,
    share_all_named,
)
from sat.models.base import Output

PREPROCESSING = Preprocessing(size=8)  # two by two cells of four pixels
VOCABULARY = Vocabulary.build([["a", "red", "blue", "ball", "box", "over"]], min_word_freq=1)
TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT = [0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8]
FLAT = (0.25, 0.25, 0.25, 0.25)


class Scripted(nn.Module):
    """A captioning model whose features float[B, P, T] are its attention maps."""

    samples_attention = False
    start_id, end_id, pad_id = VOCABULARY.start_id, VOCABULARY.end_id, VOCABULARY.pad_id

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode_cached(self, cached: Tensor) -> Tensor:
        return cached

    def forward(self, features: Tensor, captions: Tensor, lengths: Tensor) -> Output:
        assert captions[0, 0] == self.start_id
        assert captions.shape == (1, int(lengths))
        logits = torch.zeros(1, captions.shape[1] - 1, len(VOCABULARY))
        return Output(logits, features.transpose(1, 2)[:, : captions.shape[1] - 1])


SCORES = ("nouns", "peak_inside", "mass_inside", "chance", "all_named")


def thing(words: str, box: list[float]) -> dict:
    return {"words": words.split(), "noun": words.split()[-1], "box": box}


def game_of(*scenes: tuple[str, list[tuple[float, ...]], list[dict] | None]) -> PointingGame:
    """The game played with scenes (caption, one map per word, boxes), in batches of one."""
    batches, references = [], []
    for i, (text, maps, boxes) in enumerate(scenes):
        words = VOCABULARY.encode(text.split())[1:-1]
        padded = [*maps, *[FLAT] * (len(words) + 1 - len(maps))]
        features = torch.tensor([padded]).transpose(1, 2)  # (1, P, T)
        batches.append((features, {i: Hypothesis(words, 0.0, True)}))
        references.append({} if boxes is None else {"boxes": boxes})
    batches.reverse()  # images are identified by index, not by order
    captioner = SimpleNamespace(
        model=Scripted(), vocabulary=VOCABULARY, preprocessing=PREPROCESSING
    )
    game = PointingGame(captioner, references)
    for features, captions in batches:
        game.add(features, captions)
    return game


def play(*scenes: tuple[str, list[tuple[float, ...]], list[dict] | None]) -> dict[str, float]:
    """The scores of the model's own maps."""
    game = game_of(*scenes)
    return {name: value for name, value in game.scores().items() if name in SCORES}


def test_pointing_game_uses_map_of_the_noun_only():
    away, there = (0.1, 0.2, 0.3, 0.4), (0.7, 0.1, 0.1, 0.1)
    found = play(("a red ball", [away, away, there], [thing("red ball", TOP_LEFT)]))
    assert found == pytest.approx(
        {"nouns": 1, "peak_inside": 1, "mass_inside": 0.7, "chance": 0.25, "all_named": 1}
    )
    found = play(("a red ball", [there, there, away], [thing("red ball", TOP_LEFT)]))
    assert found == pytest.approx(
        {"nouns": 1, "peak_inside": 0, "mass_inside": 0.1, "chance": 0.25, "all_named": 1}
    )


def test_pointing_game_flat_map_is_read_row_by_row():
    up, right = (0.0, 0.1, 0.8, 0.1), (0.1, 0.8, 0.0, 0.1)  # the third cell is below the first
    for box, peak, mass in ((BOTTOM_LEFT, 1, 0.8), (TOP_RIGHT, 0, 0.1)):
        found = play(("ball", [up], [thing("ball", box)]))
        assert (found["peak_inside"], found["mass_inside"]) == (peak, pytest.approx(mass))
    assert play(("ball", [right], [thing("ball", TOP_RIGHT)]))["peak_inside"] == 1


def test_pointing_game_partly_covered_cell_counts_by_its_share():
    peak = (0.6, 0.4, 0.0, 0.0)
    found = play(("ball", [peak], [thing("ball", [0, 0, 2, 4])]))
    assert found == pytest.approx(
        {"nouns": 1, "peak_inside": 0.5, "mass_inside": 0.3, "chance": 2 * 4 / 64, "all_named": 1}
    )
    found = play(("ball", [peak], [thing("ball", [2, 1, 5, 3])]))  # a quarter, and an eighth
    assert found == pytest.approx(
        {"nouns": 1, "peak_inside": 0.25, "mass_inside": 0.2, "chance": 3 * 2 / 64, "all_named": 1}
    )


@pytest.mark.parametrize("box", [TOP_LEFT, [1, 2, 7, 3.5], [0, 0, 8, 8], [2.5, 3, 3, 3.25]])
def test_pointing_game_uniform_map_equals_chance(box):
    found = play(("a ball", [FLAT, FLAT], [thing("ball", box)]))
    area = (box[2] - box[0]) * (box[3] - box[1]) / 64
    assert found["chance"] == pytest.approx(area, abs=1e-9)
    assert found["mass_inside"] == pytest.approx(area, abs=1e-7)


def test_pointing_game_two_objects_are_distinguished_by_adjective():
    left, right = (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)
    boxes = [thing("blue ball", TOP_RIGHT), thing("red ball", TOP_LEFT)]
    words = "red ball over blue ball"
    seen = play((words, [FLAT, left, FLAT, FLAT, right], boxes))
    assert seen == {
        "nouns": 2,
        "peak_inside": 1.0,
        "mass_inside": 1.0,
        "chance": 0.25,
        "all_named": 1,
    }
    swapped = play((words, [FLAT, right, FLAT, FLAT, left], boxes))
    assert swapped == {
        "nouns": 2,
        "peak_inside": 0.0,
        "mass_inside": 0.0,
        "chance": 0.25,
        "all_named": 1,
    }


def test_pointing_game_several_images_mean_is_over_nouns():
    here, away = (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)
    both = [thing("red ball", TOP_LEFT), thing("blue box", [0, 0, 8, 4])]
    found = play(
        ("red ball over blue box", [FLAT, here, FLAT, FLAT, here], both),
        ("red ball", [FLAT, away], [thing("red ball", TOP_LEFT)]),
    )
    assert found == pytest.approx(
        {"nouns": 3, "peak_inside": 2 / 3, "mass_inside": 2 / 3, "chance": 1 / 3, "all_named": 1}
    )


def test_pointing_game_caption_without_object_is_not_counted():
    nothing = dict.fromkeys(("nouns", "peak_inside", "mass_inside", "chance", "all_named"), 0)
    assert play(("a blue ball", [], [thing("red ball", TOP_LEFT)])) == nothing
    assert play(("a ball", [], None)) == nothing
    assert play(("", [], [thing("ball", TOP_LEFT)])) == nothing


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red ball", [(2, [TOP_LEFT])]),
        ("red ball", [(1, [TOP_LEFT])]),
        ("ball red", []),
        ("a red box over a ball", []),
        ("a red ball over a red ball", [(2, [TOP_LEFT]), (6, [TOP_LEFT])]),
        ("a box over a red ball", [(1, [TOP_RIGHT]), (5, [TOP_LEFT])]),
        ("red", []),
    ],
)
def test_named_objects_match_all_words_in_order(caption, expected):
    boxes = [thing("red ball", TOP_LEFT), thing("box", TOP_RIGHT)]
    if caption.startswith("a red box"):
        boxes = boxes[:1]
    assert named_objects(caption.split(), boxes) == expected


def test_cells_inside_whole_pixel_box_equals_pixel_count():
    """Boxes on whole pixels: the share of a cell is that of its pixels inside."""
    random = np.random.default_rng(0)
    for grid in ((2, 2), (3, 4), (12, 6), (1, 1)):
        left, top = random.integers(0, 11, 2)
        right, bottom = random.integers([left + 1, top + 1], 13)
        pixels = np.zeros((12, 12))
        pixels[top:bottom, left:right] = 1
        h, w = grid
        counted = pixels.reshape(h, 12 // h, w, 12 // w).mean((1, 3))
        assert cells_inside([[left, top, right, bottom]], 12, grid) == pytest.approx(counted)


def test_cells_inside_box_beyond_the_image_is_clipped():
    assert cells_inside([[-4, -4, 4, 20]], 8, (2, 2)) == pytest.approx(np.array([[1, 0], [1, 0]]))
    assert cells_inside([[9, 0, 12, 8]], 8, (2, 2)) == pytest.approx(np.zeros((2, 2)))


def test_share_all_named_needs_the_full_name_of_every_object():
    ball, box = thing("red ball", TOP_LEFT), thing("blue box", TOP_RIGHT)
    cases = [
        ("a red ball over a blue box", [ball, box], True),
        ("a blue box over a red ball", [ball, box], True),
        ("a red ball over a red box", [ball, box], False),  # one colour wrong
        ("a blue ball over a red box", [ball, box], False),  # colours swapped
        ("a red ball", [ball, box], False),  # one object left out
        ("a red ball", [ball], True),
        ("a red ball", [], None),  # no boxes known: not counted
    ]
    counted = [right for _, _, right in cases if right is not None]
    captions = [text.split() for text, _, _ in cases]
    share = share_all_named(captions, [objects for _, objects, _ in cases])
    assert share == pytest.approx(sum(counted) / len(counted))
    for words, (_, objects, right) in zip(captions, cases):
        assert share_all_named([words], [objects]) == float(right or False)
    assert share_all_named([], []) == 0


def test_pointing_game_compares_with_a_blob_in_the_center_and_measures_movement():
    boxes = [thing("ball", TOP_LEFT), thing("box", [2, 2, 6, 6])]
    left, right = (1.0, 0.0, 0.0, 0.0), (0.0, 0.5, 0.5, 0.0)
    found = game_of(("ball over box", [left, FLAT, right], boxes)).scores()
    assert found["movement"] == pytest.approx((0.75 + 0.5) / 2)
    assert found["center_inside"] == pytest.approx((1 + 0.25) / 2)  # of four equal cells the first
    assert found["center_mass"] == pytest.approx((0.25 + 0.25) / 2)


def test_blob_in_the_center_peaks_there_and_sums_to_one():
    blob = centered_blob((5, 7))
    assert blob.argmax() == 2 * 7 + 3
    assert blob.sum() == pytest.approx(1)
    assert blob == pytest.approx(blob[::-1, ::-1])


def test_word_of_several_objects_of_a_kind_has_the_boxes_of_all():
    boxes = [thing("cat", TOP_LEFT), thing("dog", TOP_RIGHT), thing("cat", TOP_RIGHT)]
    assert named_objects(["two", "cats"], boxes) == [(1, [TOP_LEFT, TOP_RIGHT])]


@pytest.mark.parametrize(
    ("caption", "kind", "position"),
    [
        ("a man rides", "person", 1),
        ("two men ride", "person", 1),
        ("some people", "person", 1),
        ("a hot dog on a plate", "hot dog", 2),
        ("a hot dog on a plate", "dog", None),
        ("a dog on a plate", "hot dog", None),
        ("a plane above", "airplane", 1),
        ("a stuffed animal", "teddy bear", 2),
        ("three benches", "bench", 1),
        ("knives and forks", "knife", 0),
        ("puppies", "dog", 0),
        ("a bag", "handbag", 1),
        ("a bag", "suitcase", 1),
    ],
)
def test_kinds_of_coco_are_known_by_their_other_names(caption, kind, position):
    found = named_objects(caption.split(), [thing(kind, TOP_LEFT)])
    assert found == ([] if position is None else [(position, [TOP_LEFT])])


def test_cell_in_several_boxes_has_the_largest_share():
    both = cells_inside([[0, 0, 4, 4], [2, 2, 6, 4]], 8, (2, 2))
    assert both == pytest.approx(np.array([[1, 0.25], [0, 0]]))
