"""A coordinator in a process of its own: python coordinator_alone.py FOLDER [PLANTED]

Its sites are at the other end of stdin and stdout. FOLDER holds what a coordinator has: plan, start, and under the
secure sum charter and key. A file PLANTED is read and kept, so that a scan of this process has something to find.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from partsong.common import events
from partsong.common.adapters.methods import ServerState
from partsong.common.build import build
from partsong.common.identity.charter import read as read_charter
from partsong.common.identity.keys import Identity
from partsong.common.plan import Plan
from partsong.server.adapter_file import read_adapter
from partsong.server.coordinator import Coordinator
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss
from partsong.server.secure_sum.masked_sums import MaskedSums, Trust
from partsong.server.secure_sum.sum_journal import SumJournal
from partsong.server.studies.train import train


class PipeExchange:
    """Frames of one JSON line and three byte strings, until a frame that says `end`."""

    def __init__(self, incoming: IO[bytes], outgoing: IO[bytes], *, sites: int) -> None:
        self._incoming, self._outgoing, self._sites = incoming, outgoing, sites

    def addresses(self) -> tuple[int, ...]:
        return tuple(range(self._sites))

    def site_at(self, address: int) -> str | None:
        return None

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        for address, parcel in parcels.items():
            self._write({"address": address}, parcel)
        self.end(phase)
        while True:
            line = json.loads(self._incoming.readline())
            if line.get("end"):
                return
            parts = [self._incoming.read(size) for size in line["sizes"]]
            lost = line.get("lost")
            yield line["address"], Loss(lost) if lost else Parcel(header=parts[0], vector=parts[1], note=parts[2])

    def end(self, phase: str) -> None:
        self._outgoing.write(json.dumps({"end": phase}).encode() + b"\n")
        self._outgoing.flush()

    def _write(self, line: dict[str, object], parcel: Parcel) -> None:
        parts = parcel.header, parcel.vector, parcel.note
        self._outgoing.write(json.dumps(line | {"sizes": [len(part) for part in parts]}).encode() + b"\n")
        for part in parts:
            self._outgoing.write(part)


def say(event: events.Event) -> None:
    sys.stderr.write(f"{event}\n")


def main() -> None:
    folder = Path(sys.argv[1])
    planted = Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else b""
    plan = build(Plan, json.loads((folder / "plan.json").read_bytes()))
    start_P, frozen_F = read_adapter(folder / "coordinator" / "start.safetensors", plan.layout)
    sums = None
    if plan.masked:
        charter = read_charter((folder / "charter.json").read_bytes()).charter
        signer = Identity((folder / "coordinator" / "identity.key").read_bytes())
        journal = SumJournal(folder / "coordinator")
        sums = MaskedSums(Trust(charter=charter, signer=signer), plan, journal=journal, check_window=2)
    exchange = PipeExchange(sys.stdin.buffer, sys.stdout.buffer, sites=plan.encoding.max_sites)
    coordinator = Coordinator(exchange, plan, timeout_s=60, listen=say, sums=sums)
    coordinator.propose(lambda: (start_P, frozen_F))
    state = train(
        ServerState(adapter_P=start_P.astype(np.float64)),
        plan,
        first=1,
        attempts={},
        spend_attempts=False,
        ask=coordinator.run,
        keep=lambda _step: None,
    )
    coordinator.close(state.adapter_P.astype(np.float32))
    exchange.end("over")
    sys.stdin.buffer.readline()
    sys.stderr.write(f"{len(planted)} planted bytes were kept\n")


if __name__ == "__main__":
    main()
