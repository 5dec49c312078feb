"""The COCO metrics against pycocoevalcap called directly, and without Java."""

import io
import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest

from sat.metrics import coco
from sat.metrics.bleu import bleu
from sat.metrics.coco import coco_scores

pytest.importorskip("pycocoevalcap")
needs_java = pytest.mark.skipif(not shutil.which("java"), reason="METEOR and PTB run on Java")

REFERENCES = [
    ["A dog runs on the grass .", "A brown dog's running, fast!", "The dog is running on grass"],
    ["A man rides a bike", "A man (in red) on a bike .", "Someone is riding a T-shirt bike"],
    ["Two dogs play in the snow", "Dogs playing in snow .", "Two dogs run on the snow"],
]
HYPOTHESES = ["a dog runs on the grass", "a man is riding a red bike", "two dogs run in the snow"]
EVERY = ("bleu", "meteor", "rouge", "cider")


@pytest.mark.slow
@needs_java
def test_coco_scores_results_file_equals_pycocoevalcap(tmp_path, monkeypatch):
    from pycocoevalcap.eval import COCOEvalCap
    from pycocotools.coco import COCO

    lines = [
        {"image_id": i, "id": 10 * i + j, "caption": text}
        for i, texts in enumerate(REFERENCES)
        for j, text in enumerate(texts)
    ]
    images = [{"id": i} for i in range(3)]
    (tmp_path / "references.json").write_text(json.dumps({"annotations": lines, "images": images}))
    results = [{"image_id": i, "caption": text} for i, text in enumerate(HYPOTHESES)]
    (tmp_path / "hypotheses.json").write_text(json.dumps(results))
    spice = SimpleNamespace(method=lambda: "SPICE", compute_score=lambda *_: (0.0, [{}] * 3))
    monkeypatch.setattr("pycocoevalcap.eval.Spice", lambda: spice)  # it downloads what it needs
    with redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "references.json"))
        theirs = COCOEvalCap(coco, coco.loadRes(str(tmp_path / "hypotheses.json")))
        theirs.evaluate()
    ours = coco_scores(REFERENCES, HYPOTHESES, EVERY)
    assert ours.tokenizer == "ptb"
    del theirs.eval["SPICE"]
    for name, value in theirs.eval.items():
        assert ours.corpus[name] == pytest.approx(value, abs=1e-6), name


@needs_java
def test_coco_scores_in_an_environment_of_another_user_write_nothing_there(monkeypatch):
    from pycocoevalcap.tokenizer import ptbtokenizer as module

    expected = coco_scores(REFERENCES, HYPOTHESES, ("bleu",))
    package = Path(module.__spec__.origin).parent
    monkeypatch.setattr(module, "__file__", module.__spec__.origin)
    monkeypatch.setattr(coco.os, "access", lambda path, mode: Path(path) != package)
    assert coco_scores(REFERENCES, HYPOTHESES, ("bleu",)) == expected
    assert Path(module.__file__).parent != package


def test_coco_scores_without_java_use_nltk_tokenizer(monkeypatch, caplog):
    monkeypatch.setattr(coco.shutil, "which", lambda name: None)
    found = coco_scores(REFERENCES, HYPOTHESES, ("bleu", "rouge", "cider"))
    assert found.tokenizer == "nltk"
    assert "tokenized by NLTK" in caplog.text
    assert {name: found.corpus[name] for name in bleu(REFERENCES, HYPOTHESES)} == bleu(
        REFERENCES, HYPOTHESES
    )
    with pytest.raises(
        OSError, match="METEOR needs Java, which was not found: install it, or leave"
    ):
        coco_scores(REFERENCES, HYPOTHESES, ("meteor",))


def test_coco_scores_corpus_is_mean_of_per_image(monkeypatch):
    monkeypatch.setattr(coco.shutil, "which", lambda name: None)
    found = coco_scores(REFERENCES, HYPOTHESES, ("rouge", "cider"))
    assert [sorted(one) for one in found.per_image] == [["CIDEr", "ROUGE_L"]] * 3
    for name, value in found.corpus.items():
        assert value == pytest.approx(sum(one[name] for one in found.per_image) / 3)
    assert found.per_image[0]["ROUGE_L"] > found.per_image[1]["ROUGE_L"]


def test_coco_scores_unknown_metric_raises_value_error():
    with pytest.raises(ValueError, match="metric 'spice' is unknown: choose from bleu, meteor"):
        coco_scores(REFERENCES, HYPOTHESES, ("bleu", "spice"))


@pytest.mark.parametrize(
    ("metric", "package"), [("cider", "pycocoevalcap"), ("rouge_score", "rouge_score")]
)
def test_coco_scores_without_package_raise_with_pip_command(monkeypatch, metric, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        coco_scores(REFERENCES, HYPOTHESES, (metric,))
    remedy = "pip install 'sat-captioning[metrics]'"
    assert str(caught.value) == f"metric '{metric}' needs {package}: {remedy}"


def test_coco_scores_cider_of_one_image_warns_that_it_is_zero(caplog):
    pytest.importorskip("pycocoevalcap")
    found = coco_scores(REFERENCES[:1], [REFERENCES[0][0]], ("cider",))
    assert found.corpus["CIDEr"] == 0.0
    assert "CIDEr of one image is 0.0 by definition" in caplog.text
    caplog.clear()
    coco_scores(REFERENCES, HYPOTHESES, ("cider",))
    assert "CIDEr" not in caplog.text
