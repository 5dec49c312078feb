"""Prepared files as training samples: `CaptionDataset`, and batches of like length.

B captions, T words, P regions, D features, S side of the pictures. Pictures stay uint8 until they
reach the device; HDF5 files are opened by the process that reads them, so fork, spawn and
forkserver workers all do.
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from sat.data.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

SPLITS = ("TRAIN", "VAL", "TEST")
BLOCK = 2**22
"""bytes of captions parsed at once"""
MIRRORED = 1  # the second view of an image; the first, 0, is the image as it is


class Sample(NamedTuple):
    """One caption and its picture."""

    image: Tensor  # uint8[3, S, S], or float16[P, D] where features are read
    caption: Tensor  # int64[T], start and end included, padded to the file's width
    length: int  # words, start and end counted
    index: int  # of the image within its split


class CaptionDataset(Dataset):
    """The captions of one split with their pictures, from ours or the tutorial's prepared files.

    `dataset[i]` is the i-th caption's `Sample`, `dataset[i, MIRRORED]` the same with the picture
    mirrored. `transform` is applied to the picture tensor. With `features` (a file that
    `sat.data.features` wrote) the picture's encoded form takes its place.
    Raises `FileNotFoundError` for missing files, `ValueError` for files that do not fit together.
    """

    def __init__(
        self,
        data_folder: str | Path,
        data_name: str,
        split: str,
        transform: Callable[[Tensor], Tensor] | None = None,
        *,
        features: str | Path | None = None,
    ) -> None:
        self.split = split.upper()
        if self.split not in SPLITS:
            raise ValueError(f"split is {split!r}: choose one of train, val, test")
        self.folder, self.name, self.transform = Path(data_folder), data_name, transform
        self.reads_features = features is not None
        self.source = Path(features) if features else self.path("IMAGES", ".hdf5")
        self._open_file: h5py.File | None = None
        self._open_in = -1
        self.captions = _read_captions(_existing(self.path("CAPTIONS", ".json")))
        lengths = json.loads(_existing(self.path("CAPLENS", ".json")).read_text("utf-8"))
        self.lengths = np.asarray(lengths, dtype=np.int64)
        with h5py.File(_existing(self.path("IMAGES", ".hdf5")), "r") as file:
            self.captions_per_image = int(file.attrs["captions_per_image"])
            self.images = len(file["images"])
            self.image_size = file["images"].shape[-1]
            self.resize = str(file.attrs.get("resize", "squash"))
        expected = self.images * self.captions_per_image
        if not len(self.captions) == len(self.lengths) == expected:
            raise ValueError(
                f"{self.path('CAPTIONS', '.json')} holds {len(self.captions)} captions, "
                f"{len(self.lengths)} lengths, but {self.images} images of "
                f"{self.captions_per_image} captions each: prepare the data again"
            )

    def reading(self, features: str | Path) -> CaptionDataset:
        """The same captions with a file of features in place of the pictures."""
        other = copy.copy(self)
        other.source, other.reads_features = Path(features), True
        return other

    def path(self, kind: str, suffix: str) -> Path:
        """The prepared file of this split that holds `kind`."""
        return self.folder / f"{self.split}_{kind}_{self.name}{suffix}"

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        caption, view = index if isinstance(index, tuple) else (index, 0)
        if not -len(self) <= caption < len(self):
            raise IndexError(f"caption {caption} of {len(self)}")
        return self._sample(caption % len(self), view)

    def _sample(self, caption: int, view: int, picture: Tensor | None = None) -> Sample:
        image = caption // self.captions_per_image
        return Sample(
            self.picture(image, view) if picture is None else picture,
            torch.from_numpy(self.captions[caption].astype(np.int64)),
            int(self.lengths[caption]),
            image,
        )

    def __getitems__(self, indices: list[int | tuple[int, int]]) -> list[Sample]:
        """A batch for a loader; captions of one image in a row share its picture, read once."""
        samples: list[Sample] = []
        last: tuple[int, int] | None = None  # image and view
        for index in indices:
            caption, view = index if isinstance(index, tuple) else (index, 0)
            place = (caption // self.captions_per_image, view)
            shared = samples[-1].image if place == last else None
            samples.append(self._sample(caption, view, shared))
            last = place
        return samples

    def picture(self, image: int, view: int = 0) -> Tensor:
        """uint8[3, S, S] of an image, or its features float16[P, D]."""
        if self.reads_features:
            picture = torch.from_numpy(self._file["features"][image, view])
        else:
            picture = torch.from_numpy(self._file["images"][image])
            picture = picture.flip(-1) if view == MIRRORED else picture
        return self.transform(picture) if self.transform else picture

    def references(self, vocabulary: Vocabulary) -> list[dict[str, Any]]:
        """For each image its "image_id", "file_name" and "captions" as people wrote them.

        Files made by the tutorial do not hold the captions as written; then those of the word map
        stand in, which flatters the scores, and a warning says so.
        """
        path = self.path("REFERENCES", ".json")
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))["images"]
        logger.warning("%s is missing: scores use captions from the word map, not as written", path)
        groups = self.captions.reshape(self.images, self.captions_per_image, -1)
        return [
            {
                "image_id": i,
                "file_name": str(i),
                "captions": list(dict.fromkeys(vocabulary.decode(line) for line in group.tolist())),
            }
            for i, group in enumerate(groups)
        ]

    def one_per_image(self) -> Subset:
        """The data set with every image exactly once, in order: what evaluation reads."""
        return Subset(self, range(0, len(self), self.captions_per_image))

    @property
    def _file(self) -> h5py.File:
        if self._open_file is None or self._open_in != os.getpid():
            self._open_file = h5py.File(_existing(self.source), "r")
            self._open_in = os.getpid()
        return self._open_file

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open_file": None}


def find_data_name(folder: str | Path) -> str:
    """The common part of the prepared files' names, where `folder` holds exactly one data set."""
    names = sorted(
        path.stem.removeprefix(kind)
        for kind in ("WORDMAP_", "TOKENIZER_")
        for path in Path(folder).glob(f"{kind}*.json")
    )
    if len(names) != 1:
        found = "none" if not names else ", ".join(names)
        raise ValueError(
            f"{folder} holds {len(names)} prepared data sets ({found}): "
            + ("pass one as --data_name" if names else "run create_input_files.py first")
        )
    return names[0]


def read_vocabulary(folder: str | Path, name: str) -> Vocabulary:
    """The words of prepared files: the word map, or the tokenizer they were prepared with."""
    return vocabulary_of(
        Path(folder, f"WORDMAP_{name}.json"), Path(folder, f"TOKENIZER_{name}.json")
    )


def vocabulary_of(word_map: Path, tokenizer: Path) -> Vocabulary:
    """What the tokenizer's file holds where there is one, else the word map's."""
    if not tokenizer.exists():
        return Vocabulary.load(word_map)
    from sat.data.tokenizer import SubwordTokenizer

    return SubwordTokenizer.load(tokenizer)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: run create_input_files.py, or check --data_name"
        )
    return path


def _read_captions(path: Path) -> np.ndarray:
    """int32[N, T] from a JSON list of lists of one length, without a Python object a word."""
    parts, widths, closed = [], set(), 0
    try:
        for block in _whole_rows(path):
            rows = [row[row.rfind(b"[") + 1 :] for row in block.split(b"]") if b"[" in row]
            widths |= {row.count(b",") for row in rows}
            closed += block.count(b"]") - len(rows)
            numbers = b",".join(rows).decode("ascii")
            parts.append(np.fromstring(numbers, dtype=np.int32, sep=","))
        if len(widths) != 1 or closed != 1:
            raise ValueError("rows differ, or the list is not closed")
        return np.concatenate(parts).reshape(-1, widths.pop() + 1)
    except (ValueError, DeprecationWarning) as error:
        raise ValueError(
            f"{path} is not a list of captions of one length: prepare the data again"
        ) from error


def _whole_rows(path: Path) -> Iterator[bytes]:
    """A file of JSON lists block by block, cut behind brackets so that rows stay whole."""
    rest = b""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            rest += block
            end = rest.rfind(b"]") + 1
            yield rest[:end]
            rest = rest[end:]
    if rest.strip():
        raise ValueError("it ends within a row")
