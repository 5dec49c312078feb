"""Prepared files, read back field by field and held against the tutorial's rules told plainly."""

import json
import os
import shutil
import tempfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from sat.atomic_io import this_process
from sat.config.data import InputFilesConfig
from sat.data.annotations.record import Record
from sat.data.caption_selection import check_images_exist
from sat.data.dataset import CaptionDataset
from sat.data.image_files import read_image
from sat.data.prepare import create_input_files, temporary_folder
from sat.data.transforms import resize
from sat.data.vocabulary import Vocabulary
from sat.metrics.bleu import bleu

WORDS = ["a", "dog", "cat", "runs", "sits", "on", "the", "grass", "snow", "with", "Ball", "é"]
CONFIG = InputFilesConfig(
    dataset="flickr8k", captions_per_image=3, min_word_freq=3, max_len=8, image_size=8, workers=2
)
NAME = "flickr8k_3_cap_per_img_3_min_word_freq"


@pytest.fixture
def records(tmp_path):
    """Thirty images in mixed splits, each with one to five captions of one to eleven words."""
    generator, records = np.random.default_rng(0), []
    (tmp_path / "photos").mkdir()
    for i in range(30):
        path = tmp_path / "photos" / f"{i}.png"
        width, height = (int(side) for side in generator.integers(9, 30, 2))
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        lengths = generator.integers(1, 12, generator.integers(1, 6))
        captions = tuple(tuple(generator.choice(WORDS, n).tolist()) for n in lengths)
        split = ["train", "val", "train", "test"][i % 4]
        raw = tuple(" ".join(words).capitalize() + " ." for words in captions)
        records.append(Record(100 + i, path, split, captions, raw, [{"box": i}] if i % 2 else None))
    return records


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(folder, split, kind):
    return json.loads((folder / f"{split.upper()}_{kind}_{NAME}.json").read_text())


def test_create_input_files_follows_the_tutorials_layout(records, output):
    assert create_input_files(records, output, CONFIG) == NAME
    kinds = ["IMAGES_{}.hdf5", "CAPTIONS_{}.json", "CAPLENS_{}.json", "REFERENCES_{}.json"]
    expected = {f"{s}_{kind.format(NAME)}" for s in ("TRAIN", "VAL", "TEST") for kind in kinds}
    assert set(contents(output)) == expected | {f"WORDMAP_{NAME}.json", f"MANIFEST_{NAME}.json"}
    word_map = json.loads((output / f"WORDMAP_{NAME}.json").read_text())
    for split in ("train", "val", "test"):
        mine = [record for record in records if record.split == split]
        if split == "train":
            mine = [r for r in mine if any(len(words) <= 8 for words in r.captions)]
        captions, lengths = read(output, split, "CAPTIONS"), read(output, split, "CAPLENS")
        assert len(captions) == len(lengths) == 3 * len(mine)
        with h5py.File(output / f"{split.upper()}_IMAGES_{NAME}.hdf5") as file:
            pictures = [resize(read_image(r.path), CONFIG.preprocessing) for r in mine]
            assert np.array_equal(file["images"][:], np.stack(pictures))
            assert file.attrs["captions_per_image"] == 3
        for i, (caption, length) in enumerate(zip(captions, lengths)):
            assert len(caption) == 8 + 2
            assert caption[0] == word_map["<start>"]
            assert caption[length - 1] == word_map["<end>"]
            assert caption[length:] == [0] * (10 - length)
            fitting = [words for words in mine[i // 3].captions if len(words) <= 8]
            fitting = fitting or [words[:8] for words in mine[i // 3].captions]
            numbers = [[word_map.get(w, word_map["<unk>"]) for w in words] for words in fitting]
            assert caption[1 : length - 1] in numbers


def in_fitting_training_captions(records: list[Record]) -> dict[str, int]:
    """How often each word occurs there, in the order of its first occurrence."""
    counted: dict[str, int] = {}
    for record in records:
        for words in record.captions:
            for word in words:
                if record.split == "train" and len(words) <= 8:
                    counted[word] = counted.get(word, 0) + 1
    return counted


def test_create_input_files_word_map_holds_frequent_training_words(records, output):
    rare = Record(1, records[0].path, "train", (("rare", "rare"), ("rare",) * 9), ("", ""))
    elsewhere = Record(2, records[0].path, "val", (("hidden",) * 7,), ("",))
    create_input_files([*records, rare, elsewhere], output, CONFIG)
    counted = in_fitting_training_captions(records)
    frequent = [word for word, count in counted.items() if count >= 3]
    expected = ["<pad>", *frequent, "<unk>", "<start>", "<end>"]
    word_map = json.loads((output / f"WORDMAP_{NAME}.json").read_text())
    assert list(word_map.items()) == [(word, i) for i, word in enumerate(expected)]


@pytest.mark.parametrize("more_than", [0, 20, 40])
def test_create_input_files_with_all_splits_counts_every_caption(records, output, more_than):
    elsewhere = Record(2, records[0].path, "val", (("hidden",) * 60,), ("",))  # too long to be kept
    counted: dict[str, int] = {}
    for record in [*records, elsewhere]:
        for words in record.captions:
            for word in words:
                counted[word] = counted.get(word, 0) + 1
    expected = {}
    for word in counted:
        if counted[word] > more_than:
            expected[word] = len(expected) + 1
    expected = {**expected, "<unk>": len(expected) + 1, "<start>": len(expected) + 2}
    expected |= {"<end>": len(expected) + 1, "<pad>": 0}
    config = replace(CONFIG, min_word_freq=more_than + 1, vocabulary_splits="all")
    name = create_input_files([*records, elsewhere], output, config)
    word_map = json.loads((output / f"WORDMAP_{name}.json").read_text())
    assert word_map == expected
    assert "hidden" in word_map


def test_create_input_files_with_vocabulary_size_names_its_files(records, output):
    config = replace(CONFIG, vocabulary_size=5, min_word_freq=1)
    name = create_input_files(records, output, config)
    assert name == "flickr8k_3_cap_per_img_5_words"
    counted = in_fitting_training_captions(records)
    frequent = sorted(counted, key=counted.get, reverse=True)[:5]
    word_map = json.loads((output / f"WORDMAP_{name}.json").read_text())
    assert set(word_map) == {"<pad>", *frequent, "<unk>", "<start>", "<end>"}


def test_create_input_files_samples_more_and_repeats_fewer_captions(records, output):
    create_input_files(records, output, CONFIG)
    captions = read(output, "test", "CAPTIONS")
    mine = [record for record in records if record.split == "test"]
    for i, record in enumerate(mine):
        got = [tuple(caption) for caption in captions[3 * i : 3 * i + 3]]
        fitting = {words for words in record.captions if len(words) <= 8}
        assert len(set(got)) == min(3, max(len(fitting), 1))


def test_create_input_files_references_hold_all_captions(records, output):
    create_input_files(records, output, CONFIG)
    mine = [record for record in records if record.split == "val"]
    assert read(output, "val", "REFERENCES") == {
        "images": [
            {
                "image_id": r.image_id,
                "file_name": r.path.name,
                "width": read_image(r.path).width,
                "height": read_image(r.path).height,
                "captions": list(r.raw),
            }
            | ({"boxes": r.boxes} if r.boxes else {})
            for r in mine
        ]
    }


def test_create_input_files_with_the_same_seed_gives_the_same_bytes(records, tmp_path):
    made = {}
    for name, change in [("one", {"workers": 1}), ("four", {"workers": 4}), ("seed", {"seed": 5})]:
        create_input_files(records, tmp_path / name, InputFilesConfig(**vars(CONFIG) | change))
        made[name] = contents(tmp_path / name)
    assert made["one"] == made["four"]
    assert made["one"] != made["seed"]


def test_create_input_files_into_a_relative_folder_is_as_into_an_absolute_one(
    records, tmp_path, monkeypatch
):
    """Python 3.12 and later give temporary folders absolute names."""
    real = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *names: os.path.abspath(real(*names)))
    monkeypatch.chdir(tmp_path)
    for folder in (Path("relative"), tmp_path / "absolute"):
        create_input_files(records, folder, CONFIG)
    assert contents(tmp_path / "relative") == contents(tmp_path / "absolute")


def test_create_input_files_with_long_captions_leaves_out_training_only(records, output, caplog):
    caplog.set_level("INFO", logger="sat")
    long = ("a",) * 11
    extra = [
        Record(i, records[0].path, s, (long, ()), ("A …", ""))
        for i, s in enumerate(["train", "test"])
    ]
    create_input_files([*records, *extra], output, CONFIG)
    train = [entry["image_id"] for entry in read(output, "train", "REFERENCES")["images"]]
    assert 0 not in train
    assert len(train) == 14, "of 15, one more has only a long caption"
    assert read(output, "test", "REFERENCES")["images"][-1]["captions"] == ["A …", ""]
    assert read(output, "test", "CAPLENS")[-3:] == [10, 10, 10]
    assert "train: 16 images" in caplog.text
    assert "a shorter one 0 are kept with captions cut and 2 are left out" in caplog.text
    assert "a shorter one 1 are kept with captions cut and 0 are left out" in caplog.text


@pytest.mark.parametrize("missing", ["train", "val"])
def test_create_input_files_of_a_split_without_images_raises(records, output, missing):
    others = [record for record in records if record.split != missing]
    with pytest.raises(
        ValueError,
        match=rf"the {missing} split has no images \(found: .*'test': 7.*--split 0\.6",
    ):
        create_input_files(others, output, CONFIG)
    assert not output.exists()


def test_create_input_files_of_long_captions_alone_raises(records, output):
    long = [replace(r, captions=(("a",) * 9,)) if r.split == "train" else r for r in records]
    with pytest.raises(
        ValueError, match=r"the train split has no captions of up to 8 words \(15 im"
    ):
        create_input_files(long, output, CONFIG)


def test_create_input_files_without_test_images_removes_older_test_files(records, output, caplog):
    create_input_files(records, output, CONFIG)
    others = [record for record in records if record.split != "test"]
    create_input_files(others, output, CONFIG, overwrite=True)
    assert "no image is in the test split: train and val alone are prepared" in caplog.text
    assert len(contents(output)) == 10
    assert not list(output.glob("TEST_*"))


def test_create_input_files_of_unsegmented_texts_scores_tokens(records, output):
    """Chinese, Japanese, Thai: the tokens are words, the raw text has no blanks."""
    joined = [replace(r, raw=tuple("".join(words) for words in r.captions)) for r in records]
    create_input_files(joined, output, CONFIG)
    written = read(output, "val", "REFERENCES")
    assert written["scored"] == "tokens"
    mine = [record for record in joined if record.split == "val"]
    assert [image["captions"] for image in written["images"]] == [list(r.raw) for r in mine]
    dataset = CaptionDataset(output, NAME, "val")
    vocabulary = Vocabulary.build((words for r in joined for words in r.captions), 1)
    references = [image["captions"] for image in dataset.references(vocabulary)]
    said = [vocabulary.decode(vocabulary.encode(r.captions[0])) for r in mine]
    assert bleu(references, said)["Bleu_1"] == 1.0
    assert bleu([list(r.raw) for r in mine], said)["Bleu_4"] == 0.0


def test_create_input_files_over_existing_files_raises_unless_overwrite(records, output):
    create_input_files(records, output, CONFIG)
    before = contents(output)
    with pytest.raises(FileExistsError, match=r"\.hdf5: exists already; .*--overwrite"):
        create_input_files(records[:20], output, CONFIG)
    assert contents(output) == before
    create_input_files(records[:20], output, CONFIG, overwrite=True)
    assert set(contents(output)) == set(before)
    assert contents(output) != before


def stop_after(number, error):
    """A progress bar that raises `error` after that many photos of all splits together."""
    seen = 0

    def progress(iterable, **options):
        nonlocal seen
        for item in iterable:
            yield item
            seen += 1
            if seen == number:
                raise error

    return progress


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("no space left on device")])
def test_create_input_files_when_interrupted_changes_nothing(records, output, error):
    with pytest.raises(type(error)):
        create_input_files(records, output, CONFIG, progress=stop_after(25, error))
    assert contents(output) == {}
    create_input_files(records, output, CONFIG)
    before = contents(output)
    with pytest.raises(type(error)):
        create_input_files(
            records[:20], output, CONFIG, overwrite=True, progress=stop_after(15, error)
        )
    assert contents(output) == before


def test_create_input_files_removes_folders_of_killed_processes_alone(records, output, monkeypatch):
    output.mkdir()
    with temporary_folder(output, CONFIG) as own:
        monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)  # no process has so high a number
        killed = output / f".{NAME}.new_{this_process()}_left"
        monkeypatch.undo()
        killed.mkdir()
        create_input_files(records, output, CONFIG)
        assert (Path(own).exists(), killed.exists()) == (True, False)


def test_create_input_files_with_bad_images_raises_and_leaves_nothing(records, output):
    records[17].path.write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"17\.png: cannot be read as an image"):
        create_input_files(records, output, CONFIG)
    assert contents(output) == {}
    records[21].path.unlink()
    with pytest.raises(FileNotFoundError, match=r"21\.png: there is no such image, and 0 more"):
        create_input_files(records, output, CONFIG)


def test_check_images_exist_with_missing_images_names_the_first(tmp_path):
    (tmp_path / "1.jpg").touch()
    records = [Record(i, tmp_path / f"{i}.jpg", "train", (), ()) for i in range(4)]
    with pytest.raises(FileNotFoundError, match=r"0\.jpg: there is no such image, and 2 more are"):
        check_images_exist(records)
    check_images_exist(records[1:2])


def test_create_input_files_with_skip_leaves_out_their_captions(records, output, tmp_path, caplog):
    config = InputFilesConfig(**vars(CONFIG) | {"on_bad_image": "skip"})
    bad = [record for record in records if record.split == "val"][1:3]
    bad[0].path.write_bytes(b"no photo")
    bad[1].path.unlink()
    create_input_files(records, output, config)
    create_input_files([r for r in records if r not in bad], tmp_path / "without", config)
    dropped = output / f"DROPPED_{NAME}.txt"
    assert dropped.read_text().splitlines() == [str(record.path) for record in bad]
    dropped.unlink()
    assert contents(output) == contents(tmp_path / "without")
    assert "val: 2 of 8 images skipped" in caplog.text


def test_create_input_files_of_a_split_of_bad_images_raises(records, output):
    config = InputFilesConfig(**vars(CONFIG) | {"on_bad_image": "skip"})
    for record in records:
        if record.split == "test":
            record.path.unlink()
    with pytest.raises(ValueError, match="none of the 7 images of the test split can be read"):
        create_input_files(records, output, config)
    assert contents(output) == {}


def test_create_input_files_on_a_full_disk_raises_at_once(records, output, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5000))
    with pytest.raises(
        OSError, match=r"29 images of 8 pixels need 1\.253e-05 GB and 5e-06 GB .* make room"
    ):
        create_input_files(records, output, CONFIG)
    assert contents(output) == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 10**9))
    create_input_files(records, output, CONFIG)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("captions_per_image", 0), ("min_word_freq", 0), ("max_len", 0), ("workers", 0)],
        *[("vocabulary_size", 0), ("vocabulary_splits", "val")],
        *[
            ("image_size", 0),
            ("dataset", "a/b"),
            ("dataset", ""),
            ("resize", "pad"),
            ("on_bad_image", "no"),
        ],
    ],
)
def test_input_files_config_with_invalid_values_names_them(field, value):
    with pytest.raises(ValueError, match=f"{field.replace('_size', '.size')} is {value!r}: "):
        InputFilesConfig(**{field: value})
