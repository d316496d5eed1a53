"""Tells systemd that a daemon is ready, alive or stopping, by a datagram to its socket.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Literal

_PATIENCE_S = 5.0
"""A supervisor that does not read must not keep a daemon from working, or from ending."""

Word = Literal["READY=1", "WATCHDOG=1", "STOPPING=1", "RELOADING=1"]


def notify(word: Word, *, environment: Mapping[str, str]) -> bool:
    """Send one word; say whether anybody listens.

    Args:
        word: of sd_notify(3).
        environment: of the process; systemd puts NOTIFY_SOCKET there: a path, or `@name` for an abstract one.
    Raises:
        OSError: the socket that the environment names is not there, or does not take it in a few seconds.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.settimeout(_PATIENCE_S)
        end.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        end.sendall(word.encode())
    return True


def watchdog_interval_s(environment: Mapping[str, str], *, pid: int) -> float | None:
    """Give how often WATCHDOG=1 should be sent: half of what systemd waits. None: it does not watch this process."""
    patience_us = environment.get("WATCHDOG_USEC", "")
    if not patience_us.isdecimal() or environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(patience_us) / 2_000_000
