"""YAML files of flags: found by their name, and refused where a value is of no flag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sat.config.checks import check, check_values
from sat.reading import check_regular, reading

MAX_RECIPE = 10**6
"""characters of a YAML file"""


class RecipeLoader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in names:
                raise ValueError(f"{key.value} stands twice: give it once")
            names.add(str(key.value))
        return super().construct_mapping(node, deep)


def find_recipe(name: str) -> Path:
    """The path of a YAML file: `name` itself, or the recipe of that name in the library.

    Installed recipes lie in `sat/recipes`, those of a clone in `configs`.
    """
    package = Path(__file__).parent
    recipes = [
        folder / f"{name}.yaml" for folder in (package / "recipes", package.parent / "configs")
    ]
    return next((path for path in (Path(name), *recipes) if path.is_file()), Path(name))


def read_recipe(path: Path, cls: type) -> dict[str, Any]:
    """The values of a YAML file; `ValueError` where they are not of fields of `cls`."""
    with reading(path, "give a YAML file of flags"):
        text = check_regular(path).read_text(encoding="utf-8")
        check(len(text) < MAX_RECIPE, "its length", len(text), "that is no file of flags")
        aliases = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))
        check(not aliases, "an alias", "*", "write the values out")  # ten levels fill the memory
        values = yaml.load(text, RecipeLoader) or {}
    try:
        check(isinstance(values, dict), "it", values, "give flags, as seed: 1")
        check_values(cls, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return values
