"""Names whose accents are written in another Unicode form than that of the files on the disk."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from pathlib import Path

import pytest
from annotation_files import read, split_by_name, touch, write_json

from sat.data.annotations.boxes import add_boxes
from sat.data.annotations.names import Names

FORMS = ("NFC", "NFD")
CAFE, GYO = "été/café.jpg", "été/ギョ.jpg"


def table(names: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([("image", "caption"), *((name, "A dog") for name in names)])
    return text.getvalue()


READERS = {
    "a.csv": table,
    "a.jsonl": lambda names: "\n".join(json.dumps({"image": n, "caption": "A dog"}) for n in names),
    "a.token": lambda names: "".join(f"{name}#0\tA dog\n" for name in names),
    "coco.json": lambda names: json.dumps(
        {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
            "annotations": [{"image_id": i, "caption": "A dog"} for i in range(len(names))],
        }
    ),
    "karpathy.json": lambda names: json.dumps(
        {"images": [{"filename": name, "sentences": [{"raw": "A dog"}]} for name in names]}
    ),
    "list.json": lambda names: json.dumps(dict.fromkeys(names, "A dog")),
}


def in_form(form: str, *names: str) -> list[str]:
    return [unicodedata.normalize(form, name) for name in names]


def other(form: str) -> str:
    return FORMS[form == "NFC"]


def test_names_are_found_in_either_form_the_very_same_first() -> None:
    for form in FORMS:
        (stored,), (wanted,) = in_form(form, CAFE), in_form(other(form), CAFE)
        assert stored != wanted
        names = Names([stored, "cafe.jpg"])
        assert names.find(wanted) == names.find(stored) == stored
        assert names.find(wanted, exact=True) is names.find("café.png") is None
        both = Names([stored, wanted])
        assert (both.find(stored), both.find(wanted)) == (stored, wanted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS)
def test_images_stored_in_the_other_form_are_found_by_every_reader(
    tmp_path: Path, reader: str, form: str
) -> None:
    stored, named = in_form(form, CAFE, GYO), in_form(other(form), CAFE, GYO)
    photos = touch(tmp_path / "photos", *stored)
    (tmp_path / reader).write_text(READERS[reader](named), encoding="utf-8")
    found = read(tmp_path / reader, photos)
    assert len(found) == 2
    for record, name in zip(found, stored):
        assert record.path.samefile(photos / name)
        assert record.path.name in os.listdir(record.path.parent)


def test_the_very_same_name_is_taken_where_both_forms_are_files(tmp_path: Path) -> None:
    both = [*in_form("NFC", "é.jpg"), *in_form("NFD", "é.jpg")]
    if len(os.listdir(touch(tmp_path / "photos", *both))) == 1:
        pytest.skip("this file system takes both forms for one name")
    (tmp_path / "a.csv").write_text(table(both), encoding="utf-8")
    assert [r.path.name for r in read(tmp_path / "a.csv", tmp_path / "photos")] == both
    touch(tmp_path / "first", both[1])
    touch(tmp_path / "second", both[0])
    (tmp_path / "a.csv").write_text(table(both[:1]), encoding="utf-8")
    [found] = read(tmp_path / "a.csv", tmp_path / "first", tmp_path / "second")
    assert found.path == tmp_path / "second" / both[0]


@pytest.mark.parametrize("form", FORMS)
def test_paths_from_a_root_in_the_other_form_are_found(tmp_path: Path, form: str) -> None:
    stored, named = in_form(form, "josé/1.jpg"), in_form(other(form), "josé/1.jpg")
    touch(tmp_path, *stored)
    (tmp_path / "a.csv").write_text(table([f"{tmp_path}/{named[0]}"]), encoding="utf-8")
    [found] = read(tmp_path / "a.csv", (tmp_path / stored[0]).parent)
    assert found.path.samefile(tmp_path / stored[0])


@pytest.mark.parametrize("form", FORMS)
def test_texts_beside_images_of_the_other_form_are_read(tmp_path: Path, form: str) -> None:
    [image], [text] = in_form(form, "é.jpg"), in_form(other(form), "é.txt")
    touch(tmp_path, image, "b.jpg")
    (tmp_path / text).write_text("A dog")
    assert [record.raw for record in read(tmp_path)] == [("A dog",)]


@pytest.mark.parametrize("form", FORMS)
def test_splits_and_boxes_of_the_other_form_are_the_images(tmp_path: Path, form: str) -> None:
    [stored], [named] = in_form(form, "é.jpg"), in_form(other(form), "é.jpg")
    touch(tmp_path, stored, "b.jpg")
    coco = tmp_path / "coco.json"
    coco.write_text(READERS["coco.json"]([stored, "b.jpg"]), encoding="utf-8")
    splits = write_json(tmp_path / "splits.json", {"val": [named], "train": ["b.jpg"]})
    records = read(coco, tmp_path, splits=[splits])
    assert [record.split for record in records] == ["val", "train"]
    boxes = write_json(tmp_path / "boxes.json", {named: {"boxes": [["cat", 0, 0, 1, 1]]}})
    assert [len(r.boxes or ()) for r in add_boxes(records, boxes, 8)] == [1, 0]
    (tmp_path / "a.token").write_text(f"{stored}#0\tA dog\nb.jpg#0\tA dog\n", encoding="utf-8")
    (tmp_path / "Flickr_8k.devImages.txt").write_text(f"{named}\n", encoding="utf-8")
    assert list(split_by_name(read(tmp_path / "a.token", tmp_path)).values()) == ["val"]
