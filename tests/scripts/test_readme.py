"""What the README tells people to type is understood by the scripts, and what it shows exists."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

import sat

ROOT = Path(sat.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    python (\w+)\.py (.+?)(?:  #.*)?$", README, re.MULTILINE)


def test_the_readme_uses_all_four_scripts():
    assert {script for script, _ in COMMANDS} == {"create_input_files", "train", "eval", "caption"}


@pytest.mark.parametrize(("script", "flags"), COMMANDS)
def test_its_commands_are_understood(script, flags, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(ROOT)
    module = importlib.import_module(script)
    parse = getattr(module, "parse", None) or module.build_parser().parse_args
    parse(shlex.split(flags))


def test_its_pictures_and_recipes_exist():
    for path in re.findall(r"\]\((\w[\w./-]+)\)|--config (\S+)", README):
        name = "".join(path)
        assert (ROOT / name).exists(), name


def test_make_has_the_two_commands_that_it_promises():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
