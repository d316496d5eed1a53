"""What a query costs at this site, and when it is paid: the ledger as one run sees it.

Covers: a cost is on record before a record is read, and final before a vector is sealed; a reservation is given back
only for an update that was erased unsealed; work that outlives its process goes on under the reservation it has.
Does not cover: the truth of the plan's noise; consent has checked it, the engine adds it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from partsong.client.budget.ledger import Claim, Ledger
from partsong.client.secure_sum.door import Witnessed
from partsong.common.errors import Refused
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import StepEvents, Unit


def context_of(plan_sha256: str, *, number: int, attempt: int) -> str:
    """Name the one sealed vector that a query asks for."""
    return f"{plan_sha256}:{number}:{attempt}"


class Purse:
    """Pays for the queries of plans from one holding."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        holding: str,
        fingerprint: str,
        units: Mapping[Unit, int | None],
        coordinator: str,
        only: str | None = None,
        survey_first: bool = False,
    ) -> None:
        """Use a ledger in which the holding has a ceiling.

        Args:
            ledger: of the site.
            holding: named body of records.
            fingerprint: of the records as they are now.
            units: how many records and how many patients there are, None where the data does not say. It never
                leaves the site.
            coordinator: fingerprint of the coordinator's key.
            only: hash of the one plan that this purse pays for; what others have reserved is not touched. None: of a
                process that answers one plan after the other.
            survey_first: whether training waits for a survey of these very records.
        """
        self._ledger, self._holding, self._fingerprint = ledger, holding, fingerprint
        self._units, self._coordinator, self._only = units, coordinator, only
        self._survey_first = survey_first

    @property
    def head(self) -> bytes:
        """Digest of the ledger's newest entry: what the site's signed messages tell its peers."""
        return bytes.fromhex(self._ledger.head.digest)

    def recall(self, witnessed: Witnessed | None) -> None:
        """Find an entry in the ledger that this site signed and others have seen, and note that they have.

        Raises:
            Refused: `ledger_rolled_back`: an older copy was put back; nothing may be spent.
        """
        if witnessed is None:
            return
        head = self._ledger.find(witnessed.digest)
        known = self._ledger.anchored
        if known is None or head.number > known.number:
            self._ledger.anchor(head, witnesses=witnessed.sites)

    def settle(self, *, keep: Collection[str] = ()) -> tuple[str, ...]:
        """Give back what a crash has left reserved: updates live in memory until they are committed, and died with it.

        Guarantees: where this purse pays for one plan only, nothing of another is touched; its update may wait in this
            very process.
        Args:
            keep: contexts whose work has outlived its process; they stay reserved.
        Returns:
            the contexts that were given back.
        """
        left = tuple(context for context in self.outstanding() if context not in keep)
        for context in left:
            self._ledger.release(context)
        return left

    def outstanding(self) -> tuple[str, ...]:
        """Name the contexts that are reserved, and neither committed nor given back."""
        return tuple(filter(self.pays_for, self._ledger.outstanding()))

    def pays_for(self, context: str) -> bool:
        """Whether a context is of a plan that this purse pays for."""
        return self._only is None or context.startswith(f"{self._only}:")

    def reserve(self, plan: Plan, *, number: int, attempt: int) -> str:
        """Set the cost of one round aside; only then may a record be read.

        Returns:
            the context, for `commit` or `release`.
        Raises:
            Refused: over the ceiling, a context that was used, or `no_survey`; nothing was recorded.
        """
        self._require_survey(plan)
        context = context_of(plan.sha256, number=number, attempt=attempt)
        self._ledger.reserve(self._claim(plan, context=context, first=number, last=number))
        return context

    def resume(self, plan: Plan, *, number: int, attempt: int) -> str:
        """Find the reservation of one round, made by a process that broke off.

        Returns:
            the context, for `commit` or `release`.
        Raises:
            Refused: `not_reserved`, or `other_claim`: it was made for other records or another cost; nothing more of
                that round may be computed.
        """
        context = context_of(plan.sha256, number=number, attempt=attempt)
        if context not in self._ledger.outstanding():
            raise Refused("not_reserved", reason="this round is not reserved any more", remedy="open a new round")
        claimed = self._ledger.holding(self._holding).claims.get(context)
        if claimed != self._claim(plan, context=context, first=number, last=number):
            raise Refused(
                "other_claim",
                reason="the round was paid for before the records or their holding changed",
                remedy="open a new round",
            )
        return context

    def afford(self, plan: Plan) -> None:
        """Ask whether the budget has room for a whole plan; nothing is set aside.

        Raises:
            Refused: it has not, or the plan hides what nobody can count here.
        """
        self._require_survey(plan)
        self._ledger.quote(self._claim(plan, context=f"{plan.sha256}:whole", first=1, last=plan.rounds))

    def commit(self, context: str) -> None:
        """Make a cost final; only then may the vector be sealed."""
        self._ledger.commit(context)

    def release(self, context: str) -> None:
        """Give a cost back, after the update was erased."""
        self._ledger.release(context)

    def queries(self, plan: Plan) -> int:
        """Count the rounds of a plan that are paid for."""
        prefix, claims = f"{plan.sha256}:", self._ledger.holding(self._holding).claims
        return sum(context.startswith(prefix) for context in claims)

    def _claim(self, plan: Plan, *, context: str, first: int, last: int) -> Claim:
        steps = plan.steps_between(first=first, last=last)
        released = () if plan.dp is None else plan.releases(first=first, last=last)
        return Claim(
            holding=self._holding,
            context=context,
            purpose=plan.study,
            run=plan.run,
            coordinator=self._coordinator,
            fingerprint=self._fingerprint,
            events=tuple(self._at_site(plan, events) for events in released),
            alone=() if plan.on_sum is None else (self._at_site(plan, plan.events_alone(steps=steps)),),
            protected=plan.dp is not None,
        )

    def _require_survey(self, plan: Plan) -> None:
        """Training may have to wait for a survey that was answered about the very records that are here now."""
        if not self._survey_first or plan.study != "train":
            return
        claims = self._ledger.holding(self._holding).claims.items()
        answered = (self._ledger.state(c) == "committed" for c, claim in claims if self._surveys(claim))
        if not any(answered):
            raise Refused(
                "no_survey",
                reason="these records, as they are now, were never surveyed",
                remedy="answer a survey first, or change data.survey_first in the policy",
            )

    def _surveys(self, claim: Claim) -> bool:
        return claim.purpose == "survey" and claim.fingerprint == self._fingerprint

    def _at_site(self, plan: Plan, events: StepEvents) -> StepEvents:
        """Give a plan's events with this site's number of units."""
        units = None if plan.dp is None else self._units[plan.dp.unit]
        if units is None:
            raise Refused(
                "no_unit", reason="the records do not say whose they are", remedy="name the unit column of the data"
            )
        return events.at_site(records=units)


class FreePurse(Purse):
    """Pays for queries that read no record: nothing. The ledger's head still travels, and its witnesses are noted."""

    def settle(self, *, keep: Collection[str] = ()) -> tuple[str, ...]:  # noqa: ARG002 - nothing is ever reserved
        """There is nothing to give back."""
        return ()

    def outstanding(self) -> tuple[str, ...]:
        """Nothing is in doubt."""
        return ()

    def reserve(self, plan: Plan, *, number: int, attempt: int) -> str:
        """Name the query; the ledger does not learn of it."""
        return context_of(plan.sha256, number=number, attempt=attempt)

    def resume(self, plan: Plan, *, number: int, attempt: int) -> str:
        """Name the query; what is free can be gone on with at any time."""
        return context_of(plan.sha256, number=number, attempt=attempt)

    def afford(self, plan: Plan) -> None:
        """Everything free is affordable."""

    def commit(self, context: str) -> None:
        """Nothing was spent."""

    def release(self, context: str) -> None:
        """Nothing was set aside."""

    def queries(self, plan: Plan) -> int:  # noqa: ARG002 - none of them costs anything
        """Count none."""
        return 0
