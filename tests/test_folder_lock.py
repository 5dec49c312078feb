"""One writer a folder."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sat.folder_lock import LOCK, lock_folder

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from sat.folder_lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_lock_folder_held_by_another_process_names_it_and_dies_with_it(tmp_path, caplog):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as other:
        try:
            assert other.stdout.readline() == "locked\n"
            with (
                pytest.raises(FileExistsError, match=rf"process {other.pid} on .*wait for its end"),
                lock_folder(tmp_path),
            ):
                pass
        finally:
            other.kill()
    with caplog.at_level("INFO"), lock_folder(tmp_path):
        assert f"process {other.pid}" in caplog.text
        assert "ended without a word" in caplog.text
    assert not (tmp_path / LOCK).exists()


def test_lock_folder_when_the_block_fails_leaves_no_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), lock_folder(tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / LOCK).exists()


def test_lock_folder_of_a_file_system_without_locks_warns_and_goes_on(
    tmp_path, monkeypatch, caplog
):
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", lockf)
    with lock_folder(tmp_path):
        assert "no lock" in caplog.text
