"""Karpathy's layout, read by the tutorial's rules, and what is said about files of another one."""

import json

import pytest

from sat.data.annotations import Record, check_images_exist, read_karpathy


def sentence(text):
    return {"tokens": text.lower().replace(".", "").split(), "raw": text}


def image(name, split, *texts, **more):
    return {
        "filename": name,
        "split": split,
        "sentences": [sentence(text) for text in texts],
    } | more


def written(tmp_path, images):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"images": images}, ensure_ascii=False), encoding="utf-8")
    return path


def test_read_karpathy_of_flickr_gives_records(tmp_path):
    boxes = [{"words": ["a"], "noun": "a", "box": [0, 0, 1, 1]}]
    images = [
        image("1.jpg", "train", "A dog.", "Two Hunde spielen über Größe .", imgid=7),
        image("2.jpg", "val", "A cat.", imgid=8, boxes=boxes, filepath="elsewhere"),
    ]
    first, second = read_karpathy(written(tmp_path, images), "photos", "flickr8k")
    assert first.image_id == 7
    assert first.path.as_posix() == "photos/1.jpg"
    assert first.split == "train"
    assert first.captions == (("a", "dog"), ("two", "hunde", "spielen", "über", "größe"))
    assert first.raw == ("A dog.", "Two Hunde spielen über Größe .")
    assert first.boxes is None
    assert second.path.as_posix() == "photos/2.jpg"
    assert second.boxes == boxes


def test_read_karpathy_of_coco_takes_filepath_and_coco_ids(tmp_path):
    images = [
        image("1.jpg", "restval", "A dog.", imgid=1, cocoid=391895, filepath="val2014"),
        image("2.jpg", "test", "A cat.", imgid=2, filepath="train2014"),
    ]
    first, second = read_karpathy(written(tmp_path, images), "photos", "coco")
    assert (first.image_id, first.split) == (391895, "train")
    assert first.path.as_posix() == "photos/val2014/1.jpg"
    assert (second.image_id, second.split) == (2, "test")
    assert second.path.as_posix() == "photos/train2014/2.jpg"


def test_read_karpathy_without_ids_and_raw_captions_fills_them_in(tmp_path):
    entry = image("1.jpg", "train", "A dog.")
    del entry["sentences"][0]["raw"]
    (record,) = read_karpathy(written(tmp_path, [entry]), "photos", "flickr8k")
    assert (record.image_id, record.raw) == ("1.jpg", ("a dog",))


def test_read_karpathy_with_unknown_splits_logs_them(tmp_path, caplog):
    images = [image(f"{i}.jpg", split, "A dog.") for i, split in enumerate(["train", "x", "x"])]
    assert len(read_karpathy(written(tmp_path, images), "photos")) == 1
    assert "2 images of split 'x' are left out; known splits are train, restval" in caplog.text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no json", "is not a UTF-8 JSON file"),
        ("[]", "holds no list 'images': give a file in Karpathy's layout"),
        ('{"annotations": []}', "holds no list 'images'"),
        ('{"images": []}', "holds no list 'images'"),
        ('{"images": ["1.jpg"]}', "image 0 is '1.jpg': each must be an object"),
        ('{"images": [{"filename": "1.jpg"}]}', "image 0 has no 'split'"),
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
            json.dumps({"images": [image(f"{i}", "train", "a", imgid=5) for i in range(3)]}),
            "image id 5 occurs 3 times",
        ),
    ],
)
def test_read_karpathy_of_another_layout_names_the_missing_part(tmp_path, text, told):
    path = tmp_path / "annotations.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=told) as caught:
        read_karpathy(path, "photos", "flickr8k")
    assert str(path) in str(caught.value)


def test_read_karpathy_of_coco_without_filepath_raises(tmp_path):
    path = written(tmp_path, [image("1.jpg", "train", "A dog.")])
    with pytest.raises(ValueError, match="image 0 has no 'filepath'"):
        read_karpathy(path, "photos", "coco")


def test_read_karpathy_of_a_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: there is no such annotation file"):
        read_karpathy(tmp_path / "none.json", "photos")


def test_read_karpathy_of_another_encoding_raises(tmp_path):
    path = tmp_path / "latin.json"
    path.write_bytes('{"images": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.json: is not a UTF-8 JSON file"):
        read_karpathy(path, "photos")


def test_check_images_exist_with_missing_images_names_the_first(tmp_path):
    (tmp_path / "1.jpg").touch()
    records = [Record(i, tmp_path / f"{i}.jpg", "train", (), ()) for i in range(4)]
    with pytest.raises(FileNotFoundError, match=r"0\.jpg: there is no such image, and 2 more are"):
        check_images_exist(records)
    check_images_exist(records[1:2])
