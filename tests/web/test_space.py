"""docs/space is a Hugging Face Space as it stands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import sat

gradio = pytest.importorskip("gradio")
SPACE = Path(sat.__file__).parents[1] / "docs" / "space"


def test_app_of_the_space_launches_the_page(monkeypatch):
    from sat.web.page import LAUNCH

    launched = []
    monkeypatch.setattr(gradio.Blocks, "launch", lambda page, **how: launched.append((page, how)))
    page = runpy.run_path(str(SPACE / "app.py"))["page"]
    assert isinstance(page, gradio.Blocks)
    assert launched == []  # nothing starts when the file is imported
    runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    [(started, how)] = launched
    assert started.title == page.title
    assert how == LAUNCH


def test_header_and_requirements_of_the_space_name_what_the_library_has():
    _, header, _ = (SPACE / "README.md").read_text("utf-8").split("---\n", 2)
    fields = dict(re.findall(r"^(\w+): (.+)$", header, re.MULTILINE))
    assert fields["sdk"] == "gradio"
    assert (SPACE / fields["app_file"]).is_file()
    setup = (SPACE.parents[1] / "setup.py").read_text("utf-8")
    least = int(re.search(r"gradio>=(\d+)", setup)[1])
    assert int(fields["sdk_version"].split(".")[0]) >= least
    needs = (SPACE / "requirements.txt").read_text("utf-8")
    assert needs == "sat-captioning[web] @ git+https://ADDRESS\n"
    assert 'name="sat-captioning"' in setup
    assert (SPACE / "app.py").read_text("utf-8").count("\n") == 5
