"""A run's sums, followed from its public start: what every site does in each round, anyone can do afterwards.

Covers: each sum is signed by enough listed sites, is about the round of the plan that it is kept as, names the sum
before it, and started from the adapter that follows from all sums before it.
Does not cover: whether a sum is what the sites' vectors add up to (`recompute`, while they are kept), whether a later
sum was left out, and what the sites trained on.

Specification: PROTOCOL.md section 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from partsong.common.adapters.adapter import FloatVec, digest
from partsong.common.adapters.methods import ServerState, advance, asked_about
from partsong.common.codec import unpack
from partsong.common.errors import PartsongError
from partsong.common.plan import Plan
from partsong.common.secure_sum.messages import Ready, Result, Signed, Verdict
from partsong.common.secure_sum.opened import encoding_hash, model_hash, query_hash, read_opened
from partsong.common.secure_sum.result import OpenedSum, read_result
from partsong.common.secure_sum.transcript import RunFacts, read_from_sites


class HistoryDiffers(PartsongError):
    """A result is not the one that plan, charter and the results before it lead to; nothing was built upon it."""

    def __init__(self, number: int, *, found: str, expected: str) -> None:
        """Name the round."""
        super().__init__(f"round {number}: found {found}, expected {expected}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """A result that holds, and who stands for it."""

    opened: OpenedSum
    roster: tuple[int, ...]
    """Numbers of the sites that were ready, ascending."""
    found_right: int
    """Sites of the roster that signed that the result before this one is right."""


class History:
    """Follows one plan. After an error it stays where it was, and no later result can follow."""

    def __init__(self, plan: Plan, run: RunFacts, *, start_P: FloatVec) -> None:
        """Begin before the first round.

        Args:
            plan: of the run.
            run: what set-up fixed.
            start_P: (P,) trained part of the digest that the plan names [weight units].
        Raises:
            HistoryDiffers: another start.
        """
        if digest(start_P) != plan.start_sha256:
            raise HistoryDiffers(0, found="another start", expected="the adapter that the plan begins with")
        self._plan, self._run = plan, run
        self._state = ServerState(adapter_P=start_P.astype(np.float64))
        self._last: OpenedSum | None = None
        self._number = 0

    @property
    def adapter_P(self) -> FloatVec:
        """Trained part as it has to be published after the last result."""
        with np.errstate(over="ignore"):  # what is too large becomes infinite and differs from what is published
            return self._state.adapter_P.astype(np.float32)

    @property
    def last(self) -> OpenedSum | None:
        """The last result that was taken up; None before the first."""
        return self._last

    def take(self, packed: bytes, *, number: int) -> Followed:
        """Check the next result and move the adapter along it.

        Args:
            packed: the RESULT.
            number: training round that it is kept as.
        Raises:
            WireError: a part is malformed, unsigned or does not belong to the others.
            Refused: a floor of the charter, or the quorum, is missed.
            HistoryDiffers: it is of another round or plan, follows another result or started from another adapter.
            SumOutOfRange: the words are no sum of encoded vectors.
        """
        opened = read_result(packed, run=self._run, floors=self._run.charter.floors)
        self._require_plan(opened, number)
        self._require_previous(opened, number)
        if self._plan.is_vote(number) and self._state.candidate is None:
            raise HistoryDiffers(number, found="a vote about no round", expected="the sum of the round before it")
        with np.errstate(over="ignore"):
            asked = asked_about(self._state, self._plan, number=number)
        if opened.header.model != model_hash(digest(asked)):
            raise HistoryDiffers(
                number, found="a start from another adapter", expected="the one that the sums before it lead to"
            )
        mean = read_opened(opened, self._plan, self._run.charter, number=number)
        self._state = advance(self._state, mean.mean_P, self._plan, number=number)
        self._last, self._number = opened, number
        readys = [unpack(Ready, ready.body) for ready in unpack(Result, packed).readys]
        return Followed(
            opened=opened,
            roster=tuple(ready.site for ready in readys),
            found_right=sum(ready.verdict for ready in readys),
        )

    def found_right(self, verdicts: Mapping[int, bytes]) -> tuple[int, ...]:
        """Read what sites said of the last result and of the adapter that follows from it.

        Args:
            verdicts: by number of the site, its packed VERDICT.
        Returns:
            the sites that found both right.
        Raises:
            WireError: one is malformed, or not signed by its site.
            HistoryDiffers: one is about another result or another adapter.
        """
        messages = [unpack(Signed, verdicts[number]) for number in sorted(verdicts)]
        read = read_from_sites(Verdict, messages, self._run)
        about = (self._last.hash if self._last else b"", model_hash(digest(self.adapter_P)))
        if tuple(v.site for v in read) != tuple(sorted(verdicts)) or any((v.result, v.model) != about for v in read):
            raise HistoryDiffers(self._number, found="a verdict on something else", expected="on the published adapter")
        return tuple(v.site for v in read if v.verdict == 1)

    def _require_plan(self, opened: OpenedSum, number: int) -> None:
        header, plan = opened.header, self._plan
        if not self._number < number <= plan.rounds:
            raise HistoryDiffers(
                number, found=f"a result after that of round {self._number}", expected=f"rising rounds to {plan.rounds}"
            )
        expected = {
            "query": query_hash(plan, number=number),
            "encoding": encoding_hash(plan, number=number),
            "words": plan.encoding_of(number).words(),
            "noised": int(plan.survives_differences),
        }
        if wrong := [name for name, value in expected.items() if getattr(header, name) != value]:
            raise HistoryDiffers(number, found=f"another {wrong[0]} in the header", expected="that of the plan")
        if len(opened.sites) < plan.minimum_cohort:
            raise HistoryDiffers(
                number, found=f"a sum over {len(opened.sites)} sites", expected=f"{plan.minimum_cohort}, as planned"
            )

    def _require_previous(self, opened: OpenedSum, number: int) -> None:
        header, last = opened.header, self._last
        before = (last.header.round, last.hash) if last else (0, self._run.setup)
        if (header.previous_round, header.previous) != before or header.round <= before[0]:
            raise HistoryDiffers(number, found="another result before this one", expected="the one that is kept")
