"""The site's own copy of the global adapter, computed from the sums that it has checked.

Covers: an adapter that a coordinator publishes, or starts a round from, is the one that follows from the start that
the plan names and from every checked sum since; any other is found out.
Does not cover: whether the sums were good; they are what the sites gave.

The file holds public values only. It is replaced as a whole, so a crash leaves the copy before a sum or after it. It is
first written with the first sum of a plan: a plan that was only proposed does not take the place of one that is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from partsong.common.adapters.adapter import FloatVec, digest
from partsong.common.adapters.methods import ServerState, Vec64, advance, asked_about
from partsong.common.errors import DataError, Refused
from partsong.common.files import write_bytes
from partsong.common.identity.charter import Charter
from partsong.common.plan import Plan
from partsong.common.secure_sum.opened import query_hash, read_opened
from partsong.common.secure_sum.result import OpenedSum


class Follower:
    """The copy for one plan."""

    def __init__(self, file: Path) -> None:
        """Use `file`, which need not exist yet."""
        self._file = file
        self._plan: Plan | None = None
        self._start = ServerState(adapter_P=np.zeros(0))
        self._round = 0
        self._sha256 = ""
        self._past: dict[int, str] = {}

    def start(self, plan: Plan, start_P: FloatVec) -> None:
        """Follow a plan from its start, or go on where the file ends.

        Args:
            plan: accepted here.
            start_P: trained part, of the digest that the plan names.
        Raises:
            DataError: the file is damaged; nothing was changed.
        """
        state, round_ = ServerState(adapter_P=start_P.astype(np.float64)), 0
        self._start, self._past = state, {0: digest(start_P)}
        if self._file.exists():
            kept, facts = self._load()
            if facts["plan"] == plan.sha256:
                state, round_ = kept, int(facts["round"])
                self._past |= _past_of(facts, digest(state.adapter_P.astype(np.float32)))
        self._plan, self._round, self._sha256 = plan, round_, digest(state.adapter_P.astype(np.float32))

    @property
    def adapter_sha256(self) -> str:
        """Digest of the adapter as it should be now."""
        return self._sha256

    @property
    def past(self) -> Mapping[int, str]:
        """Digest of the adapter after each round whose sum was taken over, and before the first as round 0."""
        return dict(self._past)

    def sha256_of_query(self, *, number: int) -> str:
        """Digest of the vector that has to come with round `number`; empty where no such round can be."""
        if self._plan is None or not self._plan.is_vote(number):
            return self._sha256
        state = self._load()[0] if self._round else self._start
        return "" if state.candidate is None else digest(asked_about(state, self._plan, number=number))

    @property
    def adapter_P(self) -> FloatVec:
        """The adapter as it should be now, as it is sent and published."""
        state = self._load()[0] if self._round else self._start
        return state.adapter_P.astype(np.float32)

    def take(self, result: OpenedSum, *, number: int, charter: Charter) -> None:
        """Move the copy along a checked sum; a sum that was taken before changes nothing.

        Args:
            result: whose signatures and tag are right.
            number: training round that the message says it is of.
            charter: of the run, which may weigh its sites.
        Raises:
            Refused: `missing_result`, if a sum before it was never taken; `other_query`, if it is not of that round
                of this plan. The copy stays as it was.
            SumOutOfRange: the words are no sum of encoded vectors.
        """
        if self._plan is None:
            raise AssertionError("a result is only read under an accepted plan")
        if result.header.round <= self._round:
            return
        self.require_next(round_=result.header.round, previous=result.header.previous_round)
        if result.header.query != query_hash(self._plan, number=number):
            raise Refused("other_query", reason="the sum is of another plan or round", remedy="name its round")
        opened = read_opened(result, self._plan, charter, number=number)
        state = self._load()[0] if self._round else self._start
        moved = advance(state, opened.mean_P, self._plan, number=number)
        sha256 = digest(moved.adapter_P.astype(np.float32))
        past = self._past | {number: sha256}
        self._save(moved, self._plan, round_=result.header.round, past=past)
        self._round, self._sha256, self._past = result.header.round, sha256, past

    def require_next(self, *, round_: int, previous: int) -> None:
        """Refuse a sum that neither was taken before nor follows the last one.

        Args:
            round_: of the sum, as its header counts.
            previous: the round before it that has a sum; 0 for none.
        """
        if round_ > self._round != previous:
            raise Refused(
                "missing_result", reason="this site lacks the sum before this one", remedy="send the sums in order"
            )

    def _save(self, state: ServerState, plan: Plan, *, round_: int, past: Mapping[int, str]) -> None:
        tensors = {"adapter": state.adapter_P, **state.memory}
        facts = {"plan": plan.sha256, "round": str(round_), "steps": str(state.steps), "past": json.dumps(past)}
        facts["sha256"] = _sha256_of(tensors, facts)
        write_bytes(self._file, save(tensors, metadata=facts))

    def _load(self) -> tuple[ServerState, Mapping[str, str]]:
        """Read the file, of whatever plan, with what it says of itself."""
        try:
            with safe_open(self._file, framework="numpy") as file:
                facts = dict(file.metadata() or {})
            tensors = load_file(self._file)
            if facts.pop("sha256", "") != _sha256_of(tensors, facts):
                raise self._damaged()
            adapter_P = tensors.pop("adapter")
            return ServerState(adapter_P=adapter_P, memory=tensors, steps=int(facts["steps"])), facts
        except (OSError, ValueError, KeyError, SafetensorError) as err:
            raise self._damaged() from err

    def _damaged(self) -> DataError:
        return DataError(
            self._file.name,
            found="a damaged file",
            expected="this site's copy of the adapter",
            remedy="leave the run: without the copy no published adapter can be checked",
        )


def _past_of(facts: Mapping[str, str], sha256: str) -> dict[int, str]:
    """Read the adapters after each round; a copy that an earlier version wrote knows the last one alone."""
    if "past" not in facts:
        return {int(facts["round"]): sha256}
    return {int(number): found for number, found in json.loads(facts["past"]).items()}


def _sha256_of(tensors: Mapping[str, Vec64], facts: Mapping[str, str]) -> str:
    """Digest of all that the file says, so that a changed bit of it is not taken for a lie of the coordinator."""
    whole = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        whole.update(f"{name}\0".encode())
        whole.update(np.ascontiguousarray(value, dtype="<f8").data)
    return whole.hexdigest()
