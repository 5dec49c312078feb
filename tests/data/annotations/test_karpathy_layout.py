"""Karpathy's layout, read by the tutorial's rules, and what is said about files of another one."""

import json

import pytest
from annotation_files import raw_by_name, read, touch, write_json


def sentence(text):
    return {"tokens": text.lower().replace(".", "").split(), "raw": text}


def image(name, split, *texts, **more):
    sentences = [sentence(text) for text in texts]
    return {"filename": name, "split": split, "sentences": sentences} | more


def written(tmp_path, images):
    return write_json(tmp_path / "annotations.json", {"images": images})


def test_karpathy_of_flickr_gives_records(tmp_path):
    boxes = [{"words": ["a"], "noun": "a", "box": [0, 0, 1, 1]}]
    images = [
        image("1.jpg", "train", "A dog.", "Two Hunde spielen über Größe .", imgid=7),
        image("2.jpg", "val", "A cat.", imgid=8, boxes=boxes),
    ]
    first, second = read(written(tmp_path, images), tmp_path / "photos")
    assert first.image_id == 7
    assert first.path == tmp_path / "photos" / "1.jpg"
    assert (first.split, second.split) == ("train", "val")
    assert first.captions == (("a", "dog"), ("two", "hunde", "spielen", "über", "größe"))
    assert first.raw == ("A dog.", "Two Hunde spielen über Größe .")
    assert (first.boxes, second.boxes) == (None, boxes)


def test_karpathy_of_coco_takes_filepath_and_coco_ids(tmp_path):
    images = [
        image("1.jpg", "restval", "A dog.", imgid=1, cocoid=391895, filepath="val2014"),
        image("2.jpg", "TEST", "A cat.", imgid=2, filepath="train2014"),
        image("3.jpg", "validation", "A cat."),
    ]
    first, second, third = read(written(tmp_path, images), tmp_path / "photos")
    assert (first.image_id, first.split) == (391895, "train")
    assert first.path == tmp_path / "photos" / "val2014" / "1.jpg"
    assert (second.image_id, second.split) == (2, "test")
    assert (third.image_id, third.split) == ("3.jpg", "val")


def test_karpathy_without_splits_takes_them_from_folders_or_draws_them(tmp_path):
    images = [image("1.jpg", None, "A dog.", filepath="val"), image("3.jpg", "x", "A cat.")]
    del images[1]["split"]
    found = read(written(tmp_path, images), tmp_path)
    assert [record.split for record in found] == ["val", "val"]  # 3.jpg: by its hash


def test_karpathy_with_equal_names_in_two_folders_tells_them_apart(tmp_path):
    photos = touch(tmp_path / "photos", "a/1.jpg", "b/1.jpg")
    images = [image("1.jpg", "train", "A dog.", filepath=folder) for folder in "ab"]
    found = read(written(tmp_path, images), photos)
    assert [record.path for record in found] == [photos / "a" / "1.jpg", photos / "b" / "1.jpg"]
    assert [record.image_id for record in found] == ["a/1.jpg", "b/1.jpg"]


def test_karpathy_with_equal_names_for_one_file_raises(tmp_path):
    photos = touch(tmp_path / "photos", "1.jpg")
    images = [image("1.jpg", "train", "A dog.", filepath=folder) for folder in "ab"]
    with pytest.raises(ValueError, match=r"'a/1\.jpg' and 'b/1\.jpg' are both found at .*1\.jpg"):
        read(written(tmp_path, images), photos)


def test_karpathy_without_ids_raw_or_tokens_fills_them_in(tmp_path):
    entry = image("1.jpg", "train", "A dog.", "A cat.", "Two cats.")
    del entry["sentences"][0]["raw"]
    entry["sentences"][1]["raw"] = None
    del entry["sentences"][2]["tokens"]
    (record,) = read(written(tmp_path, [entry]), tmp_path)
    assert (record.image_id, record.raw) == ("1.jpg", ("a dog", "a cat", "Two cats."))
    assert record.captions == (("a", "dog"), ("a", "cat"), ("two", "cats"))


def test_karpathy_with_unknown_splits_logs_them(tmp_path, caplog):
    images = [image(f"{i}.jpg", split, "A dog.") for i, split in enumerate(["train", "x", "x"])]
    assert len(read(written(tmp_path, images), tmp_path)) == 1
    assert "2 images of split 'x' are left out; known splits are train, training" in caplog.text


def test_karpathy_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "windows.json"
    path.write_text(json.dumps({"images": [image("1.jpg", "val", "A dog.")]}), "utf-8-sig")
    assert raw_by_name(read(path, tmp_path)) == {"1.jpg": ["A dog."]}


def test_karpathy_with_special_words_takes_them_out(tmp_path, caplog):
    wrapped = {"tokens": ["<start>", "a", "dog", "<end>"], "raw": "<start> A dog . <end>"}
    entry = image("1.jpg", "train", "A cat.") | {"sentences": [wrapped, sentence("A cat.")]}
    (record,) = read(written(tmp_path, [entry]), tmp_path)
    assert record.captions == (("a", "dog"), ("a", "cat"))
    assert record.raw == ("A dog .", "A cat.")
    assert "1 captions hold <start>, <end>, <pad> or <unk>, which are taken out" in caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no json", "is not a UTF-8 JSON file"),
        ("[" * 100_000, "is not a UTF-8 JSON file"),
        ("[]", "holds no list 'images': give a file in Karpathy's layout"),
        ('{"annotations": []}', "holds no list 'images'"),
        ('{"images": []}', "holds no list 'images'"),
        ('{"images": ["1.jpg"]}', "image 0 is '1.jpg': each must be an object"),
        ('{"images": [{"filename": "1.jpg", "split": 1}]}', "'split' 1: it must be a str"),
        ('{"images": [{"split": "train"}]}', "image 0 has no 'filename'"),
        ('{"images": [{"split": "train", "filename": "1"}]}', "image 0 has no 'sentences'"),
        ('{"images": [{"split": "train", "filename": 1}]}', "'filename' 1: it must be a str"),
        (
            json.dumps(
                {"images": [image("1.jpg", "train") | {"sentences": [{"tokens": "a dog"}]}]}
            ),
            r"image 0 \(1.jpg\) has a sentence without a list 'tokens' of words",
        ),
        (
            json.dumps({"images": [image("1.jpg", "train") | {"sentences": [{"tokens": [1]}]}]}),
            r"image 0 \(1.jpg\) has a sentence without a list 'tokens' of words",
        ),
        (
            json.dumps({"images": [image(f"{i}", "train", "a", imgid=5) for i in range(3)]}),
            "image id 5 occurs 3 times",
        ),
        (
            json.dumps({"images": [image(f"{i}", "train", "a", imgid=i) for i in (42, "42")]}),
            "image id 42 occurs 2 times",
        ),
        *(
            (
                json.dumps({"images": [image("1", "train", "a", boxes=boxes)]}),
                "has the box .*: give",
            )
            for boxes in (5, [5], [{"words": ["a"]}], [{"words": 1, "box": [0, 0, 1, 1]}])
        ),
        (
            json.dumps({"images": [image("1", "train", "a", imgid=[1])]}),
            r"image id \[1\] is neither a whole number nor a text",
        ),
    ],
)
def test_karpathy_of_another_layout_names_the_missing_part(tmp_path, text, told):
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as caught:
        read(path, tmp_path, format="karpathy")
    assert str(path) in str(caught.value)


def test_karpathy_of_another_encoding_raises(tmp_path):
    path = tmp_path / "latin.json"
    path.write_bytes('{"images": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.json: is not a UTF-8 JSON file"):
        read(path, tmp_path)
