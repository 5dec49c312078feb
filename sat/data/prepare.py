"""Turn records into prepared files: images, captions, references and the vocabulary."""

from __future__ import annotations

import json
import logging
import os
import random
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sat.atomic_io import check_space
from sat.config.data import InputFilesConfig
from sat.data.annotations import SPLITS, Record, check_images_exist
from sat.data.image_writer import Size, write_images
from sat.data.progress import Progress
from sat.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from sat.data.tokenizer import SubwordTokenizer

logger = logging.getLogger(__name__)


def filter_by_length(records: Sequence[Record], split: str, max_len: int) -> list[Record]:
    """The records of a split without captions of more than `max_len` words.

    A training image without a shorter caption is left out. A validation or test image stays, with
    its captions cut, because every image is evaluated. `raw` keeps all captions for the scores.
    """
    kept: list[Record] = []
    images, captions, long, cut = 0, 0, 0, 0
    for record in records:
        if record.split != split:
            continue
        nonempty = tuple(words for words in record.captions if words)
        fitting = tuple(words for words in nonempty if len(words) <= max_len)
        images, captions = images + 1, captions + len(record.captions)
        long += len(nonempty) - len(fitting)
        if nonempty and not fitting and split != "train":
            fitting, cut = tuple(words[:max_len] for words in nonempty), cut + 1
        if fitting:
            kept.append(replace(record, captions=fitting))
    if not kept:
        raise ValueError(
            f"the {split} split has no captions of up to {max_len} words ({images} images,"
            f" {captions} captions): check the splits of the annotation file, or raise --max_len"
        )
    logger.info("%s: %d images, %d captions", split, images, captions)
    if long or len(kept) < images:
        logger.warning(
            "%s: %d captions are longer than %d words; of the images without a shorter one %d"
            " are kept with captions cut and %d are left out",
            *(split, long, max_len, cut, images - len(kept)),
        )
    return kept


def vocabulary_captions(
    records: Iterable[Record], training: Iterable[Record], splits: str
) -> Iterable[Sequence[str]]:
    """The captions whose words are counted for the vocabulary.

    "train": the captions of the filtered training records. "all": all captions of all splits, too
    long ones included, as the tutorial does; the word map then holds words of the test captions.
    """
    counted = records if splits == "all" else training
    return (words for record in counted for words in record.captions)


def sample_captions(
    captions: Sequence[tuple[str, ...]], number: int, generator: random.Random
) -> list[tuple[str, ...]]:
    """Draw exactly `number` captions; if there are fewer, take all and repeat some."""
    if len(captions) < number:
        again = [generator.choice(captions) for _ in range(number - len(captions))]
        return [*captions, *again]
    return generator.sample(captions, number)


SUFFIXES = {"IMAGES": ".hdf5", "CAPTIONS": ".json", "CAPLENS": ".json", "REFERENCES": ".json"}
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
    tokenizer = None
    if config.tokenizer:
        from sat.data.tokenizer import tokenize_records

        records, tokenizer = tokenize_records(records, config.tokenizer, config.tokenizer_size)
    splits = {split: filter_by_length(records, split, config.max_len) for split in SPLITS}
    if config.on_bad_image == "error":
        check_images_exist(record for split in SPLITS for record in splits[split])
    vocabulary = tokenizer or Vocabulary.build(
        vocabulary_captions(records, splits["train"], config.vocabulary_splits),
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
    from sat.data.dataset import CaptionDataset, warn_of_unknown  # torch: not for --help

    warn_of_unknown(CaptionDataset(output, config.name, "train"), vocabulary.unk_id)
    return config.name


def check_output(output_folder: str | Path, config: InputFilesConfig) -> None:
    """Raise `FileExistsError` if a file of an earlier run exists."""
    names = [_file(split, kind, config) for split in SPLITS for kind in SUFFIXES]
    for name in [*names, config.vocabulary_file]:
        if Path(output_folder, name).exists():
            raise FileExistsError(
                f"{Path(output_folder, name)}: exists already; replace it with --overwrite"
            )


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
) -> None:
    """Write the four files of a split: first the images, then the captions of those written."""
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
    """Write a JSON list item by item, so that the whole list is never in memory."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for i, item in enumerate(items):
            file.write((", " if i else "") + json.dumps(item))
        file.write("]")
