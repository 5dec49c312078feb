"""Kill the commands at random moments and go on: `--seed S --kills N`.

Preparing, encoding, three stages and evaluation are run once undisturbed. Then each command gets
SIGTERM, SIGINT, SIGHUP or SIGKILL at a random moment, and is run again until it ends well, over and
over. A command that then refuses, another byte at the end, or a file left over is a failure. POSIX
only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import tiny  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402

from sat.checkpoints import native  # noqa: E402
from sat.commands import evaluate, prepare, train  # noqa: E402
from sat.config.checks import to_dict  # noqa: E402
from sat.stop_signals import STOP_SIGNALS  # noqa: E402

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
COMMANDS = {"prepare": prepare.main, "train": train.main, "eval": evaluate.main}
CLOCK = ("seconds", "waiting", "captions_per_second", "waiting_share")


def write_source(folder: Path, workers: int) -> None:
    """Photos with captions in three splits, and a recipe of three stages for each run."""
    paths = tiny.photos(folder)
    with open(folder / "captions.jsonl", "w") as lines:
        for split in ("train", "val", "test"):
            for path, caption in zip(paths, tiny.CAPTIONS):
                copy = folder / f"{split}_{path.name}"
                shutil.copy(path, copy)
                line = {"image": copy.name, "captions": [caption], "split": split}
                lines.write(json.dumps(line) + "\n")
    config = to_dict(tiny.config(Path("data"), Path("run")))
    stage = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2}
    config |= {"stage1": stage | {"ema": 0.5}, "stages": [1, 2, 3], "resume": "auto"}
    config["stage2"] = stage | {"epochs": 1, "encoder_learning_rate": 1e-3, "encoder_from_block": 2}
    config["stage3"] = stage | {"objective": "self_critical", "samples": 2, "epochs": 1}
    config |= {"cache_features": True, "choose_decoding": True, "workers": workers}
    config |= {"save_minutes": 0.0005}
    for name in ("data_folder", "output_dir", "encoder_config", "decoder_config"):
        config.pop(name, None)
    plain = json.loads(json.dumps(config))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(plain))


def arguments(name: str, source: Path, work: Path) -> list[str]:
    """The flags of a command, the same at every try."""
    data = work / "data"
    flags: dict[str, list[Any]] = {
        "prepare": [
            *("--annotations", source / "captions.jsonl", "--image_folder", source),
            *("--output_folder", data, "--min_word_freq", 1, "--captions_per_image", 1),
            *("--image_size", tiny.SIZE, "--max_len", 8, "--overwrite"),
        ],
        "train": [
            *("--config", source / "recipe.yaml"),
            *("--data_folder", data, "--output_dir", work / "run"),
        ],
        "eval": [
            *("--model", work / "run" / "best", "--data_folder", data, "--device", "cpu"),
            *("--output_dir", work / "results", "-b", 1, 2, "--workers", 0),
        ],
    }
    return [str(flag) for flag in flags[name]]


def start(name: str, flags: list[str], log: Path) -> int:
    """The number of a process that runs the command."""
    child = os.fork()
    if child:
        return child
    for number in STOP_SIGNALS:  # as a shell starts it
        own = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, own)
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    code = 70
    try:
        COMMANDS[name](flags)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT  # before the command looks after signals
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def killed(name: str, flags: list[str], log: Path, number: int | None, after: float) -> bool:
    """Run the command and send the signal after so many seconds; whether it ended well before.

    Raises `RuntimeError` for an end that is neither well nor by the signal.
    """
    child = start(name, flags, log)
    deadline, status = time.monotonic() + after, 0
    while number is not None and time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.002)
    else:
        if number is not None:
            os.kill(child, number)
        status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    if code == 0 or (number is not None and code in (-number, 128 + number)):
        return code == 0
    raise RuntimeError(f"{name} ended with {code}: {log.read_text(errors='replace')[-2000:]}")


def content(work: Path) -> dict[str, Any]:
    """All files by name, but for what a clock measured and what differs by the folder's name."""
    found: dict[str, Any] = {}
    for path in sorted(work.rglob("*")):
        name = str(path.relative_to(work))
        if path.is_file() and name not in ("run/last/trainer.pt", "run/last/config.json"):
            found[name] = path.read_bytes()
    lines = [json.loads(line) for line in found["run/log.jsonl"].splitlines()]
    found["run/log.jsonl"] = [{k: v for k, v in x.items() if k not in CLOCK} for x in lines]
    state = native.load_trainer(work / "run" / "last")
    totals = state["position"]["totals"]
    state["position"]["totals"] = {k: v for k, v in totals.items() if k not in CLOCK}
    found["run/last/trainer.pt"] = repr(torch.utils._pytree.tree_flatten(state))
    return found


def round_of_kills(source: Path, work: Path, draw: random.Random, times: dict[str, float]) -> Any:
    """Run all commands, each killed until it happens to end; the kills by command and signal."""
    kills: Counter[str] = Counter()
    for name in COMMANDS:
        while True:
            number, after = draw.choice(SIGNALS), draw.uniform(0, 1.2 * times[name])
            if killed(name, arguments(name, source, work), work / f"{name}.log", number, after):
                break
            kills[f"{name} {signal.Signals(number).name}"] += 1
    return kills


def main() -> int:
    """Print the kills; 1 where the end was another one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--workers", type=int, default=0, help="of training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw, kills, times = random.Random(options.seed), Counter[str](), {}
    with tempfile.TemporaryDirectory() as top:
        source, whole = Path(top, "source"), Path(top, "whole")
        for folder in (source, whole):
            folder.mkdir()
        write_source(source, options.workers)
        for name in COMMANDS:
            began = time.monotonic()
            killed(name, arguments(name, source, whole), Path(top, f"{name}.log"), None, 0)
            times[name] = time.monotonic() - began
        expected, rounds = content(whole), 0
        while kills.total() < options.kills:
            rounds += 1
            work = Path(top, f"work{rounds}")
            work.mkdir()
            kills += round_of_kills(source, work, draw, times)
            for log in work.glob("*.log"):
                log.unlink()
            found = content(work)
            wrong = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
            if wrong:
                print(f"round {rounds}, {dict(kills)}: other or left: {', '.join(wrong)}")
                return 1
            shutil.rmtree(work)
    print("undisturbed:", ", ".join(f"{name} {times[name]:.1f} s" for name in times))
    for name, count in sorted(kills.items()):
        print(f"{name:20} {count:3}")
    print(f"{kills.total()} kills in {rounds} rounds: the same bytes as undisturbed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
