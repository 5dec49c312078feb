"""What the scripts share."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

KEPT = """
import ctypes
from sat.cli import keep_freed_memory

class Mallinfo(ctypes.Structure):
    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Mallinfo
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
keep_freed_memory()
libc.free(libc.malloc(ctypes.c_size_t(2**28)))
print(libc.mallinfo2().field8)  # fordblks: free bytes that were not given back
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
@pytest.mark.parametrize(("setting", "kept"), [({}, True), ({"MALLOC_TOP_PAD_": "0"}, False)])
def test_freed_memory_is_kept_unless_the_environment_says_how(
    setting: dict[str, str], kept: bool
) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    found = subprocess.run(
        [sys.executable, "-c", KEPT], env=plain | setting, capture_output=True, check=True
    )
    assert (int(found.stdout) >= 2**28) == kept
