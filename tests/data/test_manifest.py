"""The manifest of a prepared set: a mix of two preparings is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny

from sat.data import prepare
from sat.data.dataset import CaptionDataset
from sat.data.manifest import BLOCK, BLOCKS, data_fingerprint, fingerprint, manifest_path

NAME = tiny.NAME.format(1)


class Killed(BaseException):
    """As SIGKILL: nothing after it is done."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny.prepare(tmp_path / "data")


def test_dataset_of_a_whole_set_opens(data):
    assert len(CaptionDataset(data, NAME, "train")) == tiny.PHOTOS
    assert data_fingerprint(data, NAME) is not None


def test_dataset_without_a_manifest_opens_as_the_tutorials_do(data):
    manifest_path(data, NAME).unlink()
    assert len(CaptionDataset(data, NAME, "train")) == tiny.PHOTOS
    assert data_fingerprint(data, NAME) is None


@pytest.mark.parametrize("kind", ["IMAGES", "CAPTIONS", "CAPLENS", "REFERENCES"])
def test_dataset_with_a_changed_file_is_refused_by_name(data, kind):
    (path,) = data.glob(f"TRAIN_{kind}_*")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match=rf"TRAIN_{kind}_.* is not the file that was prepared"):
        CaptionDataset(data, NAME, "train")


def test_dataset_with_a_damaged_manifest_is_refused(data):
    manifest_path(data, NAME).write_text("[")
    with pytest.raises(ValueError, match="cannot be read"):
        CaptionDataset(data, NAME, "train")


@pytest.mark.parametrize("number", range(13))
def test_preparing_killed_between_two_renames_leaves_a_set_that_is_refused(
    data, monkeypatch, number
):
    """Killed while the old files are replaced, at each of the renames."""
    renamed = []

    def replace_file(new: Path, path: Path) -> None:
        if len(renamed) == number:
            raise Killed
        os.replace(new, path)
        renamed.append(path)

    monkeypatch.setattr(prepare, "replace_file", replace_file)
    with pytest.raises(Killed):
        tiny.prepare(data, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="was interrupted, its files may be of two sets"):
        CaptionDataset(data, NAME, "train")
    tiny.prepare(data, overwrite=True)
    assert len(CaptionDataset(data, NAME, "train")) == tiny.PHOTOS


def test_fingerprint_of_a_large_file_sees_its_blocks(tmp_path):
    content = bytearray(2 * BLOCK * BLOCKS)
    (tmp_path / "a").write_bytes(content)
    before = fingerprint(tmp_path / "a")
    content[0] = 1
    (tmp_path / "a").write_bytes(content)
    assert fingerprint(tmp_path / "a") != before
