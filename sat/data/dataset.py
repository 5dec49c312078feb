"""Read prepared files: `CaptionDataset` gives captions with their images.

T tokens, P regions, D features, S side of the images. Images stay uint8 until they reach the
device. Each process opens the HDF5 file itself, so that fork, spawn and forkserver workers all
work.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, cast

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sat.data import checks
from sat.data.annotations.record import SPLITS
from sat.data.manifest import SUFFIXES, check_manifest
from sat.data.vocabulary import IDS_SUFFIX, Vocabulary
from sat.reading import reading

logger = logging.getLogger(__name__)

UNKNOWN_SHARE = 0.1
"""of the training words: where more are <unk>, a warning says so"""
MIRRORED = 1
"""the second view of an image; the first, 0, is the image as it is"""


class Sample(NamedTuple):
    """One caption and its image."""

    image: Tensor  # uint8[3, S, S], or float16[P, D] where features are read
    caption: Tensor  # int64[T], start and end included, padded to the file's width
    length: int  # tokens, start and end counted
    index: int  # type: ignore[assignment]  # of the image within its split; hides tuple.index
    view: int = 0  # MIRRORED, or the image as it is


class CaptionDataset(Dataset[Sample]):
    """The captions of one split with their images, from our or the tutorial's prepared files.

    `dataset[i]` is the `Sample` of the i-th caption, `dataset[i, MIRRORED]` the same with the image
    mirrored. `transform` is applied to the image tensor.
    Raises `FileNotFoundError` for missing files, `ValueError` for files that do not fit together.
    """

    def __init__(
        self,
        data_folder: str | Path,
        data_name: str,
        split: str,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.split = split.lower()
        if self.split not in SPLITS:
            raise ValueError(f"split is {split!r}: choose one of {', '.join(SPLITS)}")
        self.folder, self.name, self.transform = Path(data_folder), data_name, transform
        self.source, self.reads_features = self.path("IMAGES", ".hdf5"), False
        self._open_file: h5py.File | None = None
        self._open_in = -1
        captions = self.path("CAPTIONS", ".json")
        trained_on = self.folder / f"TRAIN_CAPTIONS_{self.name}.json"
        if self.split == "test" and trained_on.exists() and not captions.exists():
            raise FileNotFoundError(
                f"{self.folder} was prepared without a test split: choose val, or prepare it again"
                " with --split 0.8,0.1,0.1"
            )
        files = [self.path(kind, suffix) for kind, suffix in SUFFIXES.items()]
        check_manifest(self.folder, self.name, files)
        self.captions = checks.read_captions(_existing(captions))
        if any(path.exists() for path in _vocabulary_files(self.folder, self.name)):
            vocabulary = read_vocabulary(self.folder, self.name)
            checks.check_ids(captions, self.captions, len(vocabulary))
        width = self.captions.shape[1]
        self.lengths = checks.read_lengths(_existing(self.path("CAPLENS", ".json")), width)
        header = checks.read_images_header(_existing(self.path("IMAGES", ".hdf5")))
        self.captions_per_image, self.num_images, self.image_size, self.resize = header
        expected = self.num_images * self.captions_per_image
        if not len(self.captions) == len(self.lengths) == expected:
            raise ValueError(
                f"{self.path('CAPTIONS', '.json')} holds {len(self.captions)} captions, "
                f"{len(self.lengths)} lengths, but {self.num_images} images of "
                f"{self.captions_per_image} captions each: prepare the data again"
            )

    def reading(self, features: str | Path) -> CaptionDataset:
        """The same captions with a file of `sat.training.feature_cache` in place of the images."""
        other = copy.copy(self)
        other.source, other.reads_features = Path(features), True
        return other

    def path(self, kind: str, suffix: str) -> Path:
        """The prepared file of this split that holds `kind`."""
        return self.folder / f"{self.split.upper()}_{kind}_{self.name}{suffix}"

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Iterable[int | tuple[int, int]]) -> list[Sample]:
        """The samples of a batch; captions in a row that share an image read it once."""
        samples: list[Sample] = []
        last: tuple[int, int] | None = None  # image and view
        for index in indices:
            caption, view = index if isinstance(index, tuple) else (index, 0)
            if not -len(self) <= caption < len(self):
                raise IndexError(f"caption {caption} of {len(self)}")
            caption %= len(self)
            current = (caption // self.captions_per_image, view)
            image = samples[-1].image if current == last else self.image(*current)
            words = torch.from_numpy(self.captions[caption].astype(np.int64))
            samples.append(Sample(image, words, int(self.lengths[caption]), *current))
            last = current
        return samples

    def image(self, index: int, view: int = 0) -> Tensor:
        """The pixels of an image, uint8[3, S, S], or its features, float16[P, D]."""
        key, place = ("features", (index, view)) if self.reads_features else ("images", index)
        with reading(self.source, checks.REMEDY):
            image = torch.from_numpy(self._file[key][place])
        if view == MIRRORED and not self.reads_features:
            image = image.flip(-1)
        return self.transform(image) if self.transform else image

    def references(self, vocabulary: Vocabulary) -> list[dict[str, Any]]:
        """The "image_id", "file_name" and "captions" of each image, as scores compare them.

        These are the original captions, or, where the file says "scored": "tokens", their tokens
        joined by blanks (languages that are written without blanks).
        Files made by the tutorial do not hold the original captions. Captions decoded by the word
        map then take their place, which flatters the scores, and a warning says so.
        """
        if stored := self._stored_references():
            return stored
        path = self.path("REFERENCES", ".json")
        logger.warning("%s is missing: scores use captions from the word map, not as written", path)
        groups = self.captions.reshape(self.num_images, self.captions_per_image, -1)
        return [
            {
                "image_id": i,
                "file_name": str(i),
                "captions": list(dict.fromkeys(vocabulary.decode(line) for line in group.tolist())),
            }
            for i, group in enumerate(groups)
        ]

    def boxes(self) -> dict[int, list[dict[str, Any]]]:
        """The objects {"words", "box"} of the images that have some, by image index."""
        images = enumerate(self._stored_references())
        return {i: image["boxes"] for i, image in images if image.get("boxes")}

    def file_names(self) -> list[str]:
        """The file name of each image; `ValueError` where the data do not hold them."""
        _existing(self.path("REFERENCES", ".json"))
        return [image["file_name"] for image in self._stored_references()]

    def _stored_references(self) -> list[dict[str, Any]]:
        """The entry of each image in the file of references; empty where there is none."""
        path = self.path("REFERENCES", ".json")
        return checks.read_references(path, self.num_images) if path.exists() else []

    @property
    def _file(self) -> h5py.File:
        if self._open_file is None or self._open_in != os.getpid():
            self._open_file = h5py.File(_existing(self.source), "r")
            self._open_in = os.getpid()
        return self._open_file

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open_file": None}


def find_data_name(folder: str | Path) -> str:
    """The common part of the prepared files' names, if `folder` holds exactly one data set."""
    names = sorted(
        path.stem.removeprefix(kind)
        for kind in ("WORDMAP_", "TOKENIZER_")
        for path in Path(folder).glob(f"{kind}*.json")
        if not path.name.endswith(IDS_SUFFIX)
    )
    if len(names) == 1:
        return names[0]
    remedy = "pass one as --data_name" if names else "run sat-prepare first"
    found = f"{len(names)} prepared data sets ({', '.join(names) or 'none'})"
    raise ValueError(f"{folder} holds {found}: {remedy}")


def read_vocabulary(folder: str | Path, name: str) -> Vocabulary:
    """The word map of prepared files, or the tokenizer that they were prepared with."""
    return vocabulary_of(*_vocabulary_files(folder, name))


def _vocabulary_files(folder: str | Path, name: str) -> tuple[Path, Path]:
    return Path(folder, f"WORDMAP_{name}.json"), Path(folder, f"TOKENIZER_{name}.json")


def vocabulary_of(word_map: Path, tokenizer: Path) -> Vocabulary:
    """The tokenizer of a file if it exists, else the vocabulary of the word map."""
    if not tokenizer.exists():
        return Vocabulary.load(word_map)
    from sat.data.tokenizer import SubwordTokenizer

    return cast(Vocabulary, SubwordTokenizer.load(tokenizer))  # it has the same methods


def warn_of_unknown(train: CaptionDataset, unk_id: int | None) -> None:
    """Log a warning where more than a tenth of the words in the training captions are <unk>."""
    place = np.arange(train.captions.shape[1])
    words = train.captions[(place > 0) & (place < train.lengths[:, None] - 1)]  # no start, no end
    share = 0.0 if unk_id is None else (words == unk_id).mean()
    if share > UNKNOWN_SHARE:
        logger.warning(
            "%.0f %% of the words in the training captions are <unk>, and so will captions be: "
            "prepare the data with a lower --min_word_freq, or more of them",
            100 * share,
        )


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run sat-prepare, or check --data_name")
    return path
