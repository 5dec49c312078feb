"""Helpers that the commands share: flags from configs, log lines, errors as one line."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import logging
import os
import re
import select
import sys
import typing
from argparse import SUPPRESS
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import (
    ArgumentParser,
    Namespace,
    get_loader,
    set_loader,
    set_parsing_settings,
)

from sat import torchrun
from sat.config.checks import SHORT, check_paths, describe, field_types, nearest
from sat.recipe_file import find_recipe, read_recipe
from sat.stop_signals import exit_code, stop_signals

T = TypeVar("T")


MODE = "flags"
"""of jsonargparse's reading of values"""


def parse_config(cls: type[T], arguments: list[str], **how: Any) -> T:
    """Build a config from the flags of its fields and the YAML files of `--config`.

    `how` is for jsonargparse's parser: its description and the form of its help.
    """
    parser = FlagParser(**how)
    parser.add_argument("--config", action="config", help="YAML file of flags; flags given win")
    add_flags(parser, cls)
    fields = given(parser.instantiate(parser.parse_args(complete_flags(cls, arguments))), cls)
    return cls(**fields)


class FlagParser(ArgumentParser):
    """A parser without abbreviations, whose errors are one line, and exit code 2."""

    def __init__(self, **how: Any) -> None:
        # JSON before YAML: libyaml refuses file names whose bytes are no text
        errors = (yaml.YAMLError, UnicodeError)
        set_loader(MODE, get_loader("yaml"), errors, json_superset=False)
        how.setdefault("allow_abbrev", False)
        how.setdefault("parser_mode", MODE)
        super().__init__(**how)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        message = " ".join(message.split())
        flags = self._option_string_actions
        wrong = re.fullmatch(r'Parser key "([\w.]+)": .*(?:Given value|Got value): (.*)', message)
        unknown = re.match(r"unrecognized arguments: (?:.* )?(--[\w.]+)", message)
        if wrong and (hint := getattr(flags.get(f"--{wrong[1]}"), "_typehint", None)):
            message = f"{wrong[1]} is {SHORT.repr(wrong[2])}: give {describe(hint)}"
        elif unknown:
            message += f": the nearest flag is {nearest(unknown[1], flags)}"
        print(f"error: {message[:300]} (--help lists the flags)", file=sys.stderr)
        raise SystemExit(2)


def add_flags(
    parser: ArgumentParser, cls: type, *, skip: tuple[str, ...] = (), given_only: bool = False
) -> None:
    """Add a flag to the parser for each field of a dataclass, with its docstring as the help.

    With `given_only`, a flag that is left out leaves no value, so that other defaults can stand,
    and dataclasses within this one have no flags.
    """
    set_parsing_settings(
        docstring_parse_attribute_docstrings=True, add_print_completion_argument=True
    )
    if given_only:
        hints = typing.get_type_hints(cls).items()
        skip += tuple(name for name, hint in hints if dataclasses.is_dataclass(hint))
    names = parser.add_class_arguments(cls, skip=set(skip))
    if given_only:
        parser.set_defaults(dict.fromkeys(names, SUPPRESS))


def given(flags: Namespace, cls: type) -> dict[str, Any]:
    """The fields of a dataclass that the flags hold a value for."""
    return {item.name: flags[item.name] for item in dataclasses.fields(cls) if item.name in flags}


def complete_flags(cls: type, arguments: list[str]) -> list[str]:
    """The arguments as jsonargparse needs them to read the flags of `cls`.

    Bool flags that stand without a value get one (`--resume --seed 1`), several values are joined
    (`--stages 1 2`), and the files of `--config` come first, so that flags win over them wherever
    they stand; one without values is left out. `--log` is an earlier name of `--tracker`, which
    torchrun takes for one of its own. Raises `ValueError` for a file that holds other values than
    fields of `cls`.
    """
    arguments = [re.sub(r"^--log(?==|$)", "--tracker", word) for word in arguments]
    switches, arguments = _flags_of(cls, bool), join_values(arguments, _flags_of(cls, tuple))
    flags = [
        f"{word}=true" if word in switches and after.startswith("-") else word
        for word, after in zip(arguments, [*arguments[1:], "-"])
    ]
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config", action="append", default=[])
    known, rest = files.parse_known_args(flags)
    check_paths(known, ["config"])
    paths = [find_recipe(name) for name in known.config]
    read = [path for path in paths if not path.exists() or read_recipe(path, cls)]
    return [*(f"--config={path}" for path in read), *rest]  # the parser names a missing one


def join_values(arguments: list[str], flags: Collection[str]) -> list[str]:
    """The arguments, then each of these flags with all its values as one JSON list.

    A flag may stand several times; a single value in brackets is a list already. (With nargs="+",
    jsonargparse refuses a YAML file that holds a single value.)
    """
    others: list[str] = []
    values: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        flag, given_one, value = word.partition("=")
        found = [value] if given_one else []
        while flag in flags and not given_one and rest and not rest[0].startswith("-"):
            found.append(rest.pop(0))
        if flag in flags and found:
            values.setdefault(flag, []).extend(found)
        else:
            others.append(word)
    for flag, found in values.items():
        is_list = len(found) == 1 and re.fullmatch(r"\[.*\]", found[0])
        text = found[0] if is_list else json.dumps(found, separators=(",", ":"))
        others.append(f"{flag}={text}")
    return others


def _flags_of(cls: type, kind: type) -> set[str]:
    """The flags of a dataclass's fields of a type, those of dataclasses within it included."""
    return {
        f"--{name}"
        for name, hint in field_types(cls).items()
        if any(kind in (part, typing.get_origin(part)) for part in (hint, *typing.get_args(hint)))
    }


TRACEBACK_VARIABLE = "SAT_TRACEBACK"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
SIGPIPE = 13
USER_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


@contextmanager
def cli_errors() -> Iterator[None]:
    """Wrap the main function of a script: errors of the user end as one line and exit code 1.

    These are `USER_ERRORS`: a wrong value, a missing file, a full disk, a missing extra, a NaN.
    Others are bugs and keep their traceback; with SAT_TRACEBACK=1 in the environment all do. A
    stop signal exits with 128 + its number, as shells expect (Ctrl-C: 130), and so does a command
    whose output nobody reads any more (`| head`).
    """
    # All log lines of sat go to stderr, and the warnings of other packages; with torchrun only the
    # errors of torch's C++ part, which warns where all weights have gradients.
    if torchrun.is_launched():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("sat").setLevel(logging.INFO)
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack letters of a name or a caption
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with stop_signals(), torchrun.output_of_rank_zero():
            try:
                yield
            finally:  # of `--help` too
                print(end="", flush=True)
    except KeyboardInterrupt as stop:
        _print_once("interrupted")
        raise SystemExit(exit_code(stop)) from None
    except USER_ERRORS as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise SystemExit(128 + SIGPIPE) from None
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        _print_once(f"error: {' '.join(str(error).split())}")
        raise SystemExit(1) from None


def _nobody_reads() -> bool:
    """Whether stdout is a pipe that was closed; what is left to print goes nowhere then."""
    stdout: Any = sys.__stdout__
    if stdout is None or sys.stdout is not stdout or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(stdout, 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
    return closed


def _print_once(line: str) -> None:
    """Print why the command ends to stderr; only one of the processes of a run does."""
    if torchrun.is_launched():
        from sat.distributed import is_first_error  # needs torch

        if not is_first_error():
            return
    print(line, file=sys.stderr, flush=True)


def keep_freed_memory() -> None:
    """Let glibc keep up to 2 GB of freed memory, which makes convolutions on the CPU twice as fast.

    By default it returns large blocks to the system, which then fills new ones with zeros. Nothing
    is done if the environment sets MALLOC_... variables, or if there is no glibc.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 2**30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
