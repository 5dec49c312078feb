"""From the command to the caption: how much is Python, torch, model, encoder, decoding.

    python -m benchmarks.startup [--device cuda] [--quick]

Every figure is of a fresh process. The captioner is the one that comes with the library, the photo
scikit-image's cat.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from skimage import data

from benchmarks import measure
from sat.models.efficientnet_lite import weights_file

ROOT = Path(__file__).parents[1]
PHOTO = f"{data.data_dir}/chelsea.png"
PARTS = (
    ("import torch", "import torch"),
    ("import sat.captioner and the rest of the library", "import sat.captioner"),
    (
        "load the model: build, read, move",
        "captioner = sat.captioner.load().to({device!r}); options = captioner.config.decoding",
    ),
    ("read the image", "photo = sat.captioner.read_image({photo!r})"),
    ("encoder", "features = captioner.encode([photo])"),
    (
        "decoding ({beam} beams)",
        "from sat.decoding.generate import generate; generate(captioner.model, features, options)",
    ),
    ("encoder again, warm", "features = captioner.encode([photo])"),
    ("decoding again, warm", "generate(captioner.model, features, options)"),
    ("the whole caption again, warm, with its maps", "result = captioner.caption(photo)"),
    (
        "figure (imports matplotlib and scikit-image)",
        "from sat.visualize import visualize_att; visualize_att(result, {figure!r})",
    ),
)
SCRIPT = """
import time
began = time.perf_counter()
def told(name):
    global began
    print("PART", name, time.perf_counter() - began, sep="\\t")
    began = time.perf_counter()
"""


def python(*arguments: object) -> str:
    """What a fresh Python prints."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def parts(device: torch.device, figure: Path) -> list[tuple[str, float]]:
    """Seconds of each part of captioning one photo, in one fresh process."""
    lines = [SCRIPT]
    for name, code in PARTS:
        given = {"device": str(device), "photo": PHOTO, "figure": str(figure)}
        lines.append(code.format(**given))
        lines.append(f"told({name!r})")
    lines.append('print("BEAM", options.beam_size, sep="\\t")')
    told = [line.split("\t") for line in python("-c", "\n".join(lines)).splitlines()]
    beam = next(line[1] for line in told if line[0] == "BEAM")
    return [
        (name.format(beam=beam), float(taken)) for kind, name, taken in told[:-1] if kind == "PART"
    ]


def commands(rounds: int) -> list[list[object]]:
    """The rows that need no model: Python, and --help against importing torch."""
    help_of = [partial(python, f"{name}.py", "--help") for name in ("caption", "train", "eval")]
    calls: list[Callable[[], object]] = [
        partial(python, "-c", "pass"),
        partial(python, "-c", "import sat"),
        *help_of,
        partial(python, "-c", "import torch"),
    ]
    *times, by_torch = measure.in_turn(calls, rounds, torch.device("cpu"))
    names = (
        "python",
        "import sat",
        *(f"{name}.py --help" for name in ("caption", "train", "eval")),
    )
    return [
        [name, time, by_torch, measure.ratio(by_torch.median, time.median)]
        for name, time in zip(names, times)
    ]


def captioning(rounds: int, device: torch.device) -> tuple[str, str]:
    """The table of the parts, and the whole command beside them."""
    weights_file("efficientnet_lite0")  # says which package is missing
    with tempfile.TemporaryDirectory() as folder:
        figure = Path(folder, "figure.png")
        command = ("caption.py", "--img", PHOTO, "--device", device, "--output", figure)
        (whole,) = measure.in_turn([partial(python, *command)], rounds, torch.device("cpu"))
        runs = [parts(device, figure) for _ in range(rounds)]
    names = [name for name, _ in runs[0]]
    times = [measure.timing([run[i][1] for run in runs]) for i in range(len(names))]
    rows = [
        [
            name,
            time,
            f"{time.median / whole.median:.0%}" if "again" not in name else "no part of it",
        ]
        for name, time in zip(names, times)
    ]
    return measure.table(("part", "time", "of the command"), rows), str(whole)


def report(quick: bool, device: torch.device) -> str:
    """The tables."""
    rounds = 1 if quick else 3
    peaks = measure.measure_peaks(device, quick)
    head = ("command", "time", "import torch", "ratio")
    sections = [
        f"## Start-up\n\n{measure.machine(device, peaks)} {rounds} rounds in turn, each in a fresh "
        "process; files lie in the system's cache.",
        measure.table(head, commands(rounds)),
    ]
    try:
        table, whole = captioning(rounds, device)
    except ImportError as error:
        return "\n\n".join([*sections, f"Captioning: {measure.NOT_MEASURED} ({error})."])
    told = (
        f"`python caption.py --img chelsea.png --output figure.png`, wall time: {whole}. Its parts:"
    )
    return "\n\n".join([*sections, told, table])


def main() -> None:
    flags = measure.options(__doc__).parse_args()
    print(report(flags.quick, measure.begin(flags)))


if __name__ == "__main__":
    main()
