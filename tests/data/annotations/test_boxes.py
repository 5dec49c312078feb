"""Boxes of objects: COCO's file, plain fractions, and what is wrong with them."""

import json
from pathlib import Path

import pytest

from sat.data.annotations.boxes import add_boxes
from sat.data.annotations.record import Record

COCO = {
    "images": [{"id": 9, "width": 200, "height": 100, "file_name": "a.jpg"}],
    "annotations": [{"image_id": 9, "bbox": [50, 25, 100, 50], "category_id": 3, "iscrowd": 0}],
    "categories": [{"id": 3, "name": "hot dog"}],
}
FRACTIONS = {"9": {"size": [200, 100], "boxes": [["hot dog", 0.25, 0.25, 0.5, 0.5]]}}


def record(image_id: int | str, name: str) -> Record:
    return Record(image_id, Path("images", name), "val", (("a",),), ("a",))


def write(folder: Path, content: object) -> Path:
    path = folder / "boxes.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("content", [COCO, FRACTIONS], ids=["coco", "fractions"])
def test_boxes_are_pixels_of_the_squashed_image(tmp_path, content):
    found = add_boxes([record(9, "b.jpg"), record(10, "c.jpg")], write(tmp_path, content), 64)
    assert found[0].boxes == [{"words": ["hot", "dog"], "box": [16, 16, 48, 48]}]
    assert found[1].boxes is None


@pytest.mark.parametrize("content", [COCO, {"a.jpg": FRACTIONS["9"]}], ids=["coco", "fractions"])
def test_image_is_known_by_its_name_too(tmp_path, content):
    [found] = add_boxes([record("x", "a.jpg")], write(tmp_path, content), 64)
    assert found.boxes is not None


def test_file_that_knows_none_of_the_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of its images, as '9', is in the annotations: key"):
        add_boxes([record(1, "b.jpg")], write(tmp_path, FRACTIONS), 64)


def test_boxes_in_pixels_without_sizes_are_refused(tmp_path):
    edge, pixels = ["cat", 0.0, 0.5, 1.0, 0.504], ["dog", 10, 10, 200, 200]
    assert add_boxes([record(9, "a.jpg")], write(tmp_path, {"9": {"boxes": [edge]}}), 64)
    told = r"boxes\.json: image 9 has the box \[10, 10, 200, 200\]: give left, top, .* as fractions"
    with pytest.raises(ValueError, match=told):
        add_boxes([record(9, "a.jpg")], write(tmp_path, {"9": {"boxes": [edge, pixels]}}), 64)
    with pytest.raises(ValueError, match=r"has the box \[-3, 0, 1, 1\]"):
        add_boxes([record(9, "a.jpg")], write(tmp_path, {"9": {"boxes": [["c", -3, 0, 1, 1]]}}), 64)


@pytest.mark.parametrize(
    "content",
    [
        [],
        7,
        {"9": []},
        {"9": {"boxes": [["cat", 0, 0, 1]]}},
        {"9": {"boxes": [["cat", "x", 0, 1, 1]]}},
        COCO | {"categories": []},
        COCO | {"images": [{"id": 9, "width": 0, "height": 1, "file_name": "a.jpg"}]},
        COCO | {"annotations": [{"image_id": 9}]},
    ],
)
def test_file_of_another_layout_is_refused_in_a_sentence(tmp_path, content):
    with pytest.raises(ValueError, match=r"boxes\.json: is no file of boxes .*give COCO's"):
        add_boxes([record(9, "a.jpg")], write(tmp_path, content), 64)
