"""Check config fields, and convert configs to JSON values and back."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import operator
import re
import reprlib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")

NUMBER = re.compile(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", re.IGNORECASE)
LARGEST = sys.float_info.max
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "nothing",
}
SHORT = reprlib.Repr()
"""of values in errors, which may be long"""
SHORT.maxstring = SHORT.maxother = 200


def check(condition: bool, name: str, value: object, remedy: str) -> None:
    """Raise a `ValueError` with the field, its value and the remedy unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name} is {SHORT.repr(value)}: {remedy}")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """`check` that the value is one of the choices."""
    choices = list(choices)
    known = any(type(value) is type(choice) and value == choice for choice in choices)
    check(known, name, value, f"choose one of {', '.join(map(str, choices))}")


def check_paths(config: Any, names: Iterable[str]) -> None:
    """`check` that fields of a path, or of several, hold no empty text.

    A shell's variable that is not set gives one, and pathlib takes it for the current folder.
    """
    for name in names:
        value = getattr(config, name)
        empty = "" in value if isinstance(value, (list, tuple)) else value == ""
        check(not empty, name, value, "give a path, an empty text is none")


def check_fields(config: Any, intervals: Mapping[str, str] | None = None) -> None:
    """`check` the type of every field of a config, and that numbers lie in their interval.

    The types are its annotations: a whole number is no bool or 2.0, and no number is NaN or
    infinite. `intervals`, as "[0, 1)", have the names of their fields, separated by blanks.
    """
    bounds = {name: key for key, names in (intervals or {}).items() for name in names.split()}
    cls: Any = type(config)
    for name, hint in _fields(cls).items():
        value, interval = getattr(config, name), bounds.get(name)
        if typing.get_origin(hint) is Literal:
            check_choice(name, value, typing.get_args(hint))
        elif not _fits(hint, value) or (interval and not _within(interval, value)):
            within = f" in {interval}" if interval else ""
            check(False, name, value, f"give {describe(hint)}{within}")


@functools.cache
def _fields(cls: Any) -> dict[str, Any]:
    """The type of each field of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of the type that an annotation says; a list may stand for a tuple."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(part, value) for part in parts)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in parts)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        parts = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(parts) == len(value) and all(map(_fits, parts, value))
    if origin is dict:
        return isinstance(value, dict) and _is_plain(value)
    if hint in (int, float):
        kinds: Any = Integral if hint is int else (Integral, float)
        return isinstance(value, kinds) and type(value) is not bool and abs(value) <= LARGEST
    return isinstance(value, hint) and not (hint is str and "\0" in value)


def _is_plain(value: Any, levels: int = 8) -> bool:
    """Whether a value is of JSON, without NaN, and at most so many levels deep."""
    if isinstance(value, (dict, list, tuple)):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return levels > 0 and all(_is_plain(part, levels - 1) for part in parts)
    return value is None or any(_fits(hint, value) for hint in (bool, str, float))


def _within(interval: str, value: Any) -> bool:
    """Whether a number, or each number in a tuple, lies in an interval; None does."""
    if value is None or isinstance(value, (tuple, list)):
        return all(_within(interval, part) for part in value or ())
    least, most = _ends(interval)
    above = value > least or (interval[0] == "[" and value == least)
    return above and (value < most or (interval[-1] == "]" and value == most))


@functools.cache
def _ends(interval: str) -> tuple[float, float]:
    least, most = interval[1:-1].split(",")
    return float(least), float(most)


def describe(hint: Any) -> str:
    """A type in words."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        none_first = sorted(parts, key=lambda part: part is not type(None))
        return " or ".join(describe(part) for part in none_first)
    if typing.get_origin(hint) is Literal:
        return ", ".join(map(str, parts))
    if typing.get_origin(hint) is tuple:
        length = "" if parts[1:] == (...,) else f" of {len(parts)}"
        return f"a list{length}, each {describe(parts[0])}"
    return WORDS.get(hint, getattr(hint, "__name__", "an object of plain values"))


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    return dataclasses.asdict(config)


def flatten(config: Any) -> dict[str, Any]:
    """The value of every field by its flag, "stage1.epochs", where it is no config itself."""
    values = {name: operator.attrgetter(name)(config) for name in field_types(type(config))}
    return {name: value for name, value in values.items() if not dataclasses.is_dataclass(value)}


def field_types(cls: Any, prefix: str = "") -> dict[str, Any]:
    """The type of every field by its flag, "stage1.epochs", and of the configs within this one."""
    found: dict[str, Any] = {}
    for name, hint in _fields(cls).items():
        inner = field_types(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {}
        found |= {prefix + name: hint} | inner
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like this one, in whole or after its last dot."""
    names = {full: full for full in known}
    last = {full.rpartition(".")[2]: full for full in reversed(names)}
    matches = last | names
    return matches[difflib.get_close_matches(name, matches, n=1, cutoff=0)[0]]


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """Restore a config from `to_dict`; raise `ValueError` for a key that it does not have.

    The `EARLIER_KEYS` of a config, which earlier versions stored, are left out.
    """
    config: Any = cls
    hints, earlier = _fields(config), getattr(cls, "EARLIER_KEYS", ())
    check(isinstance(values, dict), cls.__name__, values, f"give an object with {', '.join(hints)}")
    values = {name: value for name, value in values.items() if name not in earlier}
    _check_keys(config, values)
    return cls(**{name: _restore(hints[name], value) for name, value in values.items()})


def check_values(cls: Any, values: dict[str, Any], prefix: str = "") -> None:
    """`check` keys and types of values for a config, before there is one.

    A text may stand for a number (YAML's 1e-4 is one), and for the file of a config within.
    """
    _check_keys(cls, values)
    for name, value in values.items():
        hint, text = _fields(cls)[name], isinstance(value, str)
        if not dataclasses.is_dataclass(hint):
            passes = (text and bool(NUMBER.fullmatch(value))) or _fits(hint, value)
            check(passes, prefix + name, value, f"give {describe(hint)}")
        elif isinstance(value, dict):
            check_values(hint, value, f"{prefix}{name}.")
        else:
            first = dataclasses.fields(hint)[0].name
            check(text, prefix + name, value, f"give its fields, as {{{first}: ...}}")


def _check_keys(cls: Any, values: dict[str, Any]) -> None:
    for name in sorted(set(values) - set(_fields(cls)), key=str):
        remedy = f"the nearest that it has is {nearest(str(name), field_types(cls))}"
        raise ValueError(f"unknown key {SHORT.repr(name)} in {cls.__name__}: {remedy}")


def _restore(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, value)
    if isinstance(value, list) and typing.get_origin(hint) is tuple:
        return tuple(tuple(part) if isinstance(part, list) else part for part in value)
    return value
