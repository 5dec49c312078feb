"""torchrun itself: one node, two nodes on the loopback address, restarts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from ranks import PATIENCE_SECONDS, new_store, run_ranks
from test_distributed import HOW
from test_resume import assert_same, states

from sat.commands import evaluate
from sat.training.trainer import fit

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATHS = [str(path) for path in (ROOT, HERE, HERE.parent / "support")]
pytestmark = pytest.mark.slow


def torchrun(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(PATHS)}
    command = [sys.executable, "-m", "torch.distributed.run", *arguments]
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **how)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.prepare(tmp_path_factory.mktemp("data"), known=2)


def test_torchrun_evaluates_as_one_process(data, tmp_path, capsys):
    fit(tiny.config(data, tmp_path, stage1={"epochs": 1}))
    flags = ["--model", str(tmp_path / "best"), "--data_folder", str(data), "--batch_size", "5"]
    flags += ["--beam_size", "2", "--device", "cpu", "--workers", "0", "--per_image"]
    evaluate.main([*flags, "--results_dir", str(tmp_path / "one")])
    told = capsys.readouterr().out.replace("/one", "/two")
    flags += ["--results_dir", str(tmp_path / "two")]
    run = torchrun("--standalone", "--nproc_per_node", "2", str(ROOT / "eval.py"), *flags)
    assert run.communicate(timeout=PATIENCE_SECONDS)[0] == told
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


DIES_ONCE = """
import os, signal, sys
import test_distributed, tiny
from pathlib import Path
from sat.cli import cli_errors

first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
data, folder = map(Path, sys.argv[1:])
with cli_errors():
    config = tiny.config(data, folder, **test_distributed.HOW, save_minutes=0.0)
    test_distributed.fit_and_stop(config, {1: (2, signal.SIGKILL)} if first else {})
"""


@pytest.mark.stress
def test_run_on_two_nodes_whose_rank_dies_restarts_and_ends_in_the_same_bytes(data, tmp_path):
    run_ranks(2, fit, tiny.config(data, tmp_path / "whole", **HOW))
    script = tmp_path / "train.py"
    script.write_text(DIES_ONCE)
    store = new_store()  # at a port that is free
    where = ("--nnodes", "2", "--nproc_per_node", "1", "--max_restarts", "2", "--rdzv_backend")
    where += ("c10d", "--rdzv_endpoint", f"127.0.0.1:{store.port}", "--rdzv_id", "test")
    where += ("--rdzv_conf", "is_host=false")
    what = (str(script), str(data), str(tmp_path / "run"))
    nodes = [torchrun(*where, *what) for _ in range(2)]
    ends = [node.communicate(timeout=PATIENCE_SECONDS)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ends
    assert_same(states(tmp_path / "whole"), states(tmp_path / "run"))
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == [1, 2]
