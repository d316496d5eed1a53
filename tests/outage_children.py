"""What runs in the forked processes of `outage_driver`: the real daemons, with traps in which they kill themselves.

A trap springs at a place of the protocol, once in all lives of a process: `before open`, `answered roster`,
`kept confirm`, `sending unmask`, `sent result` at a site, `before`, `first` and `after` a phase at the coordinator,
`before publish` and `after publish`. The phase of keys has four steps, each a place of its own: `begin`, `pair`,
`reveal` and `finish`.
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import partsong.client.daemon.up as site_up
import partsong.server.daemon.carry as carry
import partsong.server.daemon.up as coordinator_up
from partsong.client.daemon.daemon import SiteDaemon
from partsong.client.home.layout import SiteHome
from partsong.client.home.opened import OpenedSite
from partsong.client.link.fleet import FleetApi
from partsong.common import wire
from partsong.server.app import GridExchange
from partsong.server.daemon.carry import Pace
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import OpenedCoordinator

COORDINATOR = "coordinator"
_PR_SET_PDEATHSIG = 1
"""Of prctl(2): no process here outlives the driver."""
SECRETS = {"roster": "masked", "confirm": "confirmed", "unmask": "unmasked"}
"""Answers of which no two may differ for one round, and what they are called."""


@dataclass(frozen=True)
class Trap:
    """Where a process stops living."""

    who: str
    at: str
    round: int = 0
    """0: whichever comes first."""
    signal: int = signal.SIGKILL
    down_s: float = 0.0
    """How long it stays away."""


class Notes:
    """Lines that all processes of a scenario write, and the traps that have sprung."""

    def __init__(self, folder: Path) -> None:
        self.file, self._sprung = folder / "notes.jsonl", folder / "sprung"
        self._sprung.mkdir(parents=True, exist_ok=True)

    def write(self, what: str, *said: Any) -> None:
        handle = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, json.dumps([what, *said]).encode() + b"\n")
        os.close(handle)

    def read(self, what: str) -> list[list[Any]]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [said for found, *said in map(json.loads, lines) if found == what]

    def spring(self, number: int) -> bool:
        """Whether this is the first time."""
        try:
            os.close(os.open(self._sprung / str(number), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def sprung(self) -> set[int]:
        return {int(file.name) for file in self._sprung.iterdir()}


class Life:
    """One process, from its fork to its end."""

    def __init__(self, who: str, traps: list[Trap], notes: Notes) -> None:
        self.who, self.notes = who, notes
        self._traps = [(number, trap) for number, trap in enumerate(traps) if trap.who == who]
        self._now = ("", 0)

    def at(self, place: str, number: int) -> None:
        """Die here if a trap says so."""
        for index, trap in self._traps:
            if trap.at == place and trap.round in (0, number) and self.notes.spring(index):
                self.notes.write("trap", self.who, place, number)
                os.kill(os.getpid(), trap.signal)

    def be_site(self, home: SiteHome, opened: OpenedSite) -> None:
        """Run a site's daemon until it is killed or told to end."""
        self._watch_answers()
        heard, push = site_up._heard, FleetApi.push

        def told(said: Any, *rest: Any) -> None:
            heard(said, *rest)
            self.notes.write("told", self.who, said.what)
            if said.what in ("kept", "sending", "sent"):
                self.at(f"{said.what} {self._now[0]}", self._now[1])

        def pushed(api: FleetApi, answer: Any) -> Any:
            parts = b"".join(part.name for part in answer.parts)
            self._fingerprint("sent", answer.question.hex(), answer.envelope + answer.tree + parts)
            return push(api, answer)

        site_up._heard, FleetApi.push = told, pushed  # type: ignore[method-assign]
        site_up.serve(home, opened, environment={}, log_folder=home.log, ready=lambda: None)

    def _watch_answers(self) -> None:
        answered = SiteDaemon.answer

        def answer(daemon: SiteDaemon, header: bytes, **rest: bytes) -> Any:
            self._now = kind, number = kind_of(header), number_of(header)
            self.at(f"before {kind}", number)
            found = answered(daemon, header, **rest)
            if kind in SECRETS and wire.kind_of(found.header) != wire.Refuse.kind:
                attempt = json.loads(header)["body"]["attempt"]
                self._fingerprint(SECRETS[kind], f"{number}.{attempt}", found.note)
            self.at(f"answered {kind}", number)
            return found

        SiteDaemon.answer = answer  # type: ignore[method-assign]

    def _fingerprint(self, what: str, key: str, data: bytes) -> None:
        self.notes.write(what, f"{self.who} {key}", hashlib.sha256(data).hexdigest())

    def be_coordinator(self, home: CoordinatorHome, opened: OpenedCoordinator, pace: Pace) -> None:
        """Run the coordinator's daemon until it is killed or told to end."""
        ask, publish = GridExchange.ask, carry.publish_run

        def asking(exchange: GridExchange, parcels: Any, *, phase: str, timeout_s: float) -> Iterator[Any]:
            headers = [parcel.header for parcel in parcels.values()]
            number = max(map(number_of, headers), default=0)
            place = kind_of(headers[0]) if phase == "keys" and headers else phase
            self.at(f"before {place}", number)
            began_s = time.monotonic()
            for count, answer in enumerate(ask(exchange, parcels, phase=phase, timeout_s=timeout_s)):
                yield answer
                if count == 0:
                    self.at(f"first {place}", number)
            self.notes.write("phase", phase, number, round(time.monotonic() - began_s, 3))
            self.at(f"after {place}", number)

        def publishing(*arguments: Any, **rest: Any) -> None:
            self.at("before publish", 0)
            publish(*arguments, **rest)
            self.at("after publish", 0)

        GridExchange.ask, carry.publish_run = asking, publishing  # type: ignore[method-assign]
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: stop.set())
        coordinator_up.serve(home, opened, coordinator_up.Watching(stop=stop, environment={}, pace=pace))


def kind_of(header: bytes) -> str:
    """Kind of a message; of set-up, its step."""
    kind = wire.kind_of(header)
    return str(json.loads(header)["body"]["step"]) if kind == "keys" else kind


def number_of(header: bytes) -> int:
    """Round that a message is about; 0 for set-up and for what comes after the last."""
    body = json.loads(header)["body"]
    return int(body.get("round", body.get("summed", 0)))


def fork(body: Callable[[], None], errors: Path) -> int:
    """Run `body` in a process of its own; gives its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        out = os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(out, 2)
        body()
        code = 0
    except BaseException as err:  # noqa: BLE001 - shown by the driver
        traceback.print_exception(err)
    finally:
        sys.stderr.flush()
        os._exit(code)
