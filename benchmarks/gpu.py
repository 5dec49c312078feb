"""All that is measured on a GPU, in a few minutes: writes benchmarks/RESULTS_GPU.md.

    python -m benchmarks.gpu [--quick] [--device cuda] [--output FILE] [--commit NAME]

First whether the card computes what the CPU does, then rates of encoding, training and captioning
against the tutorial's algorithm on the same card. Weights are random, data are made on the spot.
Each section runs in a process of its own, for so long at most: one that fails says so on the page,
and the others go on. Without a GPU the page says "not measured"; --quick tries the script on any
device with tiny sizes, and writes only where --output says.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
import transformers

from benchmarks import measure
from benchmarks.__main__ import ROOT, commit
from benchmarks.gpu_images import encoding, evaluation, self_critical
from benchmarks.gpu_parity import parity, whole_runs
from benchmarks.gpu_setting import ERROR, QUICK, Setting
from benchmarks.gpu_training import stage1, stage2
from benchmarks.gpu_vit import vit

PAGE = Path(__file__).with_name("RESULTS_GPU.md")
MINUTES = 8.0
PATIENCE = 5
"""times as long as on a GPU that --quick may take on a busy CPU"""
TAIL = 12
"""lines shown of what a section that failed has to say"""


class Section(NamedTuple):
    """A part of the page."""

    title: str
    write: Callable[[Setting, bool, torch.device], Iterator[str]]
    seconds: float  # that it may take


SECTIONS = {
    "parity": Section("The same as on the CPU", parity, 100),
    "runs": Section("Whole training runs", whole_runs, 90),
    "encoding": Section("Frozen encoding", encoding, 60),
    "stage1": Section("Stage 1, from cached features", stage1, 150),
    "stage2": Section("Stage 2, fine-tuning", stage2, 100),
    "evaluation": Section("Captioning at beam 5", evaluation, 130),
    "vit": Section("ViT-B/16 and distilGPT-2", vit, 90),
    "self_critical": Section("Self-critical training", self_critical, 80),
}


def driver() -> str:
    """NVIDIA's driver, where its tool can be asked."""
    ask = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        return subprocess.check_output(ask, text=True, timeout=20).splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def heading(device: torch.device, source: str) -> str:
    """What was run, when, where, and from which sources."""
    cuda = device.type == "cuda"
    now = datetime.datetime.now(datetime.timezone.utc)
    rows = [
        ("command", f"`python -m benchmarks.gpu {' '.join(sys.argv[1:])}`".replace(" `", "`")),
        ("date", f"{now:%Y-%m-%d %H:%M} UTC"),
        ("commit", source),
        ("GPU", torch.cuda.get_device_name(device) if cuda else measure.NOT_MEASURED),
        ("driver, CUDA", f"{driver()}, {torch.version.cuda}" if cuda else measure.NOT_MEASURED),
        ("processor", f"{measure.processor()}, {os.cpu_count()} cores"),
        ("Python, torch", f"{platform.python_version()}, {torch.__version__}"),
        ("torchvision, transformers", f"{torchvision.__version__}, {transformers.__version__}"),
    ]
    return (
        "# Results on a GPU\n\nWritten by `python -m benchmarks.gpu`. Rates are medians (lowest to "
        "highest of three windows); ratios are against the tutorial's algorithm on the same card.\n"
        "\n" + measure.table(("what", "value"), rows)
    )


def run(name: str, flags: argparse.Namespace, device: torch.device, limit: float) -> str:
    """The section in a process of its own, cut off after so many seconds; what went wrong is told.

    Its output goes through files, so that what was written before a failure is kept.
    """
    command = [sys.executable, "-m", "benchmarks.gpu", "--section", name]
    command += ["--device", str(device), "--threads", str(flags.threads)]
    command += ["--quick"] * flags.quick
    began, ended = time.monotonic(), ""
    with tempfile.TemporaryDirectory() as folder:
        said, complained = Path(folder, "said"), Path(folder, "complained")
        with said.open("wb") as out, complained.open("wb") as error:
            try:
                done = subprocess.run(
                    command, cwd=ROOT, stdout=out, stderr=error, timeout=limit, check=False
                )
                if done.returncode:
                    ended = f"{ERROR}: the section ended with code {done.returncode}."
            except subprocess.TimeoutExpired:
                ended = f"{ERROR}: cut off after {limit:.0f} seconds."
        found, why = said.read_text("utf-8"), complained.read_text("utf-8", errors="replace")
    took = f"({time.monotonic() - began:.0f} seconds.)"
    lines = "\n".join(why.splitlines()[-TAIL:])
    told = f"{ended}\n\n```\n{lines}\n```".strip() if ended or ERROR in found else ""
    parts = (f"## {SECTIONS[name].title}", found.strip(), told, took)
    return "\n\n".join(part for part in parts if part)


def write_section(name: str, flags: argparse.Namespace, device: torch.device) -> None:
    """Print a section piece by piece; lines of a table that follow one another stay together."""
    setting = QUICK if flags.quick else Setting()
    before = ""
    for part in SECTIONS[name].write(setting, flags.quick, device):
        same_table = before.startswith("|") and part.startswith("|")
        print(part if same_table or not before else f"\n{part}", flush=True)
        before = part


def write_page(flags: argparse.Namespace, device: torch.device, output: Path | None) -> None:
    """All sections, the page written anew after each."""
    began, patience = time.monotonic(), PATIENCE if flags.quick else 1
    parts = [heading(device, flags.commit or commit())]
    print(parts[0], flush=True)
    for name in flags.only or SECTIONS:
        left = patience * 60 * MINUTES - (time.monotonic() - began)
        title = f"## {SECTIONS[name].title}"
        limit = min(patience * SECTIONS[name].seconds, left)
        late = f"{title}\n\n{measure.NOT_MEASURED}: no time was left."
        parts.append(run(name, flags, device, limit) if limit > 0 else late)
        print("\n" + parts[-1], flush=True)
        total = f"{(time.monotonic() - began) / 60:.1f} minutes in all."
        if output:
            output.write_text("\n\n".join([*parts, total]) + "\n", encoding="utf-8")
    print("\n" + total)


def main() -> None:
    parser = measure.options(__doc__)
    parser.set_defaults(threads=min(8, os.cpu_count() or 1))
    parser.add_argument("--output", type=Path, help="Markdown file (RESULTS_GPU.md beside this)")
    parser.add_argument("--commit", default="", help="told on the page where git is not at hand")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections alone")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    device = measure.begin(flags)
    output = flags.output or (None if flags.quick else PAGE)
    if flags.section:
        write_section(flags.section, flags, device)
    elif device.type == "cuda" or flags.quick:
        write_page(flags, device, output)
    else:
        output.write_text(f"# Results on a GPU\n\n{measure.NOT_MEASURED}\n", encoding="utf-8")
        print(f"{measure.NOT_MEASURED}: there is no GPU here; --quick tries the script")


if __name__ == "__main__":
    main()
