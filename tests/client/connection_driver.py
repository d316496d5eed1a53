"""Runs a site's connection in forked processes that kill themselves where they are told to.

A program of its own: forking is safe in it, and the packages are imported once. Reads one JSON object a line: what to
be killed at (`at`, and at which `time` it is told; no `at`: never), and answers each with one.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from partsong.client.link.channel import ClientTls
from partsong.client.link.inbox import Inbox
from partsong.client.link.outbox import Outbox
from partsong.client.link.questions import Question, Reply, Told
from partsong.client.link.transport import FleetConnection
from partsong.common.files import append_line

IDLE_LOOKS = 4
FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])
TLS = ClientTls(certificate=Path(sys.argv[3]), key=Path(sys.argv[4]), authority=Path(sys.argv[5]))


def handle(question: Question) -> Reply:
    """Answer with bytes that no second call would give."""
    append_line(FOLDER / "handled.jsonl", question.message)
    return Reply(fields={"header": os.urandom(8)}, vector=os.urandom(len(question.vector)))


def run(order: dict[str, Any]) -> None:
    """Be a site until it is killed, or has nothing to do."""
    stop, idle, seen = threading.Event(), 0, 0

    def listen(told: Told) -> None:
        nonlocal idle, seen
        append_line(FOLDER / "told.jsonl", told.what)
        idle = 0
        seen += told.what == order.get("at")
        if told.what == order.get("at") and seen == order["time"]:
            os.kill(os.getpid(), signal.SIGKILL)

    def wait(event: threading.Event, seconds: float) -> None:
        nonlocal idle
        if threading.current_thread().name != "questions":
            event.wait(seconds)
            return
        left = [*(FOLDER / "inbox").glob("*.whole"), *(FOLDER / "outbox").glob("*.answer")]
        idle = 0 if left else idle + 1
        if idle >= IDLE_LOOKS:
            event.set()
        event.wait(0.002)

    outbox = Outbox(FOLDER / "outbox", clock=time.time)
    FleetConnection(
        address=f"127.0.0.1:{PORT}", tls=TLS, proxy=None, node_file=FOLDER / "node", inbox=Inbox(FOLDER / "inbox"),
        outbox=outbox, listen=listen, wait=wait,
    ).run(handle, stop=stop)  # fmt: skip


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(json.loads(line))
        os._exit(0)
    sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
    sys.stdout.flush()
