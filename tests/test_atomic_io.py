"""A file takes its place only when all of it is written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sat.atomic_io import atomic_write, check_space, check_writable, this_process, write_json


def test_atomic_write_renames_the_file_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text("old")
    with atomic_write(str(path)) as file:
        file.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt, OSError])
def test_atomic_write_after_a_failure_keeps_the_old_file(
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


def test_write_json_makes_folders_and_keeps_non_ascii_text(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "captions.json"
    write_json(path, {"caption": "ein Hund läuft"})
    assert "läuft" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == {"caption": "ein Hund läuft"}
    with pytest.raises(TypeError):
        write_json(path, {"caption": object()})
    assert [file.name for file in path.parent.iterdir()] == ["captions.json"]


def test_check_space_with_one_byte_too_few_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1999))
    check_space(tmp_path, 1999, "images", "make room")
    with pytest.raises(
        OSError, match=r": images need 2e-06 GB and 1\.999e-06 GB are free: make room"
    ):
        check_space(tmp_path, 2000, "images", "make room")


def test_check_writable_that_takes_no_files_names_what_is_in_the_way(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "choose another")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"[\\/]file is no folder: choose another$"):
            check_writable(path, "choose another")


def test_check_writable_that_cannot_be_written_to_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OSError, match=r"cannot be written: choose another$") as caught:
        check_writable(tmp_path / "data", "choose another")
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), RuntimeError("errno = 28: No space left on device")],
    ids=repr,
)
def test_a_full_disk_names_the_path_and_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(handle: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_250_000))
    with pytest.raises(OSError, match=r"No space left on device \(1\.2 MB are free\): m") as caught:
        write_json(tmp_path / "a.json", 3)
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'} cannot be written: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot be asked which processes live")
def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    host, number = this_process().split("-")
    assert int(number) == os.getpid()
    dead = 2**22 + 1  # no process has so high a number
    killed = f".a.json.{host}-{dead}.tmp"
    others = {
        f".b.json.{host}-{dead}.tmp",
        f".a.json.{host[::-1]}-{dead}.tmp",  # of another machine, where it may be alive
        f".a.json.{host}-{os.getppid()}.tmp",
        f".a.json.{host}-notes.tmp",
    }
    for name in {killed} | others:
        (tmp_path / name).touch()
    write_json(tmp_path / "a.json", 3)
    assert {path.name for path in tmp_path.iterdir()} == others | {"a.json"}


def test_write_json_file_names_are_utf8_whatever_the_locale_and_their_bytes(tmp_path):
    names = ["caf\udce9.jpg", "\udce7\udc8a\udcac.jpg"]  # Latin-1; UTF-8, listed in the locale C
    write_json(tmp_path / "a.json", names)
    read = json.loads((tmp_path / "a.json").read_bytes())
    assert read == ["caf\ufffd.jpg", "\u72ac.jpg"]
