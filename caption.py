"""Caption photos and see where the model looked: python caption.py --img a.jpg --model runs/best"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sat.cli import main_errors
from sat.config import Decoding, TrainConfig, add_flags

BATCH = 16
"""photos captioned together"""


def parse(arguments: list[str]) -> Any:
    """The flags; every decoding option is one."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(description=__doc__)
    flag = parser.add_argument
    flag("--img", "-i", type=str, nargs="+", required=True, help="photos, folders, 'quoted*.jpg'")
    flag("--model", "-m", type=str, help="checkpoint folder, or the tutorial's .pth.tar")
    flag("--word_map", "-wm", type=str, help="for the tutorial's checkpoints")
    flag("--output", "-o", type=str, help="figure (PNG, PDF, SVG, ...), or folder of figures")
    flag("--json", type=str, nargs="?", const="-", help="JSON into this file, or instead of text")
    flag("--dont_smooth", action="store_true", help="show the cells of the attention maps")
    flag("--show", action="store_true", help="open a window for each figure too")
    flag("--device", type=str, default=TrainConfig.device)
    beams = ("--beam_size", "--num_beams", "-b")
    flag(*beams, type=int, default=Decoding.beam_size, help="beams kept; 1 is greedy decoding")
    add_flags(parser, Decoding, skip=("beam_size",))
    return parser.parse_args(arguments)


def readable(paths: list[Path]) -> Iterator[tuple[int, Any]]:
    """Number and photo of those that can be read; a line on stderr for each of the others."""
    from tqdm import tqdm

    from sat.data.images import read_photo

    for number, path in enumerate(paths):
        try:
            yield number, read_photo(path)
        except (ValueError, OSError) as error:
            tqdm.write(f"error: {error}", file=sys.stderr)
