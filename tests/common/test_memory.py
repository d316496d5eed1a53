"""Freed memory goes back to the system."""

import ctypes
import subprocess
import sys

from partsong.common.memory import return_freed_memory

GROWN = """
import re, sys
from pathlib import Path
from partsong.common.memory import return_freed_memory
if sys.argv[1] == "yes":
    assert return_freed_memory()
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
for _ in range(3):  # glibc learns from a freed block to keep others of its size
    del [bytes(20 << 20)][:]
before = resident()
blocks, small = [], []
for _ in range(40):
    blocks.append(bytes(b"x" * (1 << 20)))
    small.append(bytes(b"y" * 5000))
del blocks
print((resident() - before) // 1024)
"""


def _kept_mb(*, told: bool) -> int:
    call = [sys.executable, "-P", "-c", GROWN, "yes" if told else "no"]
    return int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


def test_large_blocks_do_not_stay_with_the_process() -> None:
    """Forty of 1 MiB, each with a small one behind it; without the call most of them stay."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        assert not return_freed_memory()
        return

    assert _kept_mb(told=True) < 5
    assert _kept_mb(told=False) > 10
