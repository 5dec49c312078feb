"""COCO's own caption files, and that they give what Karpathy's JSON of the same images gives."""

import random

import pytest
from annotation_files import raw_by_name, read, split_by_name, touch, write_json


def coco(path, images, annotations):
    """A file in the layout of captions_val2014.json."""
    listed = [
        {"license": 3, "file_name": name, "height": 360, "width": 640, "id": number}
        | {"date_captured": "2013-11-14 11:18:45", "coco_url": f"http://mscoco.org/{number}"}
        for number, name in images
    ]
    lines = [
        {"image_id": image, "id": number, "caption": text} for image, number, text in annotations
    ]
    return write_json(path, {"info": {}, "images": listed, "licenses": [], "annotations": lines})


def name_of(number, part):
    return f"COCO_{part}_{number:012d}.jpg"


def test_coco_files_with_karpathys_splits_equal_karpathys_json(tmp_path):
    rng = random.Random(0)
    numbers = rng.sample(range(600_000), 40)
    parts = {number: rng.choice(["train2014", "val2014"]) for number in numbers}
    karpathy, images, lines = [], {"train2014": [], "val2014": []}, {"train2014": [], "val2014": []}
    for i, number in enumerate(numbers):
        part = parts[number]
        sentences = [
            {
                "raw": f"A dog's toy, number {i} {k} .\n",
                "tokens": f"a dogs toy number {i} {k}".split(),
            }
            for k in range(rng.choice([5, 6]))
        ]
        split = "train" if part == "train2014" else rng.choice(["restval", "val", "test"])
        entry = {"filepath": part, "filename": name_of(number, part), "cocoid": number, "imgid": i}
        karpathy.append(entry | {"split": split, "sentences": sentences})
        images[part].append((number, name_of(number, part)))
        lines[part] += [(number, 9 * i + k, s["raw"]) for k, s in enumerate(sentences)]
    expected_file = write_json(tmp_path / "dataset_coco.json", {"images": karpathy})
    for part in images:
        rng.shuffle(images[part])
        rng.shuffle(lines[part])
        coco(tmp_path / f"captions_{part}.json", images[part], lines[part])
    files = [tmp_path / f"captions_{part}.json" for part in images]
    photos = touch(tmp_path, *(f"{part}/{name_of(n, part)}" for n, part in parts.items()))
    expected = read(expected_file, photos)
    assert len(expected) == 40
    assert read(files, photos, splits=[expected_file]) == expected
    folders = [tmp_path / "train2014", tmp_path / "val2014"]
    assert read(files, *folders, splits=[expected_file]) == expected
    assert read(files, *folders[::-1], splits=[expected_file]) == expected
    ids = {s: [e["cocoid"] for e in karpathy if e["split"] == s] for s in ("train", "restval")}
    ids = write_json(tmp_path / "ids.json", ids)
    found = read(files, photos, splits=[ids])
    assert {r.image_id for r in found} == {r.image_id for r in expected if r.split == "train"}


@pytest.mark.parametrize("swap", [False, True])
def test_coco_names_of_2014_and_2017_find_each_others_files(tmp_path, swap):
    old, new = name_of(123456, "train2014"), "000000123456.jpg"
    listed, there = (new, old) if swap else (old, new)
    path = coco(tmp_path / "captions_train2014.json", [(123456, listed)], [(123456, 1, "A dog")])
    for photos in (tmp_path / "photos", tmp_path / "train2014", tmp_path / "train2017"):
        found = touch(photos, there) / there
        (record,) = read(path, photos)
        assert (record.path, record.split) == (found, "train")
    (record,) = read(path, touch(tmp_path / "root", f"train2017/{there}"))
    assert record.path == tmp_path / "root" / "train2017" / there


def test_coco_with_odd_lines_counts_and_leaves_them_out(tmp_path, caplog):
    images = [(1, "1.jpg"), (2, "2.jpg"), (1, "1.jpg"), (3, "3.jpg")]
    lines = [
        *[(1, 10, "A dog"), (1, 10, "A dog"), (1, 11, None), (1, 12, 7), (1, 13, "  ")],
        *[(1, 14, "7 !"), (2, 15, "A\x00 cat\r\nsits"), (9, 16, "Nobody")],
    ]
    path = coco(tmp_path / "captions_val2017.json", images, lines)
    found = read(path, tmp_path)
    assert raw_by_name(found) == {"1.jpg": ["A dog"], "2.jpg": ["A  cat sits"]}
    assert split_by_name(found) == {"1.jpg": "val", "2.jpg": "val"}
    assert "3 captions that are empty or no text are left out" in caplog.text
    assert "1 captions without words are left out" in caplog.text
    assert "1 images without a caption are left out" in caplog.text
    assert "captions of 1 images that 'images' does not list are left out" in caplog.text


@pytest.mark.parametrize(
    ("images", "annotations", "told"),
    [
        ([{"id": 1}], [], "image 0 has no 'id' or no 'file_name'"),
        ([7], [], "holds no list 'images' of objects"),
        ([], [{"caption": "a"}], "annotation 0 has no 'image_id'"),
        (
            [{"id": 1, "file_name": "1.jpg"}, {"id": "1", "file_name": "2.jpg"}],
            [],
            "id '1' is both '1.jpg' and '2.jpg'",
        ),
        ([{"id": 1, "file_name": None}], [], "None is no name of an image"),
        ([{"id": 1, "file_name": "../1.jpg"}], [], "leads out of the image folder"),
        ([{"id": 1, "file_name": "/etc/1.jpg"}], [], "leads out of the image folder"),
        ([{"id": 1, "file_name": "C:\\1.jpg"}], [], "leads out of the image folder"),
        ([{"id": 1, "file_name": "..\\1.jpg"}], [], "leads out of the image folder"),
    ],
)
def test_coco_with_a_wrong_entry_names_it(tmp_path, images, annotations, told):
    path = write_json(tmp_path / "train.json", {"images": images, "annotations": annotations})
    with pytest.raises(ValueError, match=told) as caught:
        read(path, tmp_path)
    assert str(path) in str(caught.value)
