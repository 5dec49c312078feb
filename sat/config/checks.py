"""Check config fields, and convert configs to JSON values and back."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def check(condition: bool, name: str, value: object, remedy: str) -> None:
    """Raise a `ValueError` with the field, its value and the remedy unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name} is {value!r}: {remedy}")


def check_at_least(least: int, config: object, *names: str) -> None:
    """`check` that each of these fields of a config is at least `least`."""
    for name in names:
        check(getattr(config, name) >= least, name, getattr(config, name), f"give at least {least}")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """`check` that the value is one of the choices."""
    choices = list(choices)
    check(value in choices, name, value, f"choose one of {', '.join(map(str, choices))}")


def check_choices(config: Any) -> None:
    """`check` that every `Literal` field of a config is one of its choices."""
    hints = typing.get_type_hints(type(config))
    for item in dataclasses.fields(config):
        choices = typing.get_args(hints[item.name])
        if typing.get_origin(hints[item.name]) is Literal:
            check_choice(item.name, getattr(config, item.name), choices)


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON values."""
    return dataclasses.asdict(config)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field by its flag, "stage1.epochs", those of configs within this one included."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        name, value = prefix + item.name, getattr(config, item.name)
        nested = dataclasses.is_dataclass(value)
        found |= flatten(value, f"{name}.") if nested else {name: value}
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like this one."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0)[0]


def from_dict(cls: type[T], values: dict[str, Any]) -> T:
    """Restore a config from `to_dict`; raise `ValueError` for a key that it does not have.

    The `EARLIER_KEYS` of a config, which earlier versions stored, are left out.
    """
    hints = typing.get_type_hints(cls)
    earlier = getattr(cls, "EARLIER_KEYS", ())
    values = {name: value for name, value in values.items() if name not in earlier}
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"unknown key {unknown[0]!r} in {cls.__name__}: it has {', '.join(sorted(hints))}"
        )
    return cls(**{name: _restore(hints[name], value) for name, value in values.items()})


def _restore(hint: Any, value: Any) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, value)
    if isinstance(value, list) and typing.get_origin(hint) is tuple:
        return tuple(tuple(part) if isinstance(part, list) else part for part in value)
    return value
