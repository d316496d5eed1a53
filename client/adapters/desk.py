"""Takes the published adapter of a run, once it is what this site computed itself from the sums.

Covers: another plan than an accepted one, other weights than follow from the sums that were checked up to one of the
plan's rounds, LoRA options that change what the weights do, a file that was changed on its way, a file name that leads
elsewhere.
Does not cover: which of its rounds' adapters a coordinator publishes, the last or, after a rollback, an earlier one;
what model card and reports say to people. `partsong verify` compares those with the sums.

Specification: PROTOCOL.md section 13.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.numpy import save

from partsong.client.adapters.store import AdapterStore, StoredAdapter
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.rules.consent import NotAgreed
from partsong.client.secure_sum.door import Answer
from partsong.client.secure_sum.follow import Follower
from partsong.common import canary, wire
from partsong.common.adapters.adapter import AdapterLayout, FloatVec, digest
from partsong.common.adapters.lora import published
from partsong.common.adapters.options import odd_option
from partsong.common.errors import DataError, WireError
from partsong.common.plan import Plan

OFFER, PUBLISH = wire.Offer.kind, wire.Publish.kind
_OPTIONS: wire.AdapterFile = "adapter_config.json"
_FORMAT = {"format": "pt"}


class AdapterDesk:
    """One site's answers about adapters."""

    def __init__(self, store: AdapterStore, *, plans: Path, site: str, clock: Callable[[], float]) -> None:
        """Use the store and the folders of plans.

        Args:
            store: gets what was checked.
            plans: has one folder for each accepted plan.
            site: name of this site.
            clock: seconds since 1970.
        """
        self._store, self._plans, self._site, self._clock = store, plans, site, clock

    def offered(self, header: bytes) -> Answer:
        """Say which of the offered adapters this site wants: those of its plans that it lacks or asked for again."""
        offer = wire.decode(header, wire.Offer)
        stored = {one.plan: one.adapter for one in self._store.all()}
        again = self._store.wanted()
        plans = tuple(
            dict.fromkeys(
                one.plan_sha256
                for one in offer.adapters
                if self._took_part(one.plan_sha256)
                and (one.plan_sha256 in again or stored.get(one.plan_sha256) != one.adapter_sha256)
            )
        )
        return Answer(header=wire.encode(wire.Want(site=self._site, plans=plans)))

    def published(self, header: bytes, *, vector: bytes, note: bytes) -> Answer:
        """Check an adapter and store it.

        Raises:
            NotAgreed: it is of no plan of this site, or not what follows from the sums; nothing was stored.
            WireError: files or vector are not those that the header names; nothing was stored.
            TryAgain: the disk is full.
        """
        message = wire.decode(header, wire.Publish)
        plan, plan_sha256 = message.plan, message.plan.sha256
        frozen_F, trained_P = parts(vector, plan.layout)
        if digest(frozen_F) != plan.frozen_sha256 or digest(trained_P) != message.adapter_sha256:
            raise WireError("publish message: the vector is not the one that the header names")
        if not self._took_part(plan_sha256):
            raise NotAgreed("state", "an adapter of a plan that was not accepted here", rule="adapter.plan")
        if message.adapter_sha256 not in followed(PlanFolder(self._plans, plan_sha256), plan).values():
            raise NotAgreed("sum", "the adapter does not follow from the sums that were checked here", rule="adapter")
        files = _files(message, note) | {wire.WEIGHTS: _weights(plan.layout, frozen_F, trained_P)}
        _require_files(message, files)
        _require_options(files[_OPTIONS], plan)
        now_ms = int(self._clock() * 1000)
        self._store.store(plan, files, adapter=message.adapter_sha256, now_ms=now_ms)
        return Answer(header=wire.encode(wire.Stored(site=self._site, plan_sha256=plan_sha256)))

    def _took_part(self, plan_sha256: str) -> bool:
        life = PlanFolder(self._plans, plan_sha256).life()
        return life is not None and life.purged_ms is None and life.study != canary.STUDY


def followed(folder: PlanFolder, plan: Plan) -> Mapping[int, str]:
    """Give the digests of the adapters that this site computed from the sums, by round; none where it has no sums.

    Raises:
        DataError: the site's copy is damaged.
    """
    proposal = folder.proposal()
    if proposal is None:
        return {}
    _, start_P = parts(proposal[1], plan.layout)
    follower = Follower(folder.copy)
    follower.start(plan, start_P)
    return follower.past


def verify(store: AdapterStore, adapter: StoredAdapter, *, plans: Path) -> str:
    """Check a stored adapter again: its files, and, as long as the plan's folder is here, the sums.

    Returns:
        in words, what was compared.
    Raises:
        DataError: a file was changed, or the adapter is not what follows from the sums.
    """
    place = f"adapters/{adapter.plan[:12]}"
    if odd := store.damaged(adapter):
        raise DataError(
            f"{place}/{odd[0]}",
            found="another file than was stored",
            expected="it as it was",
            remedy="`partsong site adapters fetch` asks for it again",
        )
    folder = PlanFolder(plans, adapter.plan)
    proposal = folder.proposal()
    if proposal is None:
        return "its files are as they were stored; the sums of its plan were purged here"
    rounds = followed(folder, wire.decode(proposal[0], wire.Propose).plan)
    found = [number for number, sha256 in rounds.items() if sha256 == adapter.adapter]
    if not found:
        raise DataError(place, found="another adapter", expected="the one that follows from the checked sums")
    earlier = "" if max(found) == max(rounds) else f" up to round {max(found)} of {max(rounds)}: it was rolled back"
    return f"its files are as they were stored, and its weights follow from the sums that were checked here{earlier}"


def parts(vector: bytes, layout: AdapterLayout) -> tuple[FloatVec, FloatVec]:
    """Cut frozen and trained part."""
    trained = layout.size(trained=True)
    both = wire.floats(vector, size=layout.size(trained=False) + trained)
    return both[: both.size - trained], both[both.size - trained :]


def _weights(layout: AdapterLayout, frozen_F: FloatVec, trained_P: FloatVec) -> bytes:
    """Write the weights as the coordinator does, to the last byte."""
    return save(published(layout, trained_P=trained_P, frozen_F=frozen_F), metadata=_FORMAT)


def _files(message: wire.Publish, note: bytes) -> dict[wire.AdapterFile, bytes]:
    """Cut the note into the small files."""
    files: dict[wire.AdapterFile, bytes] = {}
    at = 0
    for file in message.files:
        if file.name != wire.WEIGHTS:
            files[file.name] = note[at : at + file.size]
            at += file.size
    if at != len(note):
        raise WireError(f"publish message: found {len(note)} bytes of files, expected {at}")
    return files


def _require_files(message: wire.Publish, files: dict[wire.AdapterFile, bytes]) -> None:
    for file in message.files:
        data = files[file.name]
        if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.sha256:
            raise WireError(f"publish message: {file.name} is not the file that the header names")
    if _OPTIONS not in files:
        raise WireError(f"publish message: no {_OPTIONS}")


def _require_options(data: bytes, plan: Plan) -> None:
    try:
        options = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise WireError(f"publish message: {_OPTIONS} is no JSON") from err
    if not isinstance(options, dict) or odd_option(options, plan) is not None:
        raise NotAgreed("plan", "LoRA options that are not the plan's", rule="adapter.options")
