"""Freed memory goes back to the system, or stays, as a process was told."""

import ctypes
import subprocess
import sys

from partsong.common.memory import keep_freed_memory, return_freed_memory

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


AGAIN = """
import resource, sys
from partsong.common.memory import keep_freed_memory
if sys.argv[1] == "yes":
    assert keep_freed_memory()
def vectors():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        del [b"x" * (20 << 20) for _ in range(4)][:]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
vectors()
print(vectors())
"""


def _faults(*, told: bool) -> int:
    call = [sys.executable, "-P", "-c", AGAIN, "yes" if told else "no"]
    return int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)


def test_blocks_that_stay_need_not_be_cleared_again() -> None:
    """Four vectors of 20 MiB at once, again and again: pages that the kernel has to give once more."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        assert not keep_freed_memory()
        return

    assert _faults(told=True) * 10 < _faults(told=False)
