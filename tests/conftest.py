"""What many tests share: one thread, the published numbers, and prepared files written by hand."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch

SAT = f"{Path(__file__).parents[1] / 'sat'}{os.sep}"
FIXTURES = Path(__file__).with_name("fixtures")
WORDS = ["<pad>", "a", "dog", "cat", "runs", "on", "the", "grass", "<unk>", "<start>", "<end>"]


class Prepared(NamedTuple):
    """Where the files of one split were written, and what stands in them."""

    folder: Path
    name: str
    images: np.ndarray  # uint8[I, 3, 8, 8]
    captions: list[list[int]]  # padded to 12, in the order of the images
    lengths: list[int]
    word_map: dict[str, int]

    def path(self, kind: str, suffix: str, split: str = "TRAIN") -> Path:
        return self.folder / f"{split}_{kind}_{self.name}{suffix}"


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Python changes from thread to thread as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """The same draws for every test and the fixtures that it makes, in any order of tests."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _same_process_everywhere() -> Iterator[None]:
    """One thread, Ctrl-C that interrupts (not so in the background), files that others may read."""
    torch.set_num_threads(1)
    handler, mask = signal.signal(signal.SIGINT, signal.default_int_handler), os.umask(0o022)
    yield
    signal.signal(signal.SIGINT, handler)
    os.umask(mask)


@pytest.fixture(autouse=True)
def _transformers_has_nothing_to_warn_of() -> Iterator[None]:
    """A call of ours, of which transformers warns in its log, fails the test; a test's own may."""
    messages = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if any(frame.filename.startswith(SAT) for frame in traceback.extract_stack()):
                messages.append(record.getMessage())

    logger, handler = logging.getLogger("transformers"), Handler(logging.WARNING)
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not messages


@pytest.fixture(scope="session")
def parity() -> dict[str, Any]:
    """Numbers of the tutorial's own decoder; fixtures/README.md says how they were cut."""
    return torch.load(FIXTURES / "parity.pt", weights_only=True)


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., Prepared]:
    """A factory of tiny data sets in the tutorial's layout, written without any code of ours."""

    def write(
        images: int = 6, per_image: int = 5, split: str = "TRAIN", seed: int = 0, **attrs: object
    ) -> Prepared:
        random = np.random.default_rng(seed)
        pixels = random.integers(0, 256, (images, 3, 8, 8), dtype=np.uint8)
        counts = random.integers(1, 8, images * per_image)
        lines = [[9, *random.integers(1, 9, n).tolist(), 10] for n in counts]
        data = Prepared(
            tmp_path,
            f"toy_{per_image}_cap_per_img_1_min_word_freq",
            pixels,
            [line + [0] * (12 - len(line)) for line in lines],
            [len(line) for line in lines],
            {word: number for number, word in enumerate(WORDS)},
        )
        with h5py.File(data.path("IMAGES", ".hdf5", split), "w") as file:
            file.attrs["captions_per_image"] = per_image
            file.attrs.update(attrs)
            file.create_dataset("images", data=pixels)
        data.path("CAPTIONS", ".json", split).write_text(json.dumps(data.captions))
        data.path("CAPLENS", ".json", split).write_text(json.dumps(data.lengths))
        (tmp_path / f"WORDMAP_{data.name}.json").write_text(json.dumps(data.word_map))
        return data

    return write
