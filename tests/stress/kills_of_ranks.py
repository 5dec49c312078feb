"""Kill a run of several ranks at random moments until it ends: the same bytes as if nobody had.

    python tests/stress/kills_of_ranks.py [--ranks 2] [--count 20] [--seed 0]

KILL, TERM and INT, to one rank or to all, through three stages; each time the run goes on with
`--resume auto`. Once so many signals have come the run ends undisturbed. POSIX only.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]
sys.path[:0] = [str(HERE.parent / name) for name in ("support", "training")]

import tiny  # noqa: E402
from ranks import end_of_ranks, run_ranks  # noqa: E402
from test_resume import assert_same, states  # noqa: E402

from sat import torchrun  # noqa: E402
from sat.config.training import TrainConfig  # noqa: E402
from sat.training.trainer import fit  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STAGE = {"epochs": 3, "ema": 0.5}
HOW = {
    "decoder": {"dropout": 0.5},
    "stage1": STAGE,
    "stage2": STAGE | {"accumulate": 2},
    "stage3": {"epochs": 2, "batch_size": 4, "objective": "self_critical", "samples": 2},
    "stages": (1, 2, 3),
    "mirror": True,
    "resume": "auto",
    "save_minutes": 0.0,
    "ddp_timeout": 60.0,
}


def fit_and_die(config: TrainConfig, moments: dict[int, tuple[float, int]]) -> None:
    """A run in which rank r sends itself the signal `moments[r][1]` after so many seconds."""
    if moment := moments.get(torchrun.rank()):
        seconds, number = moment
        timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
    fit(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    draw = random.Random(flags.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = tiny.prepare(folder / "data", known=2)
        whole, config = (tiny.config(data, folder / one, **HOW) for one in ("whole", "run"))
        run_ranks(flags.ranks, fit, whole, seconds=600)
        for number in range(flags.count):
            killed = [draw.randrange(flags.ranks)]
            if draw.random() < 0.5:
                killed = list(range(flags.ranks))
            seconds, which = draw.uniform(0.1, 3), draw.choice(SIGNALS)
            moments = dict.fromkeys(killed, (seconds, which))
            ends = end_of_ranks(flags.ranks, fit_and_die, config, moments, seconds=600)
            codes = [one.code for one in ends]
            print(f"{number}: {which.name} to {killed} after {seconds:.1f} s: {codes}", flush=True)
            allowed = {0, 1, -which} if which == signal.SIGKILL else {0, 128 + which}
            assert set(codes) <= allowed, [one.stderr for one in ends]
        run_ranks(flags.ranks, fit, config, seconds=600)
        assert_same(states(folder / "whole"), states(folder / "run"))
    print(f"{flags.count} signals, the same bytes")


if __name__ == "__main__":
    main()
