"""The script: its flags, its errors in one line, and a whole run on drawn scenes."""

import errno
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from sat.atomic_io import this_process
from sat.commands import prepare
from sat.commands.prepare import parse
from sat.data.annotations.formats import FORMATS

ROOT = Path(__file__).parents[2]


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "create_input_files.py", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_create_input_files_of_shapes_draws_and_prepares(tmp_path):
    flags = ["--dataset", "shapes", "--number", 60, "--image_size", 64, "--output_folder", tmp_path]
    done = run(*flags, "--min_word_freq", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "shapes_5_cap_per_img_1_min_word_freq\n"
    with h5py.File(tmp_path / "TRAIN_IMAGES_shapes_5_cap_per_img_1_min_word_freq.hdf5") as file:
        assert file["images"].shape == (48, 3, 64, 64)
    again = run(*flags, "--min_word_freq", 1)
    assert again.returncode == 1
    assert re.fullmatch(r"error: .*: exists already; replace it with --overwrite\n", again.stderr)
    assert run(*flags, "--min_word_freq", 1, "--overwrite").returncode == 0


def test_create_input_files_with_an_error_prints_one_line(tmp_path):
    flags = ["--dataset", "coco", "--output_folder", tmp_path / "data", "--image_folder", tmp_path]
    failed = run(*flags)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: --annotations is missing: name files")
    assert failed.stderr.count("\n") == 1
    failed = run(*flags, "--karpathy_json", tmp_path / "none.json", SAT_TRACEBACK="1")
    assert failed.returncode == 1
    assert "Traceback" in failed.stderr
    assert not (tmp_path / "data").exists()


def test_create_input_files_of_own_tables_prepares_them_together(tmp_path):
    for folder, colour, split in (("a", 50, "train"), ("b", 200, "val")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (9, 9), (colour,) * 3).save(tmp_path / folder / "1.png")
        (tmp_path / f"{folder}.csv").write_text(f"file,text,part\n1.png,A Dog runs.,{split}\n")
    flags = ["--annotations", tmp_path / "a.csv", tmp_path / "b.csv"]
    flags += ["--image_folder", tmp_path / "a", tmp_path / "b", "--dataset", "my-own.set"]
    flags += ["--columns", "image=file,caption=text,split=part", "--min_word_freq", 1]
    flags += ["--image_size", 8, "--output_folder", tmp_path / "out"]
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    name = "my-own.set_5_cap_per_img_1_min_word_freq"
    assert done.stdout == f"{name}\n"
    assert "no image is in the test split" in done.stderr
    assert not list((tmp_path / "out").glob("TEST_*"))
    for split, colour in (("TRAIN", 50), ("VAL", 200)):
        with h5py.File(tmp_path / "out" / f"{split}_IMAGES_{name}.hdf5") as file:
            assert np.array_equal(file["images"][:], np.full((1, 3, 8, 8), colour))
    (tmp_path / "b" / "1.png").unlink()
    stopped = run(*flags, "--overwrite")
    assert stopped.returncode == 1
    told = r"error: .*b.1\.png: there is no such image, .* --on_bad_image skip"
    assert re.fullmatch(told, stopped.stderr.splitlines()[-1])


def test_flags_of_several_values_come_from_words_or_yaml(tmp_path):
    (tmp_path / "one.yaml").write_text("image_folder: my photos\nannotations: a.json\n")
    (tmp_path / "two.yaml").write_text("image_folder: [a, b]\nsplits: [s.txt]\n")
    one = parse(["--config", str(tmp_path / "one.yaml"), "--overwrite"])
    assert (one.image_folder, one.annotations, one.splits) == ("my photos", "a.json", ())
    two = parse(["--config", str(tmp_path / "two.yaml"), "--annotations", "a, b.json", "[c]"])
    assert (two.image_folder, two.annotations) == (("a", "b"), ("a, b.json", "[c]"))
    assert two.splits == ("s.txt",)
    assert parse(["--image_folder=a", "--annotations", "1"]).image_folder == ("a",)
    assert parse(["--annotations", "[c]", "d]"]).annotations == ("[c]", "d]")
    twice = parse(["--annotations", "a", "b", "--boxes", "none", "--annotations=c"])
    assert twice.annotations == ("a", "b", "c")


@pytest.mark.parametrize(
    "name", ["\U0001f4f7 it's", "\U00020bb7", "caf\udce9", "[old] x/q.csv", "null"]
)
def test_names_of_any_characters_and_bytes_come_through_flags(name):
    flags = parse(["--annotations", name, "--image_folder", name, "b", "--output_folder", name])
    assert (flags.annotations, flags.image_folder) == ((name,), (name, "b"))
    assert flags.output_folder == name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("annotations: ~", "annotations is None: give a text or a list, each a text"),
        ("image_folder: 2014", "image_folder is 2014: give a text or a list, each a text"),
        ("split: [0.8, 0.1, 0.1]", "split is [0.8, 0.1, 0.1]: give nothing or a text"),
        ("overwrite: 'false'", "overwrite is 'false': give true or false"),
        ("overwrite: yes please", "overwrite is 'yes please': give true or false"),
        ("on_bad_image: no", "on_bad_image is False: give error, skip"),
        ("annotation: q.csv", "the nearest that it has is annotations"),
        ("seed: 2\nseed: 3", "(seed stands twice: give it once)"),
        ("annotations: ['']", "annotations is ('',): give a path, an empty text is none"),
        ("output_folder: ''", "output_folder is '': give a path, an empty text is none"),
    ],
)
def test_a_mistake_in_a_file_of_flags_is_one_sentence(tmp_path, capsys, text, told):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(SystemExit):
        prepare.main(["--config", str(tmp_path / "recipe.yaml")])
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert told in line


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--workers two", "workers is 'two': give nothing or a whole number"),
        (
            "--image_folders x",
            "unrecognized arguments: --image_folders x: the nearest flag is --i",
        ),
        ("--annotation x", "unrecognized arguments: --annotation x: the nearest flag is --annotat"),
        ("--annotations=", "annotations is ('',): give a path, an empty text is none"),
        ("--annotations", "argument --annotations: expected one argument"),
    ],
)
def test_a_mistyped_flag_is_one_sentence(capsys, flags, told):
    with pytest.raises(SystemExit):
        prepare.main(flags.split())
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_help_names_every_format(capsys):
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert set(FORMATS) <= set(re.findall(r"\w+", capsys.readouterr().out))


def test_create_input_files_of_tar_shards_leaves_no_unpacked_image(tmp_path):
    for split in ("train", "val", "test"):
        with tarfile.open(tmp_path / f"{split}-0.tar", "w") as archive:
            Image.new("RGB", (9, 9)).save(tmp_path / "0.png")
            (tmp_path / "0.txt").write_text("A dog")
            archive.add(tmp_path / "0.png", "0.png")
            archive.add(tmp_path / "0.txt", "0.txt")
    (tmp_path / "0.txt").unlink()
    flags = ["--annotations", tmp_path, "--min_word_freq", 1, "--image_size", 8]
    done = run(*flags, "--output_folder", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 14


def test_main_unpacks_to_a_folder_that_later_runs_remove_and_names_a_full_disk(
    tmp_path, monkeypatch, capsys
):
    unpacked = []

    def read_annotations(paths, folders, workspace, **how):
        unpacked.append(workspace())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare, "read_annotations", read_annotations)
    with pytest.raises(SystemExit):
        prepare.main(["--annotations", "a.tar", "--output_folder", str(tmp_path / "out")])
    told = r"error: .*out.unpacked images cannot be written: No space left .*: make room\n"
    assert re.fullmatch(told, capsys.readouterr().err)
    name = f".coco_5_cap_per_img_5_min_word_freq.new_{this_process()}_"
    assert unpacked[0].name.startswith(name)
    assert not unpacked[0].exists()


def test_main_with_a_file_as_output_folder_is_refused_before_annotations_are_read(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(prepare, "read_annotations", pytest.fail)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        prepare.main(["--annotations", "a", "--output_folder", str(tmp_path / "file" / "x")])
    told = r"error: .*file is no folder: choose another --output_folder\n"
    assert re.fullmatch(told, capsys.readouterr().err)


def test_create_input_files_help_imports_no_torch():
    code = "import sys, create_input_files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert "--on_bad_image {error,skip}" in run("--help").stdout


def test_create_input_files_with_config_file_lets_flags_win(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: shapes\nimage_size: 16\nmin_word_freq: 1\nnumber: 20\n")
    size, config = ("--image_size", 48), ("--config", recipe)
    for i, flags in enumerate([(*size, *config), (*config, *size)]):
        done = run(*flags, "--output_folder", tmp_path / str(i))
        assert done.returncode == 0, done.stderr
        (path,) = (tmp_path / str(i)).glob("VAL_IMAGES_*")
        with h5py.File(path) as file:
            assert file["images"].shape == (2, 3, 48, 48)


PRESS_CTRL_C = """
import runpy, signal, sys, threading
from pathlib import Path
from sat.data import image_writer
paths, read = [], image_writer.read_image_array

def watched(path):
    paths.append(path)
    if len(paths) == 20:
        print(*(file.name for file in Path(sys.argv[-1]).glob(".*/TRAIN_IMAGES_*")), flush=True)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    return read(path)

image_writer.read_image_array = watched
runpy.run_path("create_input_files.py", run_name="__main__")
"""


def test_create_input_files_after_ctrl_c_leaves_no_file(tmp_path):
    """The signal comes while the images of the first split are read, of which most are left."""
    Image.new("RGB", (9, 9)).save(tmp_path / "small.jpg")
    images = [
        {"filename": "small.jpg", "imgid": i, "split": split, "sentences": [{"tokens": ["a"] * 5}]}
        for i, split in enumerate(["train", "val", "test"] * 100)
    ]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": images}))
    flags = ["--dataset", "flickr8k", "--karpathy_json", tmp_path / "annotations.json"]
    flags += ["--image_folder", tmp_path, "--workers", "2", "--output_folder", tmp_path / "out"]
    command = [sys.executable, "-c", PRESS_CTRL_C, *map(str, flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("TRAIN_IMAGES_flickr8k_"), done.stderr
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted"
    assert list((tmp_path / "out").iterdir()) == []
