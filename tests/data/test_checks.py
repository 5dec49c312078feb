"""Prepared files with nonsense in them, each told in one sentence with the file's name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import Prepared

from sat.data.dataset import CaptionDataset
from sat.data.vocabulary import Vocabulary

Write = Callable[..., Prepared]


def refused(data: Prepared, path: Path, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        CaptionDataset(data.folder, data.name, "train")
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "sentence"), [(-1, "ids from -1"), (11, "token 11, but the vocabulary has 11")]
)
def test_captions_with_id_out_of_range_raise(prepared: Write, value: int, sentence: str) -> None:
    data = prepared()
    path = data.path("CAPTIONS", ".json")
    data.captions[3][1] = value
    path.write_text(json.dumps(data.captions))
    refused(data, path, sentence)


@pytest.mark.parametrize("value", [1, 13])
def test_length_beyond_its_caption_raises(prepared: Write, value: int) -> None:
    data = prepared()
    path = data.path("CAPLENS", ".json")
    path.write_text(json.dumps([*data.lengths[1:], value]))
    refused(data, path, "not from 2 to 12")


@pytest.mark.parametrize("kind", ["CAPTIONS", "CAPLENS"])
@pytest.mark.parametrize("text", ["{", "null", '{"a": 1}', "[1.5]", "[1e400]", "[" * 5000])
def test_numbers_of_another_shape_raise(prepared: Write, kind: str, text: str) -> None:
    data = prepared()
    data.path(kind, ".json").write_text(text)
    refused(data, data.path(kind, ".json"), "is not a list of")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
@pytest.mark.parametrize(("kind", "suffix"), [("CAPTIONS", ".json"), ("IMAGES", ".hdf5")])
def test_pipe_as_file_raises_and_does_not_wait(prepared: Write, kind: str, suffix: str) -> None:
    data = prepared()
    path = data.path(kind, suffix)
    path.unlink()
    os.mkfifo(path)
    refused(data, path, "no regular file")


def external_storage(file: h5py.File, other: Path, shape: tuple[int, ...]) -> None:
    file.create_dataset("images", shape, np.uint8, external=[(str(other), 0, 10**6)])


def external_link(file: h5py.File, other: Path, shape: tuple[int, ...]) -> None:
    file["images"] = h5py.ExternalLink(str(other), "images")


def virtual(file: h5py.File, other: Path, shape: tuple[int, ...]) -> None:
    layout = h5py.VirtualLayout(shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(other), "images", shape)
    file.create_virtual_dataset("images", layout)


def other_type(file: h5py.File, other: Path, shape: tuple[int, ...]) -> None:
    file["images"] = np.zeros(shape, np.float32)


def missing(file: h5py.File, other: Path, shape: tuple[int, ...]) -> None:
    """No images at all."""


@pytest.mark.parametrize("build", [external_storage, external_link, virtual, other_type, missing])
def test_images_not_of_the_file_itself_raise(prepared: Write, build: Callable[..., None]) -> None:
    data = prepared()
    path, other = data.path("IMAGES", ".hdf5"), data.folder / "other.hdf5"
    path.rename(other)
    with h5py.File(path, "w") as file:
        file.attrs["captions_per_image"] = 5
        build(file, other, data.images.shape)
    refused(data, path, r"no images of type uint8\[N, 3, S, S\] of its own")


@pytest.mark.parametrize("shape", [(6, 1, 8, 8), (6, 3, 8, 9)])
def test_images_of_another_shape_raise(prepared: Write, shape: tuple[int, ...]) -> None:
    data = prepared()
    path = data.path("IMAGES", ".hdf5")
    with h5py.File(path, "r+") as file:
        del file["images"]
        file["images"] = np.zeros(shape, np.uint8)
    refused(data, path, "its images are uint8")


@pytest.mark.parametrize("value", [0, -5, 2.5, "five", [5, 5]])
def test_images_with_odd_captions_per_image_raise(prepared: Write, value: object) -> None:
    data = prepared()
    path = data.path("IMAGES", ".hdf5")
    with h5py.File(path, "r+") as file:
        file.attrs["captions_per_image"] = value
    refused(data, path, "captions_per_image is")


def test_file_that_is_no_hdf5_raises(prepared: Write) -> None:
    data = prepared()
    path = data.path("IMAGES", ".hdf5")
    path.write_bytes(path.read_bytes()[:100])
    refused(data, path, "cannot be read")


def test_pixels_that_cannot_be_read_are_told_with_the_name_of_their_file(prepared: Write) -> None:
    data = prepared()
    path = data.path("IMAGES", ".hdf5")
    with h5py.File(path, "r+") as file:
        del file["images"]
        file.create_dataset("images", data=data.images, chunks=(1, 3, 8, 8), compression="gzip")
        place = file["images"].id.get_chunk_info(0)
    with open(path, "r+b") as raw:
        raw.seek(place.byte_offset)
        raw.write(b"?" * place.size)
    dataset = CaptionDataset(data.folder, data.name, "train")
    with pytest.raises(ValueError, match=r"^\S+ cannot be read \(.*\): prepare the data again$"):
        dataset[0]


@pytest.mark.parametrize(
    "content",
    [
        "[",
        "[1]",
        '{"images": 3}',
        '{"images": []}',
        json.dumps({"images": 6 * [{"image_id": 1, "file_name": "a", "captions": "text"}]}),
        json.dumps({"images": 6 * [{"image_id": 1, "file_name": "a", "captions": [None]}]}),
        json.dumps({"images": 6 * [{"image_id": 1, "file_name": "a", "captions": []}]}),
        json.dumps({"images": 6 * [{"image_id": 1, "captions": ["a"]}]}),
        json.dumps({"images": 6 * [{"image_id": 1, "captions": ["a"]}], "scored": "tokens"}),
    ],
)
def test_references_of_another_shape_raise(prepared: Write, content: str) -> None:
    data = prepared()
    path = data.path("REFERENCES", ".json")
    path.write_text(content)
    dataset = CaptionDataset(data.folder, data.name, "train")
    with pytest.raises(
        ValueError, match=r"REFERENCES\S+ cannot be read \(.*prepare the data again"
    ):
        dataset.references(Vocabulary(data.word_map))
