"""Caption images and see where the model looked: sat-caption --img a.jpg --model runs/best"""

from __future__ import annotations

import dataclasses
import json
import sys
from argparse import SUPPRESS
from collections import Counter
from pathlib import Path
from typing import Any

from sat.atomic_io import check_writable, write_json
from sat.cli import FlagParser, add_flags, cli_errors, complete_flags, given
from sat.config.checks import check, check_paths
from sat.config.decoding import LONGEST, MOST_BEAMS, DecodingConfig
from sat.config.figure import FigureConfig
from sat.config.model import AttentionMode
from sat.config.training import Precision, TrainConfig

FEW = 16
"""images that need no progress bar"""
LOOSEST: dict[str, Any] = {"beam_size": MOST_BEAMS, "max_length": LONGEST, "do_sample": True}
"""decoding options that allow all values of the others, until the model's own are known"""


def parse(arguments: list[str]) -> Any:
    """The flags; every decoding option is one."""
    parser = FlagParser(description=__doc__)
    flag = parser.add_argument
    images = "photos (URLs too), folders, 'quoted*.jpg'"
    flag("--img", "-i", type=str, nargs="+", required=True, help=images)
    flag("--model", "-m", type=str, help="checkpoint folder or the tutorial's; ours if left out")
    flag("--word_map", "-wm", type=str, help="for the tutorial's checkpoints")
    flag(
        *("--output", "-o"),
        type=str,
        help="figure (.png, .pdf, .svg, ...), or folder of figures; none: no figure. Without it, "
        "one image gives NAME_att.png in the current folder, several give none",
    )
    flag("--json", type=str, nargs="?", const="-", help="JSON to this file, or instead of text")
    flag("--dont_smooth", action="store_true", help="as --smooth false")
    flag("--max_megapixels", type=float, default=100, help="larger images are refused")
    flag("--show", action="store_true", help="open each figure in a window too")
    flag("--precision", type=Precision, default="float32", help="auto: bfloat16 where it is fast")
    flag("--test_attention", type=AttentionMode, help="expected, sampled, argmax; the model's own")
    flag("--device", type=str, default=TrainConfig.device, help="auto, cpu, cuda, ...")
    beams = ("--beam_size", "--num_beams", "-b")
    flag(*beams, type=int, default=SUPPRESS, help="beams kept; 1: greedy; default: the model's")
    add_flags(parser, DecodingConfig, skip=("beam_size",), given_only=True)
    add_flags(parser, FigureConfig)
    return parser.parse_args(
        complete_flags(FigureConfig, complete_flags(DecodingConfig, arguments))
    )


@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    flags = parse(sys.argv[1:] if arguments is None else arguments)
    check_paths(flags, ("img", "model", "word_map", "output", "json"))
    from sat.data.image_files import find_images

    choices = given(flags, DecodingConfig)
    DecodingConfig(**(LOOSEST | choices))  # refuses wrong values at once
    figure = FigureConfig(**given(flags, FigureConfig))
    if flags.dont_smooth:
        figure = dataclasses.replace(figure, smooth=False)
    images = find_images(flags.img)
    figures = name_figures([Path(image) for image in images], flags.output)
    check_outputs(flags, figures)
    from sat.captioner import load
    from sat.device import resolve_dtype

    dtype = resolve_dtype(flags.precision, flags.device)
    captioner = load(flags.model, flags.word_map, device=flags.device, dtype=dtype)
    if flags.test_attention:
        captioner.model.set_attention_mode(flags.test_attention)
    options = captioner.config.decoding.changed(**choices)
    records, captioned = caption_images(captioner, images, figures, options, figure, flags)
    if flags.json == "-":
        print(json.dumps(records, indent=1))
    elif flags.json:
        write_json(flags.json, records)
    if captioned and figures[0] and flags.json != "-":
        print(f"where it looked: {flags.output or figures[0]}")
    if captioned < len(images):
        raise SystemExit(1)


NO_FIGURE = "none"


def name_figures(images: list[Path], output: str | None) -> list[Path | None]:
    """The path of each image's figure: STEM_att.png in a folder, or `output` itself for one image.

    `output` is a file if it has an extension, else a folder. Without it, the figure of one image
    goes to the current folder, and several images get none, since they may be thousands; "none"
    gives none. Images of the same name get different figures. Raises `ValueError` if one file
    should hold many figures.
    """
    if output == NO_FIGURE or (output is None and len(images) != 1):
        return [None] * len(images)
    folder = Path(output or "")
    if folder.suffix and not folder.is_dir():
        if len(images) != 1:
            raise ValueError(f"output is {output} for {len(images)} images: name a folder instead")
        return [folder]
    names: dict[str, None] = {}
    count: Counter[str] = Counter()
    for stem in (image.stem for image in images):
        count[stem] += 1
        name = stem if count[stem] == 1 else f"{stem}_{count[stem]}"
        while name in names:
            name += "_2"
        names[name] = None
    return [folder / f"{name}_att.png" for name in names]


def check_outputs(flags: Any, figures: list[Path | None]) -> None:
    """Refuse files that cannot be written, before any image is captioned for them."""
    from sat.visualize import check_output

    if flags.json not in (None, "-"):
        check(not Path(flags.json).is_dir(), "json", flags.json, "that is a folder, name a file")
        check_writable(Path(flags.json).parent, "choose another --json")
    if flags.output and figures[0]:
        check_writable(figures[0].parent, "choose another --output")
        if len(figures) == 1:
            check_output(figures[0])


def caption_images(
    captioner: Any,
    images: list[Path | str],
    figures: list[Path | None],
    options: DecodingConfig,
    figure: FigureConfig,
    flags: Any,
) -> tuple[list[dict[str, Any]], int]:
    """Caption, print and draw each image; returns the records for JSON, and how many succeeded.

    An image that cannot be read, and a figure that cannot be written, get a line on stderr.
    """
    from sat.data.progress import print_above, progress_bar
    from sat.visualize import visualize_att

    records: list[dict[str, Any]] = []
    captioned = 0

    def report(error: Exception) -> None:
        print_above(f"error: {error}", file=sys.stderr)

    how_read = {"on_error": report, "max_megapixels": flags.max_megapixels}
    stream = captioner.caption_stream(images, options, **how_read)
    with progress_bar(total=len(images), unit="image", disable=len(images) <= FEW) as bar:
        for i, results in stream:
            bar.update(i + 1 - bar.n)
            for one in results:
                if flags.json:
                    records.append({"image": str(images[i])} | one.to_dict(maps=False))
                if flags.json != "-":
                    name = f"{images[i]}: " if len(images) > 1 else ""
                    score = f" ({one.score:.2f})" if len(results) > 1 else ""
                    print_above(name + one.text + score)
            try:
                if figures[i] or flags.show:
                    how = dataclasses.asdict(figure)
                    visualize_att(results[0], figures[i], show=flags.show, **how)
                captioned += 1
            except (ValueError, OSError) as error:
                report(error)
    return records, captioned
