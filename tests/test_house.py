"""The house rules a machine can check: which way imports point, and how long things grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sat

ROOT = Path(sat.__file__).parents[1]
MODULES = sorted((ROOT / "sat").rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("*.py"))

# A module imports only from those before it (DESIGN.md, section 2).
PLACES = """
    fields whole_files config schedule recipe distributed
    data.vocabulary data.images data.annotations data.subwords data.shape_captions data.shapes
    data.photo_files data.pictures data.selection data.input_files
    data.dataset data.batches data.embeddings data.features
    seats models.products models.grid models.attention models.ragged models.recurrence
    models.decoder models.efficientnet_lite models.weights models.encoder
    models.fresh_parts models.show_attend_tell models.vit_gpt2
    generate losses metrics cider rouge coco_metrics visualize sheet boards build hf_folder packing
    checkpoint ship inert_pickle legacy captioner
    hub evaluate pointing warm_up position logs first_model beginning optimization own_words epoch
    self_critical training cli
"""
ORDER = PLACES.split()

# Packages that one file alone may know.
OWNERS = {
    "torchvision": "models.encoder",
    "transformers": "models.vit_gpt2",
    "tokenizers": "data.subwords",
    "huggingface_hub": "hub",
}


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


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_up_the_order(path: Path) -> None:
    name = name_of(path)
    if path.name == "__init__.py":
        assert not of_the_house(path), "a package's __init__ imports nothing"
        return
    assert name in ORDER, f"sat/{name}: give it a place in ORDER"
    earlier = ORDER[: ORDER.index(name)]
    for other in of_the_house(path):
        assert other, f"{path}: imports the package root: import the module you need"
        assert other in earlier, f"{path}: imports {other}, which stands below it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_optional_packages_have_one_owner(path: Path) -> None:
    for package in {name.split(".")[0] for name in imports(path)} & set(OWNERS):
        assert name_of(path) == OWNERS[package], f"{path} imports {package}"


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


@pytest.mark.parametrize("module", ["sat", "sat.config"])
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
        "import sat\nfrom sat import load, checkpoint\nfrom sat.models.decoder import State\n"
        "def late():\n    import sat.training\n"
    )
    assert of_the_house(path) == ["", "", "checkpoint", "models.decoder", "training"]
