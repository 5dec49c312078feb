"""The place of this process among those that torchrun started, as the environment says.

Without torchrun a process is rank zero of one. Needs no torch, so that `--help` stays fast.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


def is_launched() -> bool:
    """True in a process that torchrun started, or one that was given the same variables."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def rank() -> int:
    """The number of this process among all of the run, from 0."""
    return int(os.environ["RANK"]) if is_launched() else 0


def ranks() -> int:
    """The number of processes of the run."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank())) if is_launched() else 0


@contextmanager
def output_of_rank_zero() -> Iterator[None]:
    """A block whose output is dropped in all processes that torchrun starts but the first."""
    if rank() == 0:
        yield
        return
    logging.disable()
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
