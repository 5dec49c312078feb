"""Attention supervised by boxes: the words, the cells and the mirrored view that count."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from sat.data.dataloader import Batch
from sat.data.dataset import CaptionDataset
from sat.data.vocabulary import Vocabulary
from sat.training.attention_boxes import AttentionBoxes

VOCABULARY = Vocabulary.build([["a", "cat", "and", "dog", "sleep"]], 1)
LEFT, RIGHT = [0.0, 0.0, 4.0, 8.0], [4.0, 0.0, 8.0, 8.0]


@pytest.fixture
def boxes(tmp_path: Path) -> AttentionBoxes:
    """Image 3 has a cat on the left and a dog on the right; no other image has boxes."""
    VOCABULARY.save(tmp_path / "WORDMAP_x.json")
    things = [{"words": ["cat"], "box": LEFT}, {"words": ["dog"], "box": RIGHT}]
    data: Any = SimpleNamespace(boxes=lambda: {3: things}, image_size=8, folder=tmp_path, name="x")
    return AttentionBoxes(cast(CaptionDataset, data))


def batch(captions: list[str], indices: list[int], views: list[int] | None = None) -> Batch:
    lines = [VOCABULARY.encode(caption.split()) for caption in captions]
    width = max(map(len, lines))
    return Batch(
        torch.zeros(len(indices), 1),
        torch.tensor([line + [0] * (width - len(line)) for line in lines]),
        torch.tensor([len(line) for line in lines]),
        torch.tensor(indices),
        None if views is None else torch.tensor(views),
    )


def maps(rows: int, steps: int, *left: tuple[int, int, float]) -> torch.Tensor:
    """Flat maps of 2 x 2 cells; those at (row, step) have this mass in the left column."""
    alphas = torch.full((rows, steps, 4), 0.25)
    for row, step, mass in left:
        alphas[row, step] = torch.tensor([mass, 1 - mass, mass, 1 - mass]) / 2
    return alphas


def test_loss_is_that_of_the_words_that_name_objects(boxes: AttentionBoxes) -> None:
    told = batch(["a cat and a dog sleep"], [3])
    alphas = maps(1, 7, (0, 1, 0.9), (0, 4, 0.3))
    assert boxes.loss(alphas, told).item() == pytest.approx(-math.log(0.9) - math.log(0.7))


def test_mirrored_image_has_mirrored_boxes(boxes: AttentionBoxes) -> None:
    told = batch(["a cat", "a cat"], [3, 3], [0, 1])
    alphas = maps(2, 3, (0, 1, 0.9), (1, 1, 0.9))
    assert boxes.loss(alphas, told).item() == pytest.approx(-math.log(0.9) - math.log(0.1))


def test_captions_that_share_an_image_share_its_boxes(boxes: AttentionBoxes) -> None:
    told = batch(["a dog", "cat", "a cat", "dog"], [2, 3], [0, 0])
    alphas = maps(4, 3, (0, 1, 0.9), (2, 1, 0.6), (3, 0, 0.8))
    assert boxes.loss(alphas, told).item() == pytest.approx(-math.log(0.6) - math.log(0.2))


def test_batch_without_boxes_costs_nothing(boxes: AttentionBoxes) -> None:
    assert boxes.loss(maps(1, 3), batch(["a cat"], [1])).item() == 0


def test_gradient_moves_attention_into_the_box_and_is_finite_outside(boxes: AttentionBoxes) -> None:
    scores = torch.tensor([[[0.0, 500.0, 0.0, 0.0]] * 2, [[0.0, 1.0, 0.0, 1.0]] * 2])
    scores.requires_grad_(True)
    boxes.loss(scores.softmax(-1), batch(["cat", "cat"], [3, 3])).backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert (scores.grad[1, 0, [0, 2]] < 0).all()  # the left cells shall grow
    assert (scores.grad[1, 0, [1, 3]] > 0).all()
    assert (scores.grad[:, 1] == 0).all()  # the end names nothing


def test_data_without_boxes_are_refused(tmp_path: Path) -> None:
    data: Any = SimpleNamespace(boxes=dict, image_size=8, folder=tmp_path, name="x")
    with pytest.raises(ValueError, match="box_weight is not 0, but no training image in"):
        AttentionBoxes(data)
