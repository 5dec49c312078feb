"""An evaluation is written once, in the layouts that COCO's tools, spreadsheets and papers read."""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import scripted
import tiny

import sat
from sat.checkpoints import native
from sat.commands import caption, evaluate
from sat.config.checks import from_dict
from sat.config.decoding import DecodingConfig
from sat.evaluation import Evaluation
from sat.results import csv_table, latex_table, pointing_report, table, write_results

ROOT = Path(sat.__file__).parents[1]
PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
PYCOCOEVALCAP, SERVER = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
KINDS = ("results", "scores")
RUNS = [DecodingConfig(beam_size=size, max_length=12) for size in (1, 3)]


def evaluation(first: float, penalty: float, unfinished: int) -> Evaluation:
    scores = {"Bleu_1": first, "Bleu_4": 0.1234, "brevity_penalty": penalty}
    return Evaluation(scores, [], [], "nltk", unfinished)


EVALUATIONS = [evaluation(0.5, 1.0, 0), evaluation(0.66666, 0.98765, 7)]


def test_the_table_by_hand():
    assert table(RUNS, EVALUATIONS).splitlines() == [
        "| beam | Bleu_1 | Bleu_4 | brevity_penalty | unfinished |",
        "| --- | --- | --- | --- | --- |",
        "| 1 | 50.0 | 12.3 | 1.000 | 0 |",
        "| 3 | 66.7 | 12.3 | 0.988 | 7 |",
    ]


def test_csv_table_is_read_by_the_standard_library():
    rows = list(csv.DictReader(csv_table(RUNS, EVALUATIONS).splitlines()))
    assert [row["beam"] for row in rows] == ["1", "3"]
    assert list(rows[1].values()) == ["3", "66.7", "12.3", "0.988", "7"]


def test_latex_table_by_hand():
    assert latex_table(RUNS, EVALUATIONS).splitlines() == [
        r"\begin{tabular}{rrrrr}",
        r"beam & Bleu\_1 & Bleu\_4 & brevity\_penalty & unfinished \\",
        r"\hline",
        r"1 & 50.0 & 12.3 & 1.000 & 0 \\",
        r"3 & 66.7 & 12.3 & 0.988 & 7 \\",
        r"\end{tabular}",
    ]


def test_tables_have_a_column_for_length_penalties_that_differ():
    runs = [DecodingConfig(beam_size=3, length_penalty=value) for value in (0.0, 0.5)]
    rows = csv_table(runs, EVALUATIONS).splitlines()
    assert [row.split(",")[:2] for row in rows] == [
        ["beam", "length_penalty"],
        ["3", "0"],
        ["3", "0.5"],
    ]


def test_results_and_tables_are_written_side_by_side(tmp_path):
    write_results(tmp_path / "new", "val", RUNS, EVALUATIONS)
    names = {path.name for path in (tmp_path / "new").iterdir()}
    stems = {f"captions_val_beam{size}_{kind}.json" for size in (1, 3) for kind in KINDS}
    assert names == {*stems, "table_val.csv", "table_val.tex"}
    assert (tmp_path / "new" / "table_val.csv").read_text() == csv_table(RUNS, EVALUATIONS)
    assert (tmp_path / "new" / "table_val.tex").read_text() == latex_table(RUNS, EVALUATIONS)


def test_result_of_the_pointing_game_says_how_its_captions_were_decoded(tmp_path):
    names = ("peak_inside", "mass_inside", "center_inside", "center_mass", "chance", "movement")
    pointing = {"nouns": 7, "all_named": 0.5} | dict.fromkeys(names, 0.25)
    write_results(tmp_path, "val", RUNS, EVALUATIONS, pointing)
    written = json.loads((tmp_path / "pointing_val.json").read_text())
    decoding = written.pop("decoding")
    assert written == pointing
    assert from_dict(DecodingConfig, decoding) == RUNS[-1]  # whose captions the game gets
    assert pointing_report(pointing, RUNS).startswith(
        "all objects named in 50% of the images with beam 3; attention at the 7 nouns"
    )


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the data and the model that the page names, where the test then stands."""
    monkeypatch.chdir(tmp_path)
    tiny.prepare(Path("data/flickr8k"), known=2)
    one = tiny.captioner()
    native.save(Path("runs/flickr8k/best"), one.model, one.vocabulary, one.config)
    return tmp_path


@pytest.mark.skipif(not shutil.which("java"), reason="PTB's tokenizer runs on Java")
def test_pycocoevalcap_reads_the_results_file_and_gives_the_same_scores(run_folder, monkeypatch):
    """By the page's own snippet; without METEOR (slow) and SPICE (downloads what it needs)."""
    pytest.importorskip("pycocoevalcap")
    for left_out in ("Meteor", "Spice"):
        stub = SimpleNamespace(method=lambda: "", compute_score=lambda *_: (0.0, [{}] * 12))
        monkeypatch.setattr(f"pycocoevalcap.eval.{left_out}", lambda stub=stub: stub)
    captioner = scripted.captioner(Path("data/flickr8k"))
    monkeypatch.setattr("sat.captioner.load", lambda *args, **how: captioner)
    flags = ["--model", "runs/flickr8k/best", "--data_folder", "data/flickr8k", "-b", "3"]
    evaluate.main([*flags, "--device", "cpu", "--metrics", "bleu", "rouge", "cider"])
    names: dict = {}
    exec(PYCOCOEVALCAP, names)
    folder = run_folder / "runs/flickr8k/best"
    results = json.loads((folder / "captions_test_beam3_results.json").read_text())
    assert [set(one) for one in results] == [{"image_id", "caption"}] * 12
    assert sorted(one["image_id"] for one in results) == list(range(300, 312))
    ours = json.loads((folder / "captions_test_beam3_scores.json").read_text())
    theirs = names["evaluation"].eval
    assert ours["tokenizer"] == "ptb"
    for name in ("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6), name
    assert 0 < theirs["Bleu_4"] < 1  # six captions are right, six are not


def test_upload_for_the_server_has_its_names_and_ids(run_folder):
    """By the page's own snippet, on two folders of COCO's file names."""
    for split, number in (("val2014", 42), ("test2014", 7)):
        Path(split).mkdir()
        for i in (0, 1):
            name = f"COCO_{split}_{number + i:012}.png"
            shutil.copy(f"data/flickr8k/{i}.png", Path(split, name))
        flags = ["--model", "runs/flickr8k/best", "--device", "cpu", "--json", f"{split}.json"]
        caption.main(["--img", f"{split}/", *flags])
    exec(SERVER, {})
    with zipfile.ZipFile("upload.zip") as upload:
        assert upload.namelist() == [
            f"captions_{split}_sat_results.json" for split in ("val2014", "test2014")
        ]
        results = json.loads(upload.read("captions_val2014_sat_results.json"))
    texts = [
        result.text for result in tiny.captioner().caption_all(sorted(Path("val2014").iterdir()))
    ]
    assert results == [{"image_id": i, "caption": text} for i, text in zip((42, 43), texts)]
