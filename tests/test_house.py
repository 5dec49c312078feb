"""The house rules a machine can check: which way imports point, and how long things grow."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sat

ROOT = Path(sat.__file__).parents[1]
MODULES = sorted((ROOT / "sat").rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))

# A package imports only from those in the rows above its own (docs/design.md).
LAYERS = (
    (
        "config",
        "atomic_io",
        "stop_signals",
        "torchrun",
        "reading",
        "folder_lock",
        "hub",
        "ops",
        "metrics",
    ),
    ("data", "device", "distributed", "glyphs", "recipe_file"),
    ("models", "tracking", "attention_panels"),
    ("decoding", "figure_layout"),
    ("checkpoints", "visualize"),
    ("caption_result",),
    ("captioner",),
    ("evaluation",),
    ("results",),
    ("training", "web", "export"),
    ("cli",),
    ("commands",),
    ("__main__",),
)
LEVEL = {package: level for level, row in enumerate(LAYERS) for package in row}
STANDALONE = ("config", "ops", "metrics")
"""packages that import nothing of sat but themselves"""

# Packages that these files alone may import.
OWNERS = {
    "timm": ("models.backbones",),
    "torchvision": ("models.backbones",),
    "transformers": (
        "data.tokenizer_files",
        "models.hf_networks",
        "models.hf_pixels",
        "models.image_cache",
        "models.vit_gpt2",
    ),
    "tokenizers": ("data.tokenizer", "data.tokenizer_files"),
    "gradio": ("web.page",),
    "huggingface_hub": ("hub",),
    "tqdm": ("data.progress",),
}


# The only files that may name a family of models; all others are the same for every family.
FAMILY_REGISTRIES = [
    ROOT / "sat" / name
    for name in (
        "config/model.py",
        "config/training.py",
        "models/factory.py",
        "checkpoints/native.py",
    )
]
FAMILY_CLASSES = {"ShowAttendTell", "VitGpt2"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "sat").with_suffix("").parts).removesuffix(".__init__")


def is_module(name: str) -> bool:
    path = ROOT / "sat" / name.replace(".", "/")
    return path.with_suffix(".py").exists()


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import: write the module's whole name"
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                inside = is_module(deeper.removeprefix("sat."))
                yield deeper if node.module.startswith("sat") and inside else node.module


def of_the_house(path: Path) -> list[str]:
    """Our modules among the imports, without the leading "sat."; the package root is ""."""
    names = (name for name in imports(path) if name.split(".")[0] == "sat")
    return [name.removeprefix("sat").removeprefix(".") for name in names]


def family_dispatch(path: Path) -> Iterator[int]:
    """Lines with the name of a family as a string, or with an isinstance of its class."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and node.value == "vit_gpt2":
            yield node.lineno
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            if names & FAMILY_CLASSES:
                yield node.lineno


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_only_from_packages_above(path: Path) -> None:
    if path.name == "__init__.py":
        assert not of_the_house(path), "a package's __init__ imports nothing"
        return
    package = name_of(path).split(".")[0]
    assert package in LEVEL, f"sat/{package}: give it a place in LAYERS"
    for other in of_the_house(path):
        assert other, f"{path}: imports the package root: import the module you need"
        above = other.split(".")[0]
        if above != package:
            assert LEVEL[above] < LEVEL[package], f"{path}: imports {other}, which is not above it"
            assert package not in STANDALONE, f"{path}: imports {other}: {package} stands alone"


def test_modules_have_no_import_circle() -> None:
    graph = {name_of(path): set(of_the_house(path)) for path in MODULES}
    order = graphlib.TopologicalSorter(graph)
    order.prepare()  # raises CycleError, with the circle


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_optional_packages_have_one_owner(path: Path) -> None:
    for package in {name.split(".")[0] for name in imports(path)} & set(OWNERS):
        assert name_of(path) in OWNERS[package], f"{path} imports {package}"


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda path: path.stem)
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    length = text.count("\n")
    assert length <= 250, f"{path} has {length} lines: one idea per file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= 60, f"{path}: {node.name} has {lines} lines"
        if isinstance(node, ast.ImportFrom):
            stars = [alias for alias in node.names if alias.name == "*"]
            assert not stars, f"{path}: star import from {node.module}"


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda path: path.stem)
def test_module_outside_the_registries_knows_no_family(path: Path) -> None:
    if path in FAMILY_REGISTRIES:
        return
    found = list(family_dispatch(path))
    assert not found, f"{path}, line {found}: add an entry to the registries of families instead"


@pytest.mark.parametrize("module", ["sat", "sat.config.model"])
def test_help_need_not_wait_for_torch(module: str) -> None:
    code = (
        f"import sys, {module}; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_public_names_are_there() -> None:
    for name in sat.__all__:
        assert getattr(sat, name) is not None
    with pytest.raises(AttributeError, match="module 'sat' has no attribute 'captoin'"):
        sat.captoin  # noqa: B018


def test_the_checker_would_notice(tmp_path: Path) -> None:
    """Each rule, broken on purpose, in a file that no import system sees."""
    path = tmp_path / "bad.py"
    path.write_text(
        "import sat\nfrom sat import load, captioner\nfrom sat.models.decoder import State\n"
        "def late():\n    import sat.training.trainer\n"
    )
    assert of_the_house(path) == ["", "", "captioner", "models.decoder", "training.trainer"]


def test_the_family_checker_would_notice(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        'if family == "vit_gpt2":\n    pass\nisinstance(model, (ShowAttendTell, Other))\n'
        "isinstance(model, Module)\n"
    )
    assert sorted(family_dispatch(path)) == [1, 3]
