"""caption.py: photos in, captions, JSON and figures out; the tutorial's flags; errors in a line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import hub_server
import numpy as np
import pytest
import scripted
import tiny
import torch
from PIL import Image

import sat.captioner
from sat.caption_result import CaptionResult
from sat.captioner import Captioner, PreparedImage
from sat.checkpoints import native
from sat.commands import caption as script
from sat.config.decoding import DecodingConfig
from sat.config.model import DecoderConfig, EncoderConfig, ModelConfig, Preprocessing
from sat.data.image_files import find_images
from sat.data.vocabulary import SPECIAL_WORDS, Vocabulary
from sat.models.factory import build_model

ROOT = Path(__file__).parents[2]
COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A checkpoint of a small random captioner, whose captions differ from photo to photo."""
    words = (*SPECIAL_WORDS, "a", "dog", "cat", "runs", "on", "grass")
    vocabulary = Vocabulary({word: number for number, word in enumerate(words)})
    config = ModelConfig(
        EncoderConfig("efficientnet_lite0", "none", blocks=2),
        DecoderConfig(attention_dim=16, embed_dim=16, decoder_dim=16),
        Preprocessing(size=32, resize="crop"),
    )
    torch.manual_seed(0)
    captioner = build_model(config, vocabulary)
    with torch.no_grad():
        for parameter in captioner.decoder.parameters():
            parameter.mul_(6)
    folder = tmp_path_factory.mktemp("run") / "best"
    native.save(folder, captioner, vocabulary, config)
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch) -> list[str]:
    """Photos of noise in the folder photos of an otherwise empty current folder."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    Path("photos").mkdir()
    for name in ("b.jpg", "a.png", "c.JPG"):
        pixels = random.integers(0, 255, (5, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 40), 0).save(f"photos/{name}")
    Path("photos/notes.txt").write_text("no photo")
    return ["photos/a.png", "photos/b.jpg", "photos/c.JPG"]


@pytest.fixture
def scripted_captioner(tmp_path, monkeypatch) -> Captioner:
    """Loaded as any model; it says the same of an image in any batch, on any processor.

    Its images are in the folder scripted of the current folder.
    """
    monkeypatch.chdir(tmp_path)
    Path("scripted").mkdir()
    tiny.photos(Path("scripted"))
    made = scripted.captioner(Path("scripted"))
    monkeypatch.setattr(sat.captioner, "load", lambda *_, **__: made)
    return made


@pytest.fixture
def caption(monkeypatch, capsys):
    """Runs the script in this process; returns its exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["caption.py", *map(str, arguments)])
        code = 0
        try:
            script.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_one_photo_gives_its_caption_and_a_figure(caption, model, photos):
    how = ("--beam_size", 3, "--min_length", 2)
    code, out, err = caption("--img", photos[0], "--model", model, *how)
    expected = sat.captioner.load(model).caption(photos[0], beam_size=3, min_length=2)
    assert len(expected.words) >= 2
    assert (code, err) == (0, "")
    assert out == f"{expected.text}\nwhere it looked: a_att.png\n"
    with Image.open("a_att.png") as figure:
        figure.verify()


def test_many_photos_are_captioned_as_one_by_one(caption, scripted_captioner):
    names = [f"scripted/{i}.png" for i in range(tiny.PHOTOS)]
    code, out, _ = caption("-i", *names, "-m", "any", "-b", 3, "--max_length", 9)
    texts = [scripted_captioner.caption(name, beam_size=3, max_length=9).text for name in names]
    assert texts == scripted.captions(scripted.BEAM, 9)
    assert code == 0
    assert out.splitlines() == [f"{name}: {text}" for name, text in zip(names, texts)]
    assert os.listdir() == ["scripted"]  # no figures unless there is a folder for them


def test_json_holds_what_the_library_returns(caption, scripted_captioner):
    names = sorted(f"scripted/{i}.png" for i in range(tiny.PHOTOS))
    flags = ("-i", "scripted", "-m", "any", "--num_beams", 3, "--num_return_sequences", 2)
    expected = [
        {
            "image": name,
            "caption": one.text,
            "score": pytest.approx(one.score, abs=1e-4),
            "finished": one.finished,
            "words": one.words,
            "token_log_probs": pytest.approx(one.token_log_probs, abs=1e-4),
        }
        for name in names
        for one in scripted_captioner.candidates([name], beam_size=3, num_return_sequences=2)[0]
    ]
    code, out, _ = caption(*flags, "--json")
    assert code == 0
    assert json.loads(out) == expected
    code, out, _ = caption(*flags, "--json", "results/captions.json")
    assert json.loads(Path("results/captions.json").read_text()) == expected
    lines = [f"{one['image']}: {one['caption']} ({one['score'].expected:.2f})" for one in expected]
    assert out.splitlines() == lines


def test_attention_can_be_another_than_the_models_own(caption, model, photos):
    captioner = sat.captioner.load(model)
    usual = captioner.caption(photos[0]).score
    captioner.model.decoder.test_attention = "argmax"
    _, out, _ = caption("-i", photos[0], "-m", model, "--test_attention", "argmax", "--json")
    (record,) = json.loads(out)
    assert record["score"] == pytest.approx(captioner.caption(photos[0]).score, abs=1e-5)
    assert record["score"] != pytest.approx(usual, abs=1e-3)


def test_precision_is_that_of_the_weights(caption, model, photos):
    half = sat.captioner.load(model, dtype=torch.bfloat16).caption(photos[0]).score
    assert half != sat.captioner.load(model).caption(photos[0]).score
    _, out, _ = caption("-i", photos[0], "-m", model, "--precision", "bfloat16", "--json")
    assert json.loads(out)[0]["score"] == half
    code, _, err = caption("-i", photos[0], "-m", model, "--precision", "float16")
    assert (code, "precision is 'float16', which is for CUDA" in err) == (1, True)


def test_sampling_follows_the_seed(caption, model, photos):
    flags = ("-i", photos[0], "-m", model, "--json", "--top_p", 0.9, "--temperature", 3)
    draws = [caption(*flags, "--max_length", 9, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_options_that_the_models_own_allow_are_taken(caption, model, photos, tmp_path):
    wide, made = tmp_path / "wide", sat.captioner.load(model)
    decoding = DecodingConfig(beam_size=10, max_length=100)
    config = dataclasses.replace(made.config, decoding=decoding)
    native.save(wide, made.model, made.vocabulary, config)
    flags = ("-i", photos[0], "--json", "--num_return_sequences", 8, "--min_length", 60)
    code, out, err = caption(*flags, "-m", wide)
    assert (code, err) == (0, "")
    records = json.loads(out)
    assert len(records) == 8
    assert all(len(record["token_log_probs"]) > 60 for record in records)
    code, _, err = caption(*flags, "-m", model)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("error: min_length is 60: give a number from 0 to max_length (51)")


@pytest.mark.parametrize("wrong", [("--top_p", 2), ("--min_length", 9, "--max_length", 8)])
def test_wrong_options_are_refused_before_the_model_is_read(caption, photos, wrong):
    code, _, err = caption("-i", photos[0], "-m", "no model", *wrong)
    assert code == 1
    assert err.startswith(f"error: {wrong[0][2:]} is {wrong[1]}")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--json", "photos"), "json is 'photos': that is a folder, name a file"),
        (("--json", "photos/a.png/b.json"), "photos/a.png is no folder: choose another --json"),
        (("--output", "a.doc"), "a.doc is no name for a figure: let it end in one of .png, "),
        (("--output", "photos/a.png/b"), "photos/a.png is no folder: choose another --output"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_before_captioning(caption, photos, flags, told):
    code, out, err = caption("-i", photos[0], "-m", "no model", *flags)
    assert (code, out) == (1, "")
    assert told in err


@pytest.mark.parametrize("flag", ["--beam_size", "--num_beams", "-b"])
def test_flags_of_the_tutorial_and_of_hugging_face_are_understood(flag):
    flags = script.parse(
        ["-i", "a.jpg", "-m", "b.pth.tar", "-wm", "w.json", flag, "4", "--dont_smooth"]
    )
    assert (flags.img, flags.model, flags.word_map) == (["a.jpg"], "b.pth.tar", "w.json")
    assert (flags.beam_size, flags.dont_smooth) == (4, True)
    plain = script.parse(["--img", "a.jpg", "--model", "b"])
    assert "beam_size" not in plain, "the checkpoint's own choice stands"


class Namer(Captioner):
    """A captioner whose caption is the colour of the photo."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.config = ModelConfig()

    def to(self, device: object) -> Namer:
        return self

    def caption_batch(self, seen: list[PreparedImage], options: DecodingConfig) -> list[list[Any]]:
        self.batches.append(len(seen))
        names = [list(COLOURS)[int(np.argmax(one.pixels[:, 0, 0]))] for one in seen]
        return [
            [CaptionResult(name, 0.0, True, [name], np.ones((1, 1, 1)), one.photo, (0, 0, 1, 1))]
            for name, one in zip(names, seen)
        ]


def test_broken_photos_are_named_and_the_others_keep_their_own_caption(
    caption, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sat.captioner, "load", lambda *_, **__: namer)
    namer, expected, names = Namer(), [], []
    for i, name in enumerate(list(COLOURS) * 13):
        names.append(f"{i:02}.png")
        Image.new("RGB", (4, 4), COLOURS[name]).save(names[-1])
        expected.append(f"{names[-1]}: {name}")
    for i in (3, 16, 17, 38):
        Path(names[i]).write_bytes(b"no photo")
    Path(names[5]).unlink()
    code, out, err = caption("-i", *names, "-m", "any")
    broken = (3, 5, 16, 17, 38)
    assert code == 1
    assert out.splitlines() == [line for i, line in enumerate(expected) if i not in broken]
    assert namer.batches == [14, 14, 6]
    complaints = [line for line in re.split(r"[\r\n]", err) if line.startswith("error")]
    assert [line.split(":")[1].strip() for line in complaints] == [names[i] for i in broken]


def test_a_folder_takes_the_figures_of_many_photos(caption, model, photos):
    Path("other").mkdir()
    Path("other/a.png").write_bytes(Path("photos/a.png").read_bytes())
    code, out, _ = caption(
        "-i", "photos/a.png", "other", "-m", model, "--output", "figures", "--max_length", 2
    )
    assert (code, out.splitlines()[-1]) == (0, "where it looked: figures")
    assert sorted(os.listdir("figures")) == ["a_2_att.png", "a_att.png"]


def test_figures_that_cannot_be_written_lose_no_caption(caption, model, photos):
    Path("figures").mkdir()
    Path("figures/a_att.png").mkdir()  # where the first figure belongs
    flags = ("--output", "figures", "--json", "all.json", "--max_length", 2)
    code, out, err = caption("-i", "photos", "-m", model, *flags)
    assert code == 1
    assert [line.partition(":")[0] for line in out.splitlines()[:3]] == photos
    assert err.count("error: ") == 1
    assert "error: figures/a_att.png is a folder: name the file" in err
    assert sorted(os.listdir("figures")) == ["a_att.png", "b_att.png", "c_att.png"]
    assert [one["image"] for one in json.loads(Path("all.json").read_text())] == photos


def test_the_figure_can_be_smooth_or_not_and_of_any_format(caption, model, photos):
    flags = ("-i", photos[0], "-m", model, "--max_length", 2, "--min_length", 1)
    caption(*flags, "-o", "smooth.png")
    caption(*flags, "-o", "blocks.png", "--dont_smooth")
    caption(*flags, "-o", "figure.pdf")
    assert Path("smooth.png").read_bytes() != Path("blocks.png").read_bytes()
    assert Path("figure.pdf").read_bytes().startswith(b"%PDF-")
    assert sorted(os.listdir()) == ["blocks.png", "figure.pdf", "photos", "smooth.png"]


def test_address_is_captioned_as_its_file(caption, scripted_captioner):
    name, expected = "scripted/4.png", scripted.BEAM[4]
    with hub_server.serve({"4.png": Path(name).read_bytes()}) as server:
        url = f"{server.address}/me/mine/resolve/main/4.png?size=1"
        code, out, err = caption("-i", url, name, "-m", "any", "-b", 3, "-o", "figures")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == [f"{url}: {expected}", f"{name}: {expected}"]
    assert sorted(os.listdir("figures")) == ["4_2_att.png", "4_att.png"]


def test_address_that_nobody_answers_is_named(caption, model, photos):
    url = "http://127.0.0.1:9/cat.jpg?size=1"
    code, _, err = caption("-i", url, "-m", model)
    assert code == 1
    assert err.startswith(f"error: {url}: cannot be downloaded (")


def test_find_photos_takes_files_folders_and_globs_in_order(photos):
    Path("odd[1].png").touch()
    Path("photos/deep").mkdir()
    Path("photos/deep/d.png").touch()

    def found(*names: str) -> list[str]:
        return [str(path) for path in find_images(names)]

    assert found("photos") == photos
    assert found("photos/*g") == ["photos/a.png", "photos/b.jpg"]
    assert found("photos/**/*.png") == ["photos/a.png", "photos/deep/d.png"]
    assert found("photos/c.JPG", "photos/[ab].*") == [photos[2], *photos[:2]]
    assert found("odd[1].png", "missing.jpg") == ["odd[1].png", "missing.jpg"]


def test_name_figures():
    one, two = Path("x/a.jpg"), Path("y/a.png")
    assert script.name_figures([one], None) == [Path("a_att.png")]
    assert script.name_figures([one, two], None) == [None, None]
    assert script.name_figures([one], "b.pdf") == [Path("b.pdf")]
    assert script.name_figures([one], "b") == [Path("b/a_att.png")]
    third = Path("z/a.gif")
    names = [str(path) for path in script.name_figures([one, two, third], "b")]
    assert names == ["b/a_att.png", "b/a_2_att.png", "b/a_3_att.png"]
    clip = [Path(f"{i}/frame.jpg") for i in range(300)]
    names = [path.name for path in script.name_figures([*clip, Path("frame_2.jpg")], "b")]
    assert len(set(names)) == 301
    assert max(map(len, names)) < 30  # a file system takes 255


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-i", "photos/a.png", "-m", "nix"], r"nix is not a checkpoint folder .*: give the best"),
        (["-i", "gone.jpg", "-m", "MODEL"], r"gone\.jpg: there is no such image; check the path"),
        (["-i", "*.gif", "-m", "MODEL"], r"\*\.gif holds no images: no file matches it; check"),
        (["-i", "empty", "-m", "MODEL"], r"empty holds no images: no file in it ends in \.jpg, "),
        (["-i", "photos", "-o", "a.png", "-m", "MODEL"], r"output is a\.png for 3 images: name a"),
        (["-i", "photos/a.png", "-o", "a.doc", "-m", "MODEL"], r"a\.doc is no name for a figure"),
        (["-i", "photos/a.png", "-b", "0", "-m", "MODEL"], r"beam_size is 0: give "),
        (["-i", "photos/a.png", "-wm", "x", "-m", "MODEL"], r".* leave word_map out"),
    ],
)
def test_errors_are_one_sentence(caption, model, photos, flags, message):
    Path("empty").mkdir()
    code, _, err = caption(*[model if flag == "MODEL" else flag for flag in flags])
    assert code == 1
    assert re.fullmatch(f"error: {message}.*\n", err)
    assert sorted(os.listdir()) == ["empty", "photos"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, without a display."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, ROOT / "caption.py", *map(str, arguments)]
    return subprocess.run(command, env=kept, capture_output=True, text=True)


def test_show_without_a_display_says_so_after_the_caption(model, photos):
    done = run("-i", photos[0], "-m", model, "--show", "--max_length", 3, "--min_length", 1)
    assert done.returncode == 1
    assert re.fullmatch(r"error: matplotlib's backend 'agg' opens no windows: .*\n", done.stderr)
    assert done.stdout.strip()


HELP = """
import atexit, runpy, sys
atexit.register(lambda: print(sorted({"torch", "numpy", "PIL", "matplotlib"} & {*sys.modules})))
sys.argv[1:] = ["--help"]
runpy.run_path("caption.py", run_name="__main__")
"""


def test_help_waits_for_no_large_package_and_names_every_option():
    command = [sys.executable, "-c", HELP]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"
    for name in ("--img", "--model", "--word_map", "--output", "--json", "--dont_smooth", "--show"):
        assert name in printed
    for name in DecodingConfig.__dataclass_fields__.keys() - {"tokens"}:
        assert f"--{name} " in printed


def test_output_none_draws_no_figure(caption, model, photos):
    code, out, _ = caption("--img", photos[0], "--model", model, "--output", "none")
    assert code == 0
    assert len(out.splitlines()) == 1
    assert os.listdir() == ["photos"]


def test_name_of_a_sample_stands_for_the_image_that_comes_with_the_library(caption, model, photos):
    code, out, _ = caption("--img", "cat.jpg", "--model", model)
    assert code == 0
    assert out.endswith("where it looked: cat_att.png\n")


def test_max_megapixels_refuses_a_larger_image(caption, model, photos):
    code, _, err = caption("--img", photos[0], "--model", model, "--max_megapixels", 0.001)
    assert code == 1
    assert "has 0.0024 megapixels, more than 0.001" in err


@pytest.mark.parametrize(
    ("locale", "encoding", "name"),
    [
        ("C.UTF-8", "cp1252", rb"\u72ac.png"),
        ("C.UTF-8", "ascii", rb"\u72ac.png"),
        ("C", "ascii", rb"\udce7\udc8a\udcac.png"),
    ],
)
def test_a_terminal_that_lacks_letters_loses_no_image(model, photos, locale, encoding, name):
    os.rename("photos/a.png", "photos/\u72ac.png")
    command = [sys.executable, ROOT / "caption.py", "-i", "photos", "-m", model, "--json", "a.json"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    environment |= {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    names = [record["image"] for record in json.loads(Path("a.json").read_text(encoding="utf-8"))]
    assert "photos/\u72ac.png" in names
    assert len(names) == 3
