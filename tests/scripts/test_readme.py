"""What the README tells people to type is understood by the scripts, and what it shows exists."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

import sat

ROOT = Path(sat.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + "".join(
    path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))
)
COMMANDS = re.findall(
    r"(?:^    |`)python (\w+)\.py ([^`\n]+?)(?:  #.*)?(?:`|$)", PAGES, re.MULTILINE
)


def test_the_readme_uses_all_four_scripts():
    assert {script for script, _ in COMMANDS} == {"create_input_files", "train", "eval", "caption"}


@pytest.mark.parametrize(("script", "flags"), COMMANDS)
def test_its_commands_are_understood(script, flags, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(ROOT)
    door = importlib.import_module(script)
    command = importlib.import_module(door.main.__module__)
    command.parse(shlex.split(flags))


def test_its_pictures_and_recipes_exist():
    for path in re.findall(r"\]\((\w[\w./-]+)\)|--config ([^\s`]+)", README):
        name = "".join(path)
        assert (ROOT / name).exists(), name


def test_make_has_the_two_commands_that_it_promises():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_where_is_table_has_twenty_files_that_exist():
    rows = re.findall(r"^\| [^|]+ \| \[(sat/[\w./]+)\]\(\1\) \|$", README, re.MULTILINE)
    assert len(rows) == 20
    assert all((ROOT / row).is_file() for row in rows)


def test_readme_is_at_most_120_lines():
    assert README.count("\n") <= 120
