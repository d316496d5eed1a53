"""The published adapter on its way to the sites: offered to all that are connected, sent to those that want it.

Specification: PROTOCOL.md section 13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.errors import DataError, WireError
from partsong.common.plan import Plan
from partsong.server.adapter_file import read_end
from partsong.server.exchange import Exchange, Parcel
from partsong.server.rounds import Loss
from partsong.server.run_files import RunFiles

_NAMES: tuple[wire.AdapterFile, ...] = (
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "privacy.json",
    "provenance.json",
)
_ANSWER_S = 30.0
"""How long an offer waits; it is repeated to whoever connects again."""


def deliver(
    exchange: Exchange,
    finished: Sequence[RunFiles],
    *,
    timeout_s: float,
    stored: Callable[[RunFiles, str], None],
    asked: Sequence[int] | None = None,
) -> None:
    """Offer the adapters of finished runs, and send each site those that it wants.

    Args:
        exchange: with the sites.
        finished: the runs, the newest last; at most `wire.MOST_OFFERED` of them are offered.
        timeout_s: how long to wait until a site has stored an adapter.
        stored: told the run and the site that has checked and stored its adapter.
        asked: addresses; None: all that are connected.
    Raises:
        DataError: a published directory is not what was published.
    """
    parcels = {parcel.plan.sha256: parcel for parcel in map(_Published.read, finished[-wire.MOST_OFFERED :])}
    if not parcels:
        return
    offer = Parcel(header=wire.encode(wire.Offer(adapters=tuple(found.offered for found in parcels.values()))))
    everybody = exchange.addresses() if asked is None else asked
    wanted = _wanted(exchange, offer, everybody)
    for plan_sha256, found in parcels.items():
        to = [address for address, plans in wanted.items() if plan_sha256 in plans]
        answers = exchange.ask(dict.fromkeys(to, found.parcel()), phase="publish", timeout_s=timeout_s) if to else ()
        for address, answer in answers:
            site = _stored_by(answer, plan_sha256)
            if site is not None:
                stored(found.files, exchange.site_at(address) or site)


def _wanted(exchange: Exchange, offer: Parcel, addresses: Sequence[int]) -> dict[int, tuple[str, ...]]:
    wanted: dict[int, tuple[str, ...]] = {}
    for address, answer in exchange.ask(dict.fromkeys(addresses, offer), phase="offer", timeout_s=_ANSWER_S):
        if isinstance(answer, Loss):
            continue
        try:
            wanted[address] = wire.decode(answer.header, wire.Want).plans
        except WireError:
            continue
    return wanted


def _stored_by(answer: Parcel | Loss, plan_sha256: str) -> str | None:
    if isinstance(answer, Loss):
        return None
    try:
        stored = wire.decode(answer.header, wire.Stored)
    except WireError:
        return None
    return stored.site if stored.plan_sha256 == plan_sha256 else None


class _Published:
    """One published directory. Weights and small files are read when they are sent, not before."""

    def __init__(self, files: RunFiles, plan: Plan, adapter_sha256: str) -> None:
        self.files, self.plan, self._adapter_sha256 = files, plan, adapter_sha256

    @classmethod
    def read(cls, files: RunFiles) -> _Published:
        plan = files.read_plan()
        trained_P, _ = read_end(files, plan.layout)
        return cls(files, plan, digest(trained_P))

    @property
    def offered(self) -> wire.Offered:
        return wire.Offered(run=self.plan.run, plan_sha256=self.plan.sha256, adapter_sha256=self._adapter_sha256)

    def parcel(self) -> Parcel:
        trained_P, frozen_F = read_end(self.files, self.plan.layout)
        data = {name: _bytes(self.files.adapter / name) for name in _NAMES}
        header = wire.Publish(
            plan=self.plan,
            adapter_sha256=digest(trained_P),
            files=tuple(
                wire.PublishedFile(name=name, size=len(data[name]), sha256=hashlib.sha256(data[name]).hexdigest())
                for name in _NAMES
            ),
        )
        return Parcel(
            header=wire.encode(header),
            vector=wire.vector_bytes(frozen_F) + wire.vector_bytes(trained_P),
            note=b"".join(data[name] for name in _NAMES if name != wire.WEIGHTS),
        )


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as err:
        raise DataError(str(file), found="no file that can be read", expected="what was published") from err
