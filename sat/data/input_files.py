"""Records → the prepared files that training reads: pictures as HDF5, captions as JSON.

I images, S side of the pictures. Names and layout are the tutorial's, so that either side reads the
other's files; new beside them are the *_REFERENCES_* files with the captions as people wrote them.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sat.config import Preprocessing
from sat.data.annotations import SPLITS, Record, check_photos_exist
from sat.data.pictures import Progress, Size, write_pictures
from sat.data.selection import choose, usable, words_counted
from sat.data.vocabulary import Vocabulary
from sat.fields import check, check_choices

logger = logging.getLogger(__name__)

SUFFIXES = {"IMAGES": ".hdf5", "CAPTIONS": ".json", "CAPLENS": ".json", "REFERENCES": ".json"}
BYTES_PER_WORD = 8  # of a caption in JSON, at most: six digits, a comma and a blank


@dataclass(frozen=True)
class InputFilesConfig:
    """How photos and captions are prepared: `create_input_files.py` makes its flags from these."""

    dataset: Literal["coco", "flickr8k", "flickr30k", "shapes"] = "coco"
    """says where photos lie below the image folder, and begins the names of the files"""
    captions_per_image: int = 5
    """of each image: more are sampled from, fewer are repeated"""
    min_word_freq: int = 5
    """words seen less often become <unk> (the tutorial's 5 is 6 here: it keeps more than 5)"""
    vocabulary_size: int | None = None
    """keep this many words, the most frequent, and leave min_word_freq aside (the paper: 10000)"""
    vocabulary_splits: Literal["train", "all"] = "train"
    """train: count the words of the training captions; all: of every caption, as the tutorial"""
    tokenizer: str | None = None
    """store a tokenizer's pieces, not words: tokenizer.json, folder, Hub id, or train a new one"""
    tokenizer_size: int = 8192
    """pieces at most, of a new one"""
    max_len: int = 50
    """words (pieces with a tokenizer); training leaves longer captions out"""
    image_size: int = Preprocessing.size
    """side of the square pictures, in pixels"""
    resize: Literal["squash", "crop", "inner_crop"] = Preprocessing.resize
    """squash: ignore the aspect ratio; crop: the central square; inner_crop: 7/8 of its side"""
    workers: int | None = None
    """threads that decode and resize; one for each core when empty"""
    seed: int = 123
    """of the sampling of captions"""
    on_bad_image: Literal["error", "skip"] = "error"
    """what a missing or unreadable photo gets: an error, or it is left out and named in the log"""

    def __post_init__(self) -> None:
        check_choices(self)
        positive = "give a whole number of at least 1"
        for name in ("captions_per_image", "min_word_freq", "max_len", "tokenizer_size"):
            check(getattr(self, name) >= 1, name, getattr(self, name), positive)
        for name in ("workers", "vocabulary_size"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, positive)
        _ = self.preprocessing  # checks its own share

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(size=self.image_size, resize=self.resize)

    @property
    def name(self) -> str:
        """The common part of the files' names."""
        words = f"{self.min_word_freq}_min_word_freq"
        if self.vocabulary_size is not None:
            words = f"{self.vocabulary_size}_words"
        words = "tokenizer" if self.tokenizer else words
        return f"{self.dataset}_{self.captions_per_image}_cap_per_img_{words}"

    @property
    def vocabulary_file(self) -> str:
        return f"{'TOKENIZER' if self.tokenizer else 'WORDMAP'}_{self.name}.json"


def create_input_files(
    records: Sequence[Record],
    output_folder: str | Path,
    config: InputFilesConfig,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> str:
    """The `data_name` of the prepared files, written to `output_folder`.

    Everything is written to a temporary folder beside its final place and renamed at the end: a
    failed or interrupted run leaves nothing. The same seed gives the same bytes, whatever the
    number of workers. `progress` wraps each split's loop over photos, as tqdm does. Raises
    `ValueError` (a split without captions, a broken photo), `FileNotFoundError` (missing photos),
    `FileExistsError` (an earlier run's files) and `OSError` (not enough disk space).
    """
    output = Path(output_folder)
    if not overwrite:
        check_output(output, config)
    tokenizer = None
    if config.tokenizer:
        from sat.data.subwords import in_pieces

        records, tokenizer = in_pieces(records, config.tokenizer, config.tokenizer_size)
    splits = {split: usable(records, split, config.max_len) for split in SPLITS}
    if config.on_bad_image == "error":
        check_photos_exist(record for split in SPLITS for record in splits[split])
    vocabulary = tokenizer or Vocabulary.build(
        words_counted(records, splits["train"], config.vocabulary_splits),
        config.min_word_freq,
        config.vocabulary_size,
    )
    logger.info("vocabulary: %d words", len(vocabulary))
    output.mkdir(parents=True, exist_ok=True)
    _check_space(output, sum(map(len, splits.values())), config)
    with tempfile.TemporaryDirectory(dir=output, prefix=f".{config.name}_") as folder:
        for split in SPLITS:
            paths = {kind: Path(folder, _file(split, kind, config)) for kind in SUFFIXES}
            _write_split(splits[split], split, paths, vocabulary, config, progress)
        vocabulary.save(Path(folder, config.vocabulary_file))
        for path in sorted(Path(folder).iterdir()):
            os.replace(path, output / path.name)
    return config.name


def check_output(output_folder: str | Path, config: InputFilesConfig) -> None:
    """Raise `FileExistsError` if the files of an earlier run are there."""
    names = [_file(split, kind, config) for split in SPLITS for kind in SUFFIXES]
    for name in [*names, config.vocabulary_file]:
        if Path(output_folder, name).exists():
            raise FileExistsError(
                f"{Path(output_folder, name)}: is there already; replace it with --overwrite"
            )


def _file(split: str, kind: str, config: InputFilesConfig) -> str:
    return f"{split.upper()}_{kind}_{config.name}{SUFFIXES[kind]}"


def _check_space(output: Path, images: int, config: InputFilesConfig) -> None:
    pictures = images * 3 * config.image_size**2
    captions = images * config.captions_per_image * (config.max_len + 2) * BYTES_PER_WORD
    needed, free = pictures + captions, shutil.disk_usage(output).free
    if needed > free:
        raise OSError(
            f"{output}: {needed / 1e9:.1f} GB are needed for {images} pictures of"
            f" {config.image_size} pixels and {free / 1e9:.1f} GB are free: make room, or choose"
            " another --output_folder or a smaller --image_size"
        )


def _write_split(
    records: list[Record],
    split: str,
    paths: dict[str, Path],
    vocabulary: Vocabulary,
    config: InputFilesConfig,
    progress: Progress | None,
) -> None:
    """Write the four files of a split: first the pictures, then what belongs to those written."""
    photos = [record.path for record in records]
    sizes = write_pictures(
        paths["IMAGES"],
        photos,
        config.preprocessing,
        captions_per_image=config.captions_per_image,
        workers=config.workers,
        skip_bad=config.on_bad_image == "skip",
        progress=partial(progress, total=len(photos), desc=split) if progress else iter,
    )
    kept = [(record, size) for record, size in zip(records, sizes) if size is not None]
    if not kept:
        raise ValueError(f"none of the {len(photos)} photos of the {split} split can be read")
    if len(kept) < len(photos):
        logger.warning("%s: %d of %d photos skipped", split, len(photos) - len(kept), len(photos))
    generator = random.Random(config.seed)
    chosen = [
        words
        for record, _ in kept
        for words in choose(record.captions, config.captions_per_image, generator)
    ]
    padding = [vocabulary.pad_id] * config.max_len
    lines = (vocabulary.encode(words) + padding[len(words) :] for words in chosen)
    _write_list(paths["CAPTIONS"], lines)
    _write_list(paths["CAPLENS"], (len(words) + 2 for words in chosen))  # and <start>, <end>
    references = [_reference(record, size) for record, size in kept]
    paths["REFERENCES"].write_text(json.dumps({"images": references}), encoding="utf-8")


def _reference(record: Record, size: Size) -> dict[str, Any]:
    entry = {
        "image_id": record.image_id,
        "file_name": record.path.name,
        "width": size[0],
        "height": size[1],
        "captions": list(record.raw),
    }
    return entry if record.boxes is None else entry | {"boxes": record.boxes}


def _write_list(path: Path, items: Iterable[Any]) -> None:
    """Write what `json.dump` writes for a list, without ever holding the whole list."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for i, item in enumerate(items):
            file.write((", " if i else "") + json.dumps(item))
        file.write("]")
