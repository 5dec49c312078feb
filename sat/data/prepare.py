"""Turn records into prepared files: images, captions, references and the vocabulary."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sat.atomic_io import (
    check_space,
    left_by_killed,
    naming_full_disk,
    replace_file,
    this_process,
)
from sat.config.data import InputFilesConfig
from sat.data.annotations.record import SPLITS, Record
from sat.data.caption_selection import (
    check_images_exist,
    choose_references,
    filter_by_length,
    present,
    sample_captions,
)
from sat.data.image_writer import Size, write_images
from sat.data.manifest import SUFFIXES, begin_replacing, write_manifest
from sat.data.progress import Progress
from sat.data.vocabulary import IDS_SUFFIX, Vocabulary
from sat.folder_lock import lock_folder

if TYPE_CHECKING:
    from sat.data.tokenizer import SubwordTokenizer

logger = logging.getLogger(__name__)


CAPTION_BYTES_PER_WORD = 8
"""in JSON, at most: six digits, a comma and a blank"""


def create_input_files(
    records: Sequence[Record],
    output_folder: str | Path,
    config: InputFilesConfig,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> str:
    """Write the prepared files to `output_folder`; return the common part of their names.

    All files are written to a temporary folder in it and renamed at the end, so a failed or
    interrupted run leaves nothing. The same seed gives the same bytes with any number of workers.
    `progress` wraps the loop over the images of each split, as tqdm does. Raises `ValueError` (a
    split without captions, a broken image), `FileNotFoundError` (missing images), `FileExistsError`
    (files of an earlier run) and `OSError` (not enough disk space).
    """
    output = Path(output_folder)
    if not overwrite:
        check_output(output, config)
    records, tokenizer = choose_references(records), None
    if config.tokenizer:
        from sat.data.tokenizer import tokenize_records

        records, tokenizer = tokenize_records(records, config.tokenizer, config.tokenizer_size)
    splits = {split: filter_by_length(records, split, config.max_len) for split in present(records)}
    if config.on_bad_image == "error":
        check_images_exist(record for kept in splits.values() for record in kept)
    counted = records if config.vocabulary_splits == "all" else splits["train"]
    vocabulary = tokenizer or Vocabulary.build(
        (words for record in counted for words in record.captions),
        config.min_word_freq,
        config.vocabulary_size,
    )
    logger.info("vocabulary: %d words", len(vocabulary))
    output.mkdir(parents=True, exist_ok=True)
    _check_space(output, sum(map(len, splits.values())), config)
    with (
        lock_folder(output),
        naming_full_disk(output / config.name),
        temporary_folder(output, config) as folder,
    ):
        for left in left_by_killed(output, f".{config.name}.new_"):
            shutil.rmtree(left, ignore_errors=True)
        dropped: list[Path] = []
        for split, kept in splits.items():
            paths = {kind: Path(folder, _file(split, kind, config)) for kind in SUFFIXES}
            dropped += _write_split(kept, split, paths, vocabulary, config, progress)
        vocabulary.save(Path(folder, config.vocabulary_file))
        if dropped:
            lines = "".join(f"{path}\n" for path in dropped)
            Path(folder, _dropped_file(config)).write_text(lines, "utf-8", "backslashreplace")
        written = sorted(path.name for path in Path(folder).iterdir())
        _replace_files(Path(folder), output, written, config)
    from sat.data.dataset import CaptionDataset, warn_of_unknown  # torch: not for --help

    warn_of_unknown(CaptionDataset(output, config.name, "train"), vocabulary.unk_id)
    return config.name


def _replace_files(new: Path, output: Path, written: list[str], config: InputFilesConfig) -> None:
    """Give the files their place, and the set its manifest; remove what an earlier run left."""
    begin_replacing(output, config.name)
    for name in written:
        replace_file(new / name, output / name)
    for name in {*_files(config), _dropped_file(config)} - set(written):
        (output / name).unlink(missing_ok=True)
    settings = dataclasses.asdict(config) | {"workers": None}  # they change no byte
    write_manifest(output, config.name, set(written) & set(_files(config)), settings)


def temporary_folder(output: Path, config: InputFilesConfig) -> tempfile.TemporaryDirectory[str]:
    """A folder within `output`, which a later run removes if this process is killed."""
    prefix = f".{config.name}.new_{this_process()}_"
    return tempfile.TemporaryDirectory(dir=output, prefix=prefix)


def check_output(output_folder: str | Path, config: InputFilesConfig) -> None:
    """Raise `FileExistsError` if a file of an earlier run exists."""
    for name in _files(config):
        if Path(output_folder, name).exists():
            raise FileExistsError(
                f"{Path(output_folder, name)}: exists already; replace it with --overwrite"
            )


def _files(config: InputFilesConfig) -> list[str]:
    """The names of all files that a prepared set may have."""
    names = [_file(split, kind, config) for split in SPLITS for kind in SUFFIXES]
    ids = Path(config.vocabulary_file).with_suffix(IDS_SUFFIX)
    return [*names, config.vocabulary_file, ids.name]


def _dropped_file(config: InputFilesConfig) -> str:
    return f"DROPPED_{config.name}.txt"


def _file(split: str, kind: str, config: InputFilesConfig) -> str:
    return f"{split.upper()}_{kind}_{config.name}{SUFFIXES[kind]}"


def _check_space(output: Path, images: int, config: InputFilesConfig) -> None:
    pixels = images * 3 * config.image_size**2
    captions = images * config.captions_per_image * (config.max_len + 2) * CAPTION_BYTES_PER_WORD
    purpose = f"{images} images of {config.image_size} pixels"
    remedy = "make room, or choose another --output_folder or a smaller --image_size"
    check_space(output, pixels + captions, purpose, remedy)


def _write_split(
    records: list[Record],
    split: str,
    paths: dict[str, Path],
    vocabulary: Vocabulary | SubwordTokenizer,
    config: InputFilesConfig,
    progress: Progress | None,
) -> list[Path]:
    """Write the four files of a split, captions of the images written; return the others' paths."""
    images = [record.path for record in records]
    sizes = write_images(
        paths["IMAGES"],
        images,
        config.preprocessing,
        captions_per_image=config.captions_per_image,
        workers=config.workers,
        skip_bad=config.on_bad_image == "skip",
        progress=partial(progress, total=len(images), desc=split) if progress else iter,
    )
    kept = [(record, size) for record, size in zip(records, sizes) if size is not None]
    if not kept:
        raise ValueError(f"none of the {len(images)} images of the {split} split can be read")
    if len(kept) < len(images):
        logger.warning("%s: %d of %d images skipped", split, len(images) - len(kept), len(images))
    generator = random.Random(config.seed)
    chosen = [
        words
        for record, _ in kept
        for words in sample_captions(record.captions, config.captions_per_image, generator)
    ]
    padding = [vocabulary.pad_id] * config.max_len
    lines = (vocabulary.encode(words) + padding[len(words) :] for words in chosen)
    _write_list(paths["CAPTIONS"], lines)
    _write_list(paths["CAPLENS"], (len(words) + 2 for words in chosen))  # and <start>, <end>
    references: dict[str, Any] = {"images": [_reference(record, size) for record, size in kept]}
    if any(record.references for record, _ in kept):
        references["scored"] = "tokens"
    paths["REFERENCES"].write_text(json.dumps(references), encoding="utf-8")
    return [record.path for record, size in zip(records, sizes) if size is None]


def _reference(record: Record, size: Size) -> dict[str, Any]:
    entry = {
        "image_id": record.image_id,
        "file_name": record.path.name,
        "width": size[0],
        "height": size[1],
        "captions": list(record.raw),
    }
    if record.references is not None:
        entry["tokens"] = list(record.references)
    return entry if record.boxes is None else entry | {"boxes": record.boxes}


def _write_list(path: Path, items: Iterable[Any]) -> None:
    """Write a JSON list item by item, so that the whole list is never in memory."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for i, item in enumerate(items):
            file.write((", " if i else "") + json.dumps(item))
        file.write("]")
