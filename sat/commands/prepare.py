"""Prepare images and captions for training: HDF5 images, JSON captions, word map, references.

    python create_input_files.py --dataset flickr8k --karpathy_json dataset_flickr8k.json \
        --image_folder Flicker8k_Dataset --output_folder data
    python create_input_files.py --dataset shapes --output_folder data  # draws its own scenes
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from sat.cli import add_flags, cli_errors, complete_flags, given
from sat.config.data import InputFilesConfig
from sat.data.annotations import read_karpathy
from sat.data.prepare import check_output, create_input_files
from sat.data.progress import progress_bar
from sat.data.synthetic.scenes import draw_shapes

SUMMARY = "Prepare images and captions: HDF5 images, JSON captions, word map, references."


def parse(arguments: list[str]) -> Namespace:
    """The flags: where things are, and the fields of `InputFilesConfig`."""
    parser = ArgumentParser(description=SUMMARY)
    parser.add_argument("--config", action="config", help="YAML file of flags; flags given win")
    parser.add_argument("--karpathy_json", type=str | None, help="captions and splits")
    parser.add_argument("--image_folder", type=str | None, help="the folder the images are in")
    parser.add_argument("--output_folder", type=str, default="data", help="gets the files")
    parser.add_argument("--number", type=int, default=2000, help="scenes that shapes draws")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run's files")
    add_flags(parser, InputFilesConfig)
    return parser.parse_args(complete_flags(InputFilesConfig, arguments))


@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Read the annotations (or draw the scenes), prepare the files, print their name."""
    flags = parse(sys.argv[1:] if arguments is None else arguments)
    config = InputFilesConfig(**given(flags, InputFilesConfig))
    if not flags.overwrite:
        check_output(flags.output_folder, config)  # before scenes are drawn
    progress = partial(progress_bar, unit="image")
    json_path, image_folder = find_input(flags, config, progress)
    records = read_karpathy(json_path, image_folder, config.dataset)
    name = create_input_files(
        records, flags.output_folder, config, overwrite=flags.overwrite, progress=progress
    )
    print(name)


def find_input(flags: Namespace, config: InputFilesConfig, progress: partial) -> tuple[Path, Path]:
    """The annotation file and the folder of images, as given or drawn."""
    if flags.karpathy_json is None and config.dataset == "shapes":
        folder = Path(flags.output_folder, "shapes")
        json_path = draw_shapes(
            folder,
            flags.number,
            config.seed,
            config.image_size,
            overwrite=flags.overwrite,
            progress=progress,
        )
        return json_path, folder / "images"
    for name in ("karpathy_json", "image_folder"):
        if flags[name] is None:
            raise ValueError(f"--{name} is missing: give it (only --dataset shapes goes without)")
    return Path(flags.karpathy_json), Path(flags.image_folder)
