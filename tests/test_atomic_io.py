"""A file takes its place only when all of it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from sat.atomic_io import atomic_write


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text("old")
    with atomic_write(str(path)) as file:
        file.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt, OSError])
def test_what_stood_there_stays_when_writing_fails(
    tmp_path: Path, stopped_by: type[BaseException]
) -> None:
    path = tmp_path / "words.json"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as file:
            file.write_text("ne")
            raise stopped_by

    with pytest.raises(stopped_by):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
