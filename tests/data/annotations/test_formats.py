"""Several files and folders together, their ids, and how splits are found."""

import json
import os
from pathlib import Path

import pytest
from annotation_files import read, split_by_name, touch, write_json

from sat.data.annotations.splits import split_in_name


def table(path, *names, **columns):
    rows = "".join(f"{name},A dog\n" for name in names)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("image,caption\n" + rows)
    return path


def test_files_with_folders_of_their_own_take_equal_names_from_each(tmp_path):
    one, two = table(tmp_path / "one.csv", "1.jpg", "2.jpg"), table(tmp_path / "two.csv", "1.jpg")
    folders = [touch(tmp_path / name, "1.jpg", "2.jpg") for name in "ab"]
    found = read([one, two], *folders)
    assert [record.path for record in found] == [
        *(folders[0] / "1.jpg", folders[0] / "2.jpg", folders[1] / "1.jpg")
    ]
    assert [record.image_id for record in found] == ["one/1.jpg", "one/2.jpg", "two/1.jpg"]
    with pytest.raises(ValueError, match=r"one\.csv: line 2: '1\.jpg' is both .*a.*1\.jpg and .*b"):
        read(one, *folders)


def test_files_with_ids_of_their_own_keep_them(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg")
    files = [table(tmp_path / "one.csv", "1.jpg"), table(tmp_path / "two.csv", "2.jpg")]
    assert [record.image_id for record in read(files, tmp_path)] == ["1.jpg", "2.jpg"]


def test_files_of_one_name_give_ids_with_what_tells_them_apart(tmp_path):
    folders = ["train", "val", "test"]
    for name in folders:
        touch(tmp_path / name, "1.jpg", "2.jpg")
    files = [table(tmp_path / name / "captions.csv", "1.jpg", "2.jpg") for name in folders]
    assert [(record.image_id, record.split) for record in read(files)] == [
        (f"{split}/captions/{number}.jpg", split) for split in folders for number in (1, 2)
    ]
    a, b = table(tmp_path / "c.csv", "1.jpg"), table(tmp_path / "c.tsv", "1.jpg")
    ids = [r.image_id for r in read([a, b], tmp_path / "train", tmp_path / "val")]
    assert ids == ["c.csv/1.jpg", "c.tsv/1.jpg"]


def test_file_given_twice_is_refused(tmp_path):
    path = table(tmp_path / "a.csv", "1.jpg")
    (tmp_path / "b.csv").symlink_to(path)
    for again in (path, tmp_path / "x" / ".." / "a.csv", tmp_path / "b.csv"):
        with pytest.raises(ValueError, match=r"a\.csv: is given 2 times as annotations: give it"):
            read([path, again], tmp_path, tmp_path / "b")


def test_no_file_at_all_is_refused():
    with pytest.raises(ValueError, match=r"annotations is \[\]: give at least one file or folder"):
        read([])


@pytest.mark.parametrize(("name", "text"), [("train.txt", "\n"), ("s.json", '{"train": []}')])
def test_splits_that_name_no_image_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"splits is .*: it names no image, give ids or file name"):
        read(table(tmp_path / "a.csv", "1.jpg"), tmp_path, splits=[tmp_path / name])


def test_one_image_in_two_files_raises(tmp_path):
    touch(tmp_path, "1.jpg")
    files = [table(tmp_path / "one.csv", "1.jpg"), table(tmp_path / "two.csv", "1.jpg")]
    with pytest.raises(ValueError, match=r"1\.jpg is in both .*one\.csv and .*two\.csv"):
        read(files, tmp_path)


def test_names_with_backslashes_or_within_the_folder_are_found(tmp_path):
    photos = touch(tmp_path / "photos", "a/1.jpg", "2.jpg")
    path = table(tmp_path / "a.csv", "a\\1.jpg", str(photos / "2.jpg"))
    assert [r.path for r in read(path, photos)] == [photos / "a" / "1.jpg", photos / "2.jpg"]
    with pytest.raises(ValueError, match="leads out of the image folder"):
        read(path, photos / "a")


def test_missing_images_keep_the_path_they_should_have(tmp_path):
    path = table(tmp_path / "a.csv", "1.jpg")
    assert read(path, tmp_path / "none")[0].path == tmp_path / "none" / "1.jpg"
    assert read(path)[0].path == tmp_path / "1.jpg"


def test_format_by_name_overrules_what_the_file_looks_like(tmp_path):
    path = table(tmp_path / "table.data", "1.jpg")
    assert len(read(path, tmp_path, format="csv")) == 1
    with pytest.raises(ValueError, match="format is 'xml': choose one of karpathy, coco"):
        read(path, tmp_path, format="xml")


def test_images_without_a_split_are_drawn_by_their_names_alone(tmp_path):
    names = [f"{i}.jpg" for i in range(2000)]
    found = split_by_name(read(table(tmp_path / "a.csv", *names), tmp_path))
    counts = {split: list(found.values()).count(split) for split in ("train", "val", "test")}
    assert 1500 < counts["train"] < 1700
    assert 150 < counts["val"] < 250
    few = read(table(tmp_path / "b" / "b.csv", *names[50:60]), tmp_path, fractions="0.8,0.1,0.1")
    assert split_by_name(few) == {name: found[name] for name in names[50:60]}
    # written down once, so that no change moves images between splits
    others = {
        name: split for name, split in found.items() if split != "train" and name in names[:12]
    }
    assert others == {"3.jpg": "val", "6.jpg": "test"}


def test_images_of_one_name_are_drawn_by_their_ids(tmp_path):
    names = [f"{i}/photo.jpg" for i in range(50)]
    touch(tmp_path, *names)
    found = read(table(tmp_path / "a.csv", *names, "3.jpg"), tmp_path)
    assert {record.split for record in found} == {"train", "val", "test"}
    assert found[-1].split == "val"  # as by its name alone


def test_image_folder_at_the_root_takes_whole_paths(tmp_path):
    touch(tmp_path, "1.jpg")
    path = table(tmp_path / "a.csv", str(tmp_path / "1.jpg"))
    assert read(path, Path("/"))[0].path == tmp_path / "1.jpg"


def test_splits_that_are_no_names_leave_their_images_out(tmp_path, caplog):
    odd = [["train"], {"train": 1}, 7, "train"]
    lines = [{"image": f"{i}.jpg", "caption": "a", "split": split} for i, split in enumerate(odd)]
    path = write_json(tmp_path / "a.json", lines)
    assert split_by_name(read(path, tmp_path)) == {"3.jpg": "train"}
    assert "1 images of split ['train'] are left out" in caplog.text


def test_pipes_and_names_that_are_not_unicode_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(FileNotFoundError, match=r"pipe\.json: there is no such annotation file"):
        read(tmp_path / "pipe.json", tmp_path)
    try:
        touch(tmp_path / "b", "\udcff.jpg")
        (tmp_path / "b" / "\udcff.txt").write_text("A dog")
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(ValueError, match="is not UTF-8: rename the image"):
        read(tmp_path / "b")


def test_fractions_overrule_the_splits_of_the_annotation(tmp_path):
    lines = [{"image": f"{i}.jpg", "caption": "a", "split": "train"} for i in range(50)]
    path = write_json(tmp_path / "a.json", lines)
    assert set(split_by_name(read(path, tmp_path)).values()) == {"train"}
    drawn = split_by_name(read(path, tmp_path, fractions="0.5,0.5"))
    assert set(drawn.values()) == {"train", "val"}


NAMES = ["train/1.jpg", "valid\\2.jpg", "test/3.jpg"]
READERS = {
    "a.csv": "image,caption\n" + "".join(f"{name},A dog\n" for name in NAMES),
    "a.jsonl": "".join(json.dumps({"image": n, "caption": "A dog"}) + "\n" for n in NAMES),
    "a.token": "".join(f"{name}#0\tA dog\n" for name in NAMES),
    "a.json": json.dumps(
        {
            "images": [{"id": i, "file_name": name} for i, name in enumerate(NAMES)],
            "annotations": [{"image_id": i, "caption": "A dog"} for i in range(3)],
        }
    ),
    "b.json": json.dumps(
        {"images": [{"filename": name, "sentences": [{"raw": "A dog"}]} for name in NAMES]}
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_splits_in_folder_names_are_found_by_every_reader(tmp_path, name):
    (tmp_path / name).write_text(READERS[name])
    assert list(split_by_name(read(tmp_path / name)).values()) == ["train", "val", "test"]


@pytest.mark.parametrize("name", READERS)
def test_split_in_the_file_name_comes_before_those_of_folders(tmp_path, name):
    path = tmp_path / "test" / f"val_{name}"
    path.parent.mkdir()
    path.write_text(READERS[name])
    assert set(split_by_name(read(path)).values()) == {"val"}


@pytest.mark.parametrize("name", READERS)
def test_split_in_the_folder_of_the_annotation_file_is_the_last(tmp_path, name):
    path = tmp_path / "test" / name
    path.parent.mkdir()
    path.write_text(READERS[name].replace("valid", "photos"))
    assert list(split_by_name(read(path)).values()) == ["train", "test", "test"]


@pytest.mark.parametrize("text", ["0.8", "1,1", "a,b", "0.5,0.6,-0.1", "nan,nan"])
def test_fractions_that_do_not_add_up_to_one_raise(tmp_path, text):
    with pytest.raises(ValueError, match=r"split is .*: give the shares of train, val and test"):
        read(table(tmp_path / "a.csv", "1.jpg"), tmp_path, fractions=text)


def test_splits_by_id_order_and_choose_the_images(tmp_path, caplog):
    lines = [{"image": f"{i}.jpg", "caption": "a", "image_id": 100 + i} for i in range(4)]
    path = write_json(tmp_path / "a.json", lines)
    splits = write_json(tmp_path / "s.json", {"validation": [103], "Train": ["1.jpg", 100]})
    found = read(path, tmp_path, splits=[splits])
    assert [(r.image_id, r.split) for r in found] == [(103, "val"), (101, "train"), (100, "train")]
    assert "1 images are not named in --splits and are left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("s.json", "[]", "is neither Karpathy's JSON nor an object of split"),
        ("s.json", '{"train": 5}', "'train' is no list of ids"),
        ("s.json", '{"train": [1], "val": [1]}', "image '1' is in two splits"),
        ("s.json", '{"x": ["1.jpg"]}', "none of the 1 images has a known split: give --splits"),
        (
            "train.txt",
            "img/1.jpg",
            "none of the 1 names of --splits is .* as 'img/1.jpg' for '1.jp",
        ),
        ("list.txt", "1.jpg", "names no split: rename it to train.txt"),
    ],
)
def test_splits_of_another_layout_name_the_fault(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=told):
        read(table(tmp_path / "a.csv", "1.jpg"), tmp_path, splits=[tmp_path / name])


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_train2014", "train"),
        ("captions_val2017", "val"),
        ("Flickr_8k.devImages", "val"),
        ("coco_karpathy_test", "test"),
        ("TRAIN", "train"),
        ("set-validation-0001", "val"),
        ("latest", None),
        ("train_and_val", None),
        ("train-0-of-training", "train"),
        ("retraining", None),
    ],
)
def test_split_in_name_reads_whole_words_only(name, split):
    assert split_in_name(name) == split


def test_json_of_the_wrong_kind_is_not_recognized(tmp_path):
    for value in (5, "text", [], {}, {"a": 5}, [[1]], None):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(value))
        with pytest.raises(ValueError, match="its layout is not recognized"):
            read(path, tmp_path)
