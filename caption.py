"""Caption photos and see where the model looked: python caption.py --img a.jpg --model runs/best"""

from __future__ import annotations

import json
import sys
from argparse import SUPPRESS
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sat.cli import add_flags, cli_errors, given
from sat.config.decoding import DecodingConfig
from sat.config.model import AttentionMode
from sat.config.training import TrainConfig

BATCH = 16
"""photos decoded together"""


def parse(arguments: list[str]) -> Any:
    """The flags; every decoding option is one."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(description=__doc__)
    flag = parser.add_argument
    flag("--img", "-i", type=str, nargs="+", required=True, help="photos, folders, 'quoted*.jpg'")
    flag("--model", "-m", type=str, help="checkpoint folder or the tutorial's; ours if left out")
    flag("--word_map", "-wm", type=str, help="for the tutorial's checkpoints")
    flag("--output", "-o", type=str, help="figure (.png, .pdf, .svg, ...), or folder of figures")
    flag("--json", type=str, nargs="?", const="-", help="JSON to this file, or instead of text")
    flag("--dont_smooth", action="store_true", help="show the cells of the attention maps")
    flag("--show", action="store_true", help="open each figure in a window too")
    flag("--test_attention", type=AttentionMode, help="expected, sampled, argmax; the model's own")
    flag("--device", type=str, default=TrainConfig.device, help="auto, cpu, cuda, ...")
    beams = ("--beam_size", "--num_beams", "-b")
    flag(*beams, type=int, default=SUPPRESS, help="beams kept; 1: greedy; default: the model's")
    add_flags(parser, DecodingConfig, skip=("beam_size",), given_only=True)
    return parser.parse_args(arguments)


def caption(
    captioner: Any, photos: list[Path], options: DecodingConfig
) -> Iterator[tuple[int, Any]]:
    """Number and captions of each photo; a line on stderr for each that cannot be read."""
    from tqdm import tqdm

    from sat.data.image_files import read_image

    for start in tqdm(range(0, len(photos), BATCH), unit="batch", disable=len(photos) <= BATCH):
        read = {}
        for i, path in enumerate(photos[start : start + BATCH], start):
            try:
                read[i] = read_image(path)
            except (ValueError, OSError) as error:
                tqdm.write(f"error: {error}", file=sys.stderr)
        yield from zip(read, captioner.candidates(list(read.values()), options))


def main() -> None:
    flags = parse(sys.argv[1:])
    from sat.cli import name_figures
    from sat.data.image_files import find_images

    choices = given(flags, DecodingConfig)
    DecodingConfig(**choices)  # says at once what is wrong with them
    photos = find_images(flags.img)
    figures = name_figures(photos, flags.output)
    from tqdm import tqdm

    from sat.atomic_io import write_json
    from sat.captioner import PRETRAINED, decoding, load
    from sat.device import resolve_device
    from sat.visualize import visualize_att

    captioner = load(flags.model or PRETRAINED, flags.word_map).to(resolve_device(flags.device))
    if flags.test_attention:
        captioner.model.decoder.test_attention = flags.test_attention
    options = decoding(captioner.config.decoding, **choices)
    records, captioned = [], 0
    for i, results in caption(captioner, photos, options):
        captioned += 1
        for one in results:
            records.append({"image": str(photos[i]), "caption": one.text, "score": one.score})
            records[-1] |= {"finished": one.finished, "words": one.words}
            if flags.json != "-":
                name = f"{photos[i]}: " if len(photos) > 1 else ""
                tqdm.write(name + one.text + (f" ({one.score:.2f})" if len(results) > 1 else ""))
        if figures[i] or flags.show:
            smooth = not flags.dont_smooth
            visualize_att(results[0], figures[i], smooth=smooth, show=flags.show)
    if flags.json == "-":
        print(json.dumps(records, indent=1))
    elif flags.json:
        write_json(flags.json, records)
    if captioned and figures[0] and flags.json != "-":
        print(f"where it looked: {flags.output or figures[0]}")
    if captioned < len(photos):
        raise SystemExit(1)


if __name__ == "__main__":
    with cli_errors():
        main()
