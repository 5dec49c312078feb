"""Several real processes on one machine, joined by gloo, as torchrun starts them but faster."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed as dist

from sat.cli import cli_errors

PATIENCE_SECONDS = 900
"""after which a rank is given up: far more than any takes on a busy machine"""
SILENT = "silent"


class Outcome(NamedTuple):
    """How a rank ended."""

    value: Any  # what its function returned; None if it ended before
    code: int  # its exit code
    stderr: str


def new_store() -> dist.TCPStore:
    """What torchrun holds for its ranks, and keeps when it starts them again."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def run_ranks(
    count: int,
    function: Callable[..., Any],
    *args: Any,
    seconds: int = PATIENCE_SECONDS,
    store: dist.TCPStore | None = None,
) -> list:
    """The values that `function(*args)` returns in `count` processes; all must end well."""
    outcomes = end_of_ranks(count, function, *args, seconds=seconds, store=store)
    assert [one.code for one in outcomes] == [0] * count, [one.stderr for one in outcomes]
    return [one.value for one in outcomes]


def forkserver_context() -> Any:
    """The context of processes that have imported what ranks need.

    There is one server in a process, and who starts it says what it imports: all tests ask here.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_distributed"])
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()
    return context


def end_of_ranks(
    count: int,
    function: Callable[..., Any],
    *args: Any,
    seconds: int = PATIENCE_SECONDS,
    store: dist.TCPStore | None = None,
) -> list[Outcome]:
    """How `count` processes end that call `function(*args)` as a command does.

    They are forked from a process of one thread that has imported all: a fork of this one, with
    torch's threads and those of the store, may wait for ever for a lock that one of them held. A
    process alive after `seconds` is killed, and has said on stderr where it was by then.
    """
    context = forkserver_context()
    store = store or new_store()
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    ranks = [
        context.Process(
            target=_be_rank,
            args=(rank, count, store.port, pipes[rank][1], function, args, seconds - 5),
        )
        for rank in range(count)
    ]
    for process in ranks:
        process.start()
    for _, sender in pipes:
        sender.close()
    found = []
    for receiver, _ in pipes:
        try:
            came = receiver.poll(seconds)
            found.append(pickle.loads(receiver.recv_bytes()) if came else (None, SILENT))
        except EOFError:
            found.append((None, "killed"))
    for process, (_, said) in zip(ranks, found):
        process.join(0 if said == SILENT else seconds)
        process.kill()
        process.join()
    return [Outcome(*pair[:1], one.exitcode, pair[1]) for pair, one in zip(found, ranks)]


def _be_rank(
    rank: int,
    count: int,
    port: int,
    sender: Any,
    function: Callable[..., Any],
    args: tuple,
    patience: float,
) -> None:
    faulthandler.dump_traceback_later(patience, file=os.fdopen(os.dup(2), "w"))
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    logging.getLogger().handlers.clear()  # pytest's
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    torch.set_num_threads(1)
    read, write = os.pipe()
    os.dup2(write, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    value, code = None, 0
    try:
        with cli_errors():
            value = function(*args)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stderr.flush()
    os.set_blocking(read, False)
    try:
        text = os.read(read, 1 << 16).decode()
    except BlockingIOError:
        text = ""
    sender.send_bytes(pickle.dumps((value, text)))
    sender.close()
    sys.exit(code)
