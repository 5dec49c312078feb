"""The short form of tests/stress/kills.py: whatever kills a command, the next one goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[1] / "stress" / "kills.py"


@pytest.mark.slow
@pytest.mark.stress
@pytest.mark.skipif(not hasattr(os, "fork"), reason="of POSIX")
def test_commands_killed_at_random_moments_end_in_the_same_bytes():
    arguments = [sys.executable, str(KILLS), "--kills", "3", "--seed", str(os.getpid())]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same bytes as undisturbed" in done.stdout
