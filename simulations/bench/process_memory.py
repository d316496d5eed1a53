"""What a process has in memory, as the system counts it. Alone in here, so that reading it loads nothing else."""

from __future__ import annotations

from pathlib import Path


def peak_bytes(process: int | str) -> int:
    """Read the peak of what a process had in memory.

    Raises:
        OSError: the process is gone, or this system has no /proc.
    """
    (peak,) = (line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(peak.split()[1])
