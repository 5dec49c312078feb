"""Prepare images and captions for training: HDF5 images, JSON captions, word map, references.

    sat-prepare --dataset flickr8k --annotations dataset_flickr8k.json \
        --image_folder Flicker8k_Dataset --output_folder data
    sat-prepare --dataset shapes --output_folder data  # draws its own scenes
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sat import torchrun
from sat.atomic_io import check_writable, naming_full_disk
from sat.cli import cli_errors, parse_config
from sat.config.data import InputFilesConfig, PrepareConfig, as_list
from sat.data.annotations.formats import read_annotations
from sat.data.annotations.record import Record
from sat.data.annotations.tables import COLUMNS
from sat.data.prepare import check_output, create_input_files, temporary_folder
from sat.data.progress import progress_bar
from sat.data.synthetic.scenes import draw_shapes

SUMMARY = "Prepare images and captions: HDF5 images, JSON captions, word map, references."


def parse(arguments: list[str]) -> PrepareConfig:
    """The flags: where things are, and the fields of `InputFilesConfig`."""
    return parse_config(PrepareConfig, arguments, description=SUMMARY)


@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Read the annotations (or draw the scenes), prepare the files, print their name."""
    flags = parse(sys.argv[1:] if arguments is None else arguments)
    if torchrun.ranks() > 1:
        raise ValueError(
            f"torchrun started {torchrun.ranks()} processes, but the data are prepared by one: "
            "start it without torchrun (--workers sets the processes that help)"
        )
    config = flags.input_files
    check_writable(Path(flags.output_folder), "choose another --output_folder")
    if not flags.overwrite:
        check_output(flags.output_folder, config)  # before scenes are drawn
    progress = partial(progress_bar, unit="image")
    with ExitStack() as stack:
        records = read_records(flags, config, progress, stack)
        name = create_input_files(
            records, flags.output_folder, config, overwrite=flags.overwrite, progress=progress
        )
    print(name)


def read_records(
    flags: PrepareConfig, config: InputFilesConfig, progress: partial, stack: ExitStack
) -> list[Record]:
    """The records of the annotations that the flags name, or of scenes drawn.

    Unpacked images lie in a temporary folder that is removed when `stack` ends.
    """
    output = Path(flags.output_folder)

    def workspace() -> Path:
        output.mkdir(parents=True, exist_ok=True)
        return Path(stack.enter_context(temporary_folder(output, config)))

    if flags.boxes and config.resize != "squash":
        raise ValueError(f"resize is {config.resize!r}: with --boxes it must be squash")
    karpathy = [flags.karpathy_json] if flags.karpathy_json else []
    paths: list[str | Path] = [*as_list(flags.annotations), *karpathy]
    folders: list[str | Path] = [*as_list(flags.image_folder)]
    if not paths and config.dataset == "shapes":
        folder = Path(flags.output_folder, "shapes")
        what = (folder, flags.number, config.seed, config.image_size)
        paths = [draw_shapes(*what, overwrite=flags.overwrite, progress=progress)]
        folders = [folder / "images"]
    if not paths:
        raise ValueError(
            "--annotations is missing: name files (only --dataset shapes goes without)"
        )
    with naming_full_disk(output / "unpacked images"):
        return read_annotations(
            paths,
            folders,
            workspace,
            format="karpathy" if karpathy else flags.format,
            columns=parse_columns(flags.columns or ""),
            splits=as_list(flags.splits),
            fractions=flags.split,
            boxes=as_list(flags.boxes),
            side=config.image_size,
        )


def parse_columns(text: str) -> dict[str, str]:
    """The columns in "image=NAME,caption=NAME"."""
    pairs = dict(part.partition("=")[::2] for part in text.split(",") if part)
    if not set(pairs) <= set(COLUMNS) or not all(pairs.values()):
        raise ValueError(
            f"columns is {text!r}: name those of {', '.join(COLUMNS)}, as in"
            " image=file,caption=text"
        )
    return pairs
