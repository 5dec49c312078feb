"""What README and docs tell people to type works, and what they show and link to exists.

Each shell line is run here, or it is checked as far as it can be without running it (the command's
own parser, the recipe, the target, the file), and `WHY_NOT_RUN` says why it is not run.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import re
import runpy
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch.distributed.run import get_args_parser

import sat
from sat.__main__ import COMMANDS

ROOT = Path(sat.__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/space/README.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
README = PAGES["README.md"]
SCRIPTS = {
    "create_input_files.py": "prepare",
    "train.py": "train",
    "eval.py": "eval",
    "caption.py": "caption",
}

RUN = {
    "sat-caption --img cat.jpg --output attention.png": ["attention.png"],
    "sat-caption --img cat.jpg --output cat.pdf --dpi 300 --columns 4": ["cat.pdf"],
    "sat-train --help": [],
    "sat-eval --help": [],
}
"""lines run here, in an empty folder, and the files that they leave"""
WHY_NOT_RUN = {
    "sat-prepare": "wants data sets that are not here; test_create_input_files.py has small ones",
    "sat-train": "wants prepared data and takes minutes to days; test_train_script.py is quick",
    "sat-eval": "wants a trained captioner and its data; test_eval_script.py has small ones",
    "sat-caption": "wants the reader's checkpoints and images; test_caption_script.py has its own",
    "sat-export": "wants a trained captioner; tests/export has a small one",
    "sat-web": "serves until Ctrl-C; tests/web has it in a browser",
    "make": "CI's own steps, or minutes (demo, bench): the target exists",
    "pip": "tests/wheel.sh builds and installs the wheel; the extras exist",
    "python -m benchmarks": "minutes on a quiet machine; test_benchmarks.py runs each in small",
    "python -m pytest": "the suite itself: the file exists",
    "pytest": "the suite itself: the file exists",
    "python app.py": "serves until Ctrl-C; tests/web/test_space.py launches it",
    "python tools/card.py": "wants the results of an evaluation: the file exists",
    "python tests/stress/hostile.py": "minutes; `make stress`",
    "tensorboard": "another program, which serves until Ctrl-C",
    ".venv/bin/ruff": "lint is CI's first step",
}
"""by how a line begins"""
PYTHON_NOT_RUN = {
    "docs/api.md": "names a checkpoint of the reader's",
    "docs/evaluation.md": "tests/test_results.py runs both",
}
"""pages whose Python is not run here"""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_SHELL = re.compile(rf"{FENCE.pattern}|^::: [^\n]*\n(?:    [^\n]*\n)*", re.DOTALL | re.MULTILINE)
"""fenced blocks, and those of mkdocstrings"""
WORD = r"(?:python|pip|make|pytest|tensorboard|sat-\w+)"


def shell_lines(text: str) -> list[str]:
    """The indented lines, continued ones joined, and the commands with arguments in the text."""
    text = NOT_SHELL.sub("", text).replace("\\\n", "")
    indented = re.findall(r"^    (?! )(.+)$", text, re.MULTILINE)
    inline = re.findall(rf"`({WORD} [^`\n]+)`", text)
    return [" ".join(shlex.split(line, comments=True)) for line in (*indented, *inline)]


LINES = sorted({(page, line) for page, text in PAGES.items() for line in shell_lines(text)})


def command_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The name and the flags, if it is one of our commands, by whichever of its three names.

    torchrun and its own flags may stand before it.
    """
    if words[0] == "torchrun":
        words = ["python", *itertools.dropwhile(lambda word: word.startswith("--"), words[1:])]
    if words[0].startswith("sat-"):
        return words[0].removeprefix("sat-"), words[1:]
    if words[:3] == ["python", "-m", "sat"]:
        return words[3], words[4:]
    if words[0] == "python" and words[1] in SCRIPTS:
        return SCRIPTS[words[1]], words[2:]
    return None


def module_of(command: str):
    return importlib.import_module(COMMANDS[command][0])


def check(line: str) -> None:
    """Fail unless the line is understood, without running it."""
    words = line.split()
    if found := command_of(words):
        command = module_of(found[0])
        if found[1] and "--help" not in found[1]:
            command.parse(found[1])
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words[1]
    elif words[0] == "pip":
        extras = re.findall(r"\[([\w,]+)\]", line)
        setup = (ROOT / "setup.py").read_text(encoding="utf-8")
        assert all(f'"{name}": [' in setup for extra in extras for name in extra.split(","))
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks"):
        assert importlib.util.find_spec(words[2])
    else:
        paths = [word for word in words if re.search(r"\.(py|yaml|md)$", word)]
        assert all(
            (ROOT / path).exists() or (ROOT / "docs/space" / path).exists() for path in paths
        )


@pytest.mark.parametrize(("page", "line"), LINES)
def test_shell_line_is_understood_and_run_or_has_a_reason(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(line)
    found = command_of(line.split())
    name = f"sat-{found[0]}" if found else line
    reason = next((why for begin, why in WHY_NOT_RUN.items() if name.startswith(begin)), None)
    assert line in RUN or reason, f"{page}: {line}: run it here, or say in WHY_NOT_RUN why not"


@pytest.mark.parametrize(("line", "files"), RUN.items())
def test_shell_line_runs_in_an_empty_folder(line, files, tmp_path, monkeypatch, capsys):
    assert line in {shown for _, shown in LINES}, "it stands on no page any more"
    monkeypatch.chdir(tmp_path)
    command, flags = command_of(line.split())
    with contextlib.suppress(SystemExit):  # after --help
        module_of(command).main(flags)
    assert len(capsys.readouterr().out) > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == files


@pytest.mark.parametrize("page", PAGES)
def test_python_runs_in_an_empty_folder_or_has_a_reason(page, tmp_path, monkeypatch):
    blocks = [code for kind, code in FENCE.findall(PAGES[page]) if kind == "python"]
    assert blocks or page not in PYTHON_NOT_RUN
    for code in blocks:
        compile(code, page, "exec")
        if page not in PYTHON_NOT_RUN:
            monkeypatch.chdir(tmp_path)
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, {})
            assert list(tmp_path.iterdir())


def test_flags_named_in_the_text_exist():
    known = {
        "--logdir",
        "--count",
        "--no-deps",
        "--log",
    }  # of TensorBoard, hostile.py, pip; earlier
    known |= set(re.findall(r"--[\w-]*\w", get_args_parser().format_help()))  # torchrun
    for command in COMMANDS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit):
            module_of(command).parse(["--help"])
        known |= set(re.findall(r"--[\w.]+", printed.getvalue()))
    for page, text in PAGES.items():
        for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
            for flag in re.findall(r"(?<!\S)--[\w.-]*\w", span):
                name = re.sub(r"^--stage[123]\.", "--stageN.", flag)
                # also a group of flags (--validation.*), or a key of a dictionary
                near = (one for one in known if f"{one}.".startswith(f"{name}."))
                assert any(near) or name.rpartition(".")[0] in known, f"{page}: {flag}"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_of_a_page_exist(page):
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", PAGES[page]):
        assert (ROOT / page).parent.joinpath(link).exists(), link
    for recipe in re.findall(r"configs/\w+\.\w+", PAGES[page]):
        assert (ROOT / recipe).is_file(), recipe


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_page_has_a_picture_or_a_line_to_type_and_a_place_on_the_site(page):
    text = PAGES[page]
    assert shell_lines(text) or "```python" in text or "![" in text
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert page == "docs/space/README.md" or f": {Path(page).name}\n" in nav


@pytest.mark.parametrize(
    ("source", "link", "expected"),
    [
        ("README.md", "docs/results.md#encoders", "results.md#encoders"),
        ("README.md", "docs/page.png", "page.png"),
        ("README.md", "sat/cli.py", "sat/cli.py"),
        (
            "docs/results.md",
            "../sat/pretrained/everyday/README.md",
            "sat/pretrained/everyday/README.md",
        ),
        ("docs/results.md", "choices.md", "choices.md"),
        ("benchmarks/RESULTS_GPU.md", "../docs/performance.md", "../performance.md"),
        ("sat/samples/README.md", "../../README.md", "../../index.md"),
        ("README.md", "docs/missing.md", "docs/missing.md"),
        ("README.md", "https://arxiv.org/abs/1502.03044", "https://arxiv.org/abs/1502.03044"),
    ],
)
def test_link_leads_to_the_same_file_on_the_site(source, link, expected):
    hook = runpy.run_path(str(ROOT / "tools" / "docs_links.py"))
    file = SimpleNamespace(abs_src_path=str(ROOT / source), src_uri=hook["place"](source))
    moved = hook["on_page_markdown"](f"[text]({link})", SimpleNamespace(file=file))
    assert moved == f"[text]({expected})"


def test_every_recipe_is_on_the_page_of_recipes():
    recipes = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert recipes == set(re.findall(r"^\| \[(\w+)\]", PAGES["docs/recipes.md"], re.MULTILINE))


def test_every_no_of_the_habits_is_argued():
    ours = re.findall(r"^\| .+ \| .+ \| (.+) \|$", PAGES["docs/habits.md"], re.MULTILINE)[2:]
    assert len(ours) > 30
    assert all(re.match(r"(?i)(?!\**no)|\*\*no\*\*: .{30}", answer) for answer in ours), ours


def test_where_is_table_has_twenty_files_that_exist():
    files = re.findall(r"\| \[(sat/[\w./]+)\]\(\1\) (?=\|)", README)
    assert len(files) == 20
    assert all((ROOT / file).is_file() for file in files)


def test_readme_uses_the_four_commands_and_is_at_most_120_lines():
    used = {found[0] for line in shell_lines(README) if (found := command_of(line.split()))}
    assert used >= set(SCRIPTS.values())
    assert README.count("\n") <= 120
