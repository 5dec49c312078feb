"""The rows of delimited text (CSV, TSV), and the quotes in it that do not pair."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from sat.data.image_files import SUFFIXES

QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"\s*')
IMAGE_ON_LATER_LINE = re.compile(
    rf"\n[^\n]*({'|'.join(map(re.escape, SUFFIXES))})[,;|\t\r\n]", re.I
)


def read_header(text: str) -> tuple[str, str]:
    """The first line that is not blank, and the delimiter in it."""
    line = re.split(r"[\r\n]", text.lstrip(), maxsplit=1)[0]
    return line, max(",\t|;", key=line.count)


def split_rows(text: str, path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where each row that is not blank begins, and its fields.

    With tabs a line is a row, unless the header has quotes. Raises `ValueError` for a quote that
    takes in other rows.
    """
    header, delimiter = read_header(text)
    by_tabs = delimiter == "\t" and '"' not in header
    quoting: Literal[0, 3] = csv.QUOTE_NONE if by_tabs else csv.QUOTE_MINIMAL
    lines = list(io.StringIO(text, newline=""))
    rows = csv.reader(lines, delimiter=delimiter, quoting=quoting)
    end = 0
    try:
        for fields in rows:
            if by_tabs:
                fields = [_unquote(field) for field in fields]
            elif rows.line_num > end + 1 or rows.line_num == len(lines):
                _check_quotes("".join(lines[end : rows.line_num]), fields, delimiter)
            if any(field.strip() for field in fields):
                yield f"{path}: line {end + 1}", fields
            end = rows.line_num
    except csv.Error as error:
        raise ValueError(
            f"{path}: line {end + 1} is no row of a table, read to line {rows.line_num} ({error}):"
            " double the quotes within a caption, and put the caption in quotes"
        ) from error


def _unquote(field: str) -> str:
    quoted = QUOTED.fullmatch(field)
    return quoted[1].replace('""', '"') if quoted else field


def _check_quotes(row: str, fields: list[str], delimiter: str) -> None:
    """Raise `csv.Error` for a quote that is closed within another field, or never."""
    next(csv.reader([row.rstrip()], delimiter=delimiter, strict=True), None)
    if any(IMAGE_ON_LATER_LINE.search(f"{field}\n") for field in fields):
        raise csv.Error("a quote takes in the rows between")
