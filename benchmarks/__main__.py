"""All benchmarks, one after another, each in a process of its own: writes benchmarks/RESULTS.md.

    python -m benchmarks [--rows decode vit_gpt2] [--device cuda] [--threads 2] [--quick]
        [--output FILE]

The file is written anew after each, and ends with how long all took. With --quick, or for some
of them (--rows), nothing is written unless --output says where.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import measure

SCRIPTS = ("train_step", "decode", "vit_gpt2", "evaluate", "prepare", "loader", "startup", "growth")
ROOT = Path(__file__).parents[1]


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    git = ("git", "-C", str(ROOT))
    try:
        found = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True)
        changed = subprocess.check_output(
            [*git, "status", "--porcelain", "--untracked-files=no"], text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.strip() + (" with changes" if changed.strip() else "")


def heading(device: torch.device) -> str:
    """What was run, when, where, and from which sources."""
    cuda = torch.cuda.get_device_name(device) if device.type == "cuda" else measure.NOT_MEASURED
    now = datetime.datetime.now(datetime.timezone.utc)
    rows = [
        ("command", f"`python -m benchmarks {' '.join(sys.argv[1:])}`".replace(" `", "`")),
        ("date", f"{now:%Y-%m-%d %H:%M} UTC"),
        ("commit", commit()),
        ("processor", f"{measure.processor()}, {os.cpu_count()} cores"),
        ("GPU", cuda),
        ("system", f"{platform.system()} {platform.release()}"),
        ("Python, torch", f"{platform.python_version()}, {torch.__version__}"),
    ]
    return (
        "# Results of the last run\n\nWritten by `python -m benchmarks`; what the numbers mean "
        "stands in `docs/performance.md`.\n\n" + measure.table(("what", "value"), rows)
    )


def main() -> None:
    parser = measure.options(__doc__)
    parser.add_argument("--output", type=Path, help="Markdown file (RESULTS.md beside this one)")
    help_of_rows = "some of the benchmarks, printed alone"
    parser.add_argument("--rows", nargs="+", choices=SCRIPTS, default=SCRIPTS, help=help_of_rows)
    flags = parser.parse_args()
    output = flags.output
    if output is None and not flags.quick and flags.rows is SCRIPTS:
        output = Path(__file__).with_name("RESULTS.md")
    sections, began = [heading(measure.begin(flags))], time.monotonic()
    passed_on = ["--device", flags.device, "--threads", str(flags.threads)]
    for script in flags.rows:
        print(f"== {script}", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{script}", *passed_on] + ["--quick"] * flags.quick,
            cwd=ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        sections.append(done.stdout.strip())
        print(done.stdout)
        so_far = f"{script}: {(time.monotonic() - began) / 60:.1f} minutes after the beginning."
        if output:
            output.write_text("\n\n".join([*sections, so_far]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
