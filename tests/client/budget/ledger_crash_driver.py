"""Runs a site's rounds in child processes, kills them at every point, and says what the ledger then knew.

A program of its own: forking is safe in it, and the packages are imported once. Prints one JSON object.
"""

import json
import os
import resource
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from partsong.client.budget.ledger import Claim, Ledger
from partsong.common.errors import Refused, TryAgain
from partsong.common.privacy.accounting import StepEvents, epsilon

DELTA = 1e-5
EVENTS = (StepEvents(sampling_rate=0.05, noise_multiplier=0.4, steps=1),)
ROUNDS = 2


def claim(context: str) -> Claim:
    names = {"holding": "ward", "purpose": "train", "run": "r", "coordinator": "c", "fingerprint": "f"}
    return Claim(context=context, events=EVENTS, **names)


def send(sent: Path, context: str) -> None:
    """Stand for sealing and sending: from here on others may hold the vector."""
    with sent.open("ab") as log:
        log.write(context.encode() + b"\n")
        log.flush()
        os.fsync(log.fileno())


def rounds(folder: Path, attempt: int, tick: Callable[[], None], *, wrong_order: bool = False) -> None:
    """What a site does: settle what a crash left in doubt, then reserve, train, commit, send."""
    ledger = Ledger(folder / "ledger.db")
    for context in ledger.outstanding():
        ledger.release(context)
    ledger.set_ceiling("ward", epsilon=1000.0, delta=DELTA)
    for number in range(ROUNDS):
        context = f"{attempt}.{number}"
        ledger.reserve(claim(context))
        tick()
        if wrong_order:
            send(folder / "sent", context)
            tick()
            ledger.commit(context)
        else:
            ledger.commit(context)
            tick()
            send(folder / "sent", context)
        tick()
    ledger.close()


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a child and give its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as err:  # noqa: BLE001 - reported by the status, nothing of the parent may run on
            sys.stderr.write(repr(err))
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def killed_at(count: int) -> Callable[[], None]:
    """Make a counter that kills its process, uncatchably, at the given call; SQL statements call it too."""
    calls = 0

    def tick(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)

    real = sqlite3.connect

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        db = real(*args, **kwargs)
        db.set_trace_callback(tick)
        return db

    sqlite3.connect = connect
    return tick


def violations(folder: Path) -> list[str]:
    """Compare what was sent with what the ledger says after a restart."""
    sent = (folder / "sent").read_text().split() if (folder / "sent").exists() else []
    try:
        ledger = Ledger(folder / "ledger.db")
        ledger.entries()
        found = [f"{c} was sent and is {ledger.state(c)}" for c in sent if ledger.state(c) != "committed"]
        owed = epsilon(EVENTS * len(sent), delta=DELTA).epsilon
        if sent and ledger.spent("ward").epsilon < owed:
            found.append("less epsilon than was sent")
        ledger.close()
    except Refused as err:
        return [str(err)]
    return found


def at_every_statement(*, wrong_order: bool) -> dict[str, Any]:
    """Kill the first life at its 1st, 2nd, 3rd, ... step until it survives; let a second life finish."""
    bad: list[str] = []
    for count in range(1, 1000):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            status = forked(lambda: rounds(folder, 0, killed_at(count), wrong_order=wrong_order))  # noqa: B023
            bad += violations(folder)
            again = forked(lambda: rounds(folder, 1, lambda: None, wrong_order=wrong_order))  # noqa: B023
            bad += ["the second life failed"] if again else []
            bad += violations(folder)
        if status == 0:
            return {"kills": count - 1, "violations": bad}
        if not os.WIFSIGNALED(status):
            bad.append("the first life failed")
    raise AssertionError("a thousand statements are more than the work has")


def at_any_moment(lives: int) -> dict[str, Any]:
    """End each life after some more microseconds of wall time, also inside a write to the disk."""
    bad, kills = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for life in range(lives):

            def live() -> None:
                signal.setitimer(signal.ITIMER_REAL, 0.01 + 0.004 * (life % 60))  # noqa: B023
                while True:
                    rounds(folder, life * 1000 + next(attempts), lambda: None)  # noqa: B023

            attempts = iter(range(1000))
            status = forked(live)
            kills += os.WIFSIGNALED(status)
            bad += violations(folder)
        sent = len((folder / "sent").read_text().split())
    return {"kills": kills, "sent": sent, "violations": bad}


def full_disk() -> dict[str, Any]:
    """Let the file grow no further: nothing is reserved, nothing committed, and afterwards all goes on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ledger = Ledger(folder / "ledger.db")
        ledger.set_ceiling("ward", epsilon=1000.0, delta=DELTA)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / "ledger.db").stat().st_size + 8192, hard))
        done = []
        try:
            for number in range(1000):
                ledger.reserve(claim(str(number)))
                ledger.commit(str(number))
                done.append(str(number))
        except TryAgain as err:
            refused = str(err)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        bad = [c for c in done if ledger.state(c) != "committed"]
        for context in ledger.outstanding():
            ledger.release(context)
        ledger.reserve(claim("after"))
        ledger.commit("after")
        return {"done": len(done), "refused": refused, "violations": bad + violations(folder)}


def main() -> None:
    """Run the scenario named on the command line."""
    epsilon(EVENTS, delta=DELTA)
    scenarios = {
        "statements": lambda: at_every_statement(wrong_order=False),
        "wrong-order": lambda: at_every_statement(wrong_order=True),
        "moments": lambda: at_any_moment(60),
        "full-disk": full_disk,
    }
    sys.stdout.write(json.dumps(scenarios[sys.argv[1]]()))


if __name__ == "__main__":
    main()
