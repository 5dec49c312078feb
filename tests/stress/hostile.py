"""Mutate valid input files and read each in a process under limits: `--seed S --count N`.

Each reader may accept a file or raise one sentence with its name. All else is counted: a
traceback, a process that works for 10 s or waits for 60, one that takes 2 GB more, and nonsense
read in silence (ids below 0, a checkpoint whose bytes are others). POSIX only.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import math
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import legacy_files  # noqa: E402
import tiny  # noqa: E402
import tiny_vit  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402

from sat.checkpoints import native, tutorial  # noqa: E402
from sat.cli import USER_ERRORS  # noqa: E402
from sat.commands import train  # noqa: E402
from sat.data.dataset import CaptionDataset, find_data_name  # noqa: E402
from sat.data.image_files import read_image  # noqa: E402
from sat.data.manifest import manifest_path  # noqa: E402
from sat.data.vocabulary import Vocabulary  # noqa: E402
from sat.data.word_vectors import load_embeddings  # noqa: E402
from sat.training.state import TrainerState, fits_run  # noqa: E402

SECONDS, MEMORY = 10, 2 * 2**30
OUTCOMES = ("read", "refused", "traceback", "hang", "memory", "nonsense")
ODD = [None, True, -1, 0, 10**9, 2**70, math.nan, math.inf, "", "x" * 999, [], {}, [[[]]]]


class Nonsense(Exception):
    """A reader accepted what no valid file holds."""


class Kind(NamedTuple):
    """One kind of input: the file to mutate and what reads it, in a copy of `folder`."""

    folder: Path
    file: str
    read: Callable[[Path], Any]


def kinds(work: Path) -> dict[str, Kind]:
    """A valid folder for each kind."""
    data, run = tiny.prepare(work / "data"), work / "run"
    name = find_data_name(data)
    manifest_path(data, name).unlink()  # as the tutorial's folders: the checks stand alone
    captioner = tiny.captioner()
    state = {"epoch": 1, "best": 0.5, "totals": {"seconds": 1.0}}
    random_state, optimizer = torch.get_rng_state(), {"state": {}, "param_groups": [{"lr": 1e-3}]}
    trainer = {"position": state, "identity": {}, "random": random_state, "optimizer": optimizer}
    parts = (captioner.model, captioner.vocabulary, captioner.config)
    native.save(run / "last", *parts, trainer=trainer)
    legacy_files.write_zip(work / "tutorial.pth.tar", legacy_files.checkpoint(slim=True))
    words = captioner.vocabulary.word_map
    (work / "v.txt").write_text("".join(f"{word} 0.5 -1.25 3\n" for word in words))
    shutil.copy(next(data.glob("*.png")), work / "photo.png")

    (work / "recipe").mkdir()
    shutil.copy(ROOT / "configs" / "flickr8k.yaml", work / "recipe" / "recipe.yaml")
    tokens = tiny_vit.subwords()
    parts = (tiny_vit.model(tokens), tokens, tiny_vit.config())
    native.save(work / "vit", *parts)
    (work / "vit" / "sat.json").unlink()  # as Hugging Face's own: its files alone

    def dataset(folder: Path) -> None:
        check_dataset(CaptionDataset(folder, name, "train"))

    return {
        "captions (JSON)": Kind(data, f"TRAIN_CAPTIONS_{name}.json", dataset),
        "lengths (JSON)": Kind(data, f"TRAIN_CAPLENS_{name}.json", dataset),
        "word map (JSON)": Kind(data, f"WORDMAP_{name}.json", dataset),
        "images (HDF5)": Kind(data, f"TRAIN_IMAGES_{name}.hdf5", dataset),
        "config.json": Kind(run / "last", "config.json", check_model),
        "model.safetensors": Kind(run / "last", "model.safetensors", check_same_bytes),
        "trainer.pt": Kind(run / "last", "trainer.pt", read_trainer),
        "tutorial": Kind(work, "tutorial.pth.tar", lambda at: tutorial.read_tutorial(at / TAR)),
        "recipe (YAML)": Kind(work / "recipe", "recipe.yaml", read_recipe),
        **{f"HF {name}": Kind(work / "vit", name, check_model) for name in HF_FILES},
        "vectors": Kind(work, "v.txt", lambda at: load_embeddings(at / "v.txt", Vocabulary(words))),
        "image": Kind(work, "photo.png", lambda at: read_image(at / "photo.png")),
    }


TAR = "tutorial.pth.tar"
HF_FILES = ("config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json")


def read_recipe(folder: Path) -> None:
    """Read a file of flags as train.py does; its errors are one line, and exit code 2."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            train.parse(["--config", str(folder / "recipe.yaml")])
    except SystemExit as end:
        raise ValueError(f"recipe.yaml: {told.getvalue()}") from end


def check_dataset(dataset: CaptionDataset) -> None:
    """Read every sample."""
    for i in range(len(dataset)):
        sample = dataset[i]
        if not 2 <= sample.length <= len(sample.caption) or sample.caption.min() < 0:
            raise Nonsense(f"caption {i}: {sample.length} of {sample.caption.tolist()}")
        if sample.image.dtype != torch.uint8 or sample.image.shape[0] != 3:
            raise Nonsense(f"image {i}: {sample.image.dtype}{list(sample.image.shape)}")


def check_model(folder: Path) -> None:
    """Load a checkpoint; its preprocessing must be numbers that an image can have."""
    preprocessing = native.load(folder)[2].preprocessing
    numbers = (preprocessing.size, *preprocessing.mean, *preprocessing.std)
    if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
        raise Nonsense(f"preprocessing {preprocessing}")


def check_same_bytes(folder: Path) -> None:
    """Load a checkpoint whose weights were changed: reading it at all is nonsense."""
    native.load(folder)
    raise Nonsense("weights of other bytes were loaded")


def read_trainer(folder: Path) -> None:
    """Read what resuming reads first; other bytes must not be accepted."""
    saved = native.load_trainer(folder)
    with fits_run(folder / "last"):
        TrainerState.from_dict(saved["position"])
    raise Nonsense("a state of other bytes was loaded")


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """Flip, cut, insert or repeat bytes."""
    at = draw.randrange(len(data))
    match draw.randrange(5):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at]
        case 2:
            return data[:at] + draw.randbytes(draw.randint(1, 9)) + data[at:]
        case 3:
            return data[:at] + draw.randbytes(min(8, len(data) - at)) + data[at + 8 :]
    return data[:at] + data[draw.randrange(len(data)) :]


def mutate_value(value: Any, draw: random.Random) -> Any:
    """Replace, drop or rename one value somewhere within lists and objects."""
    value = copy.deepcopy(value)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    if not keys:
        return draw.choice(ODD)
    key = draw.choice(keys)
    if isinstance(value[key], (dict, list)) and draw.random() < 0.7:
        value[key] = mutate_value(value[key], draw)
    elif draw.random() < 0.2:
        del value[key]
    else:
        value[key] = draw.choice(ODD)
    return value


def mutate(path: Path, draw: random.Random) -> None:
    """Change the file by its structure, where we know it, or by its bytes."""
    data = path.read_bytes()
    if path.suffix == ".json" and draw.random() < 0.6:
        path.write_text(json.dumps(mutate_value(json.loads(data), draw)))
    elif path.suffix == ".yaml" and draw.random() < 0.6:
        path.write_text(yaml.safe_dump(mutate_value(yaml.safe_load(data), draw)))
    elif path.suffix == ".pt" and draw.random() < 0.5:
        torch.save(mutate_value(torch.load(path, weights_only=True), draw), path)
    elif draw.random() < 0.02:
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes(mutate_bytes(data, draw))
    if path.is_file() and path.read_bytes() == data:  # a value drawn may be the one it replaces
        path.write_bytes(data + b"x")


def judge(kind: Kind, folder: Path) -> tuple[str, str]:
    """Outcome and its message, from a child that reads the folder under limits."""
    note = folder.with_suffix(".note")
    child = os.fork()
    if child == 0:
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of work; ends the process, even within C
        signal.alarm(6 * SECONDS)  # of waiting, on a machine that is busy with others
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        outcome, message = _read(kind, folder)
        note.write_text(f"{outcome}\n{message[:400]}")
        os._exit(0)
    _, status, usage = os.wait4(child, 0)
    if os.WIFSIGNALED(status):
        hung = os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGPROF)
        return ("hang" if hung else "traceback"), f"signal {os.WTERMSIG(status)}"
    outcome, _, message = note.read_text().partition("\n")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return ("memory" if (usage.ru_maxrss - own) * 1024 > MEMORY else outcome), message


def _read(kind: Kind, folder: Path) -> tuple[str, str]:
    # Address space as now and MEMORY more: what takes more gets a MemoryError.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        kind.read(folder)
    except Nonsense as error:
        return "nonsense", str(error)
    except MemoryError as error:
        return "memory", str(error)
    except USER_ERRORS as error:
        named = folder.name in str(error) or kind.file in str(error) or kind.read is read_recipe
        return "refused" if named else "traceback", f"{type(error).__name__}: {error}"
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"
    return "read", ""


def main() -> int:
    """Print the table; 1 where anything else than reading or refusing was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw, bad = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as top:
        found = kinds(Path(top, "valid"))
        counts = {name: Counter[str]() for name in found}
        for i in range(options.count):
            name = list(found)[i % len(found)]
            kind, folder = found[name], Path(top, f"case{i}")
            skip = shutil.ignore_patterns(
                "data", "run", "vit", "recipe"
            )  # the other kinds, within "valid"
            shutil.copytree(kind.folder, folder, ignore=skip)
            mutate(folder / kind.file, draw)
            outcome, message = judge(kind, folder)
            counts[name][outcome] += 1
            if outcome not in ("read", "refused"):
                bad.append(f"case {i}, {name}: {outcome}: {message}")
            shutil.rmtree(folder)
    print(f"{'':20}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES))
    for name, count in counts.items():
        print(f"{name:20}" + "".join(f"{count[outcome]:11}" for outcome in OUTCOMES))
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
