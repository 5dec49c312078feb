"""docs/start.ipynb runs from top to bottom, and shows what it says."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sat

ROOT = Path(sat.__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "start.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def executed(folder: Path) -> list[Any]:
    """The outputs of each cell of code, run in an empty folder by a kernel of its own."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    own = {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder), "OMP_NUM_THREADS": "1"}
    client = nbclient.NotebookClient(
        nbformat.read(NOTEBOOK, as_version=4), resources={"metadata": {"path": str(folder)}}
    )
    notebook = client.execute(env=os.environ | own)
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def printed(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream")


def shown(outputs: list[Any], kind: str) -> str:
    return next(output.data[kind] for output in reversed(outputs) if kind in output.get("data", ()))


def test_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 7
    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in code)


@pytest.mark.slow
def test_notebook_captions_draws_and_lets_words_be_pointed_at(executed):
    text = re.match(r"\('(.+)', -", shown(executed[0], "text/plain"))[1]
    figure = Image.open(io.BytesIO(base64.b64decode(shown(executed[1], "image/png"))))
    assert min(figure.size) > 200
    words = re.findall(r"<button [^>]*>([^<]+)</button>", shown(executed[2], "text/html"))
    assert " ".join(words) == text


@pytest.mark.slow
def test_notebook_prepares_trains_scores_points_and_captions(executed, folder):
    """Whatever its captioner says after two epochs."""
    best = folder / "runs" / "default" / "best"
    assert "INFO: train: 480 images, 2400 captions" in printed(executed[3])
    assert "epoch 2: validation BLEU-4" in printed(executed[4])
    assert [
        row.split("|")[1].strip() for row in printed(executed[5]).splitlines() if "|" in row
    ] == [*("beam", "---", "1", "3")]
    nouns = json.loads((best / "pointing_test.json").read_text(encoding="utf-8"))["nouns"]
    assert ("all objects named in" in printed(executed[5])) == (nouns > 0)
    lines = printed(executed[6]).splitlines()
    assert [line.split()[0] for line in lines] == [f"scene_0000{i}.png" for i in range(3)]
