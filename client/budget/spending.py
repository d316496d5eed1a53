"""What a query costs at this site, and when it is paid: the ledger as one run sees it.

Covers: a cost is on record before a record is read, and final before a vector is sealed; a reservation is given back
only for an update that was erased unsealed.
Does not cover: the truth of the plan's noise; consent has checked it, the engine adds it.
"""

from __future__ import annotations

from collections.abc import Mapping

from partsong.client.budget.ledger import Claim, Ledger
from partsong.client.secure_sum.door import Witnessed
from partsong.common.accounting import StepEvents, Unit
from partsong.common.errors import Refused
from partsong.common.plan import Plan


class Purse:
    """Pays for the queries of plans from one holding."""

    def __init__(
        self, ledger: Ledger, *, holding: str, fingerprint: str, units: Mapping[Unit, int | None], coordinator: str
    ) -> None:
        """Use a ledger in which the holding has a ceiling.

        Args:
            ledger: of the site.
            holding: named body of records.
            fingerprint: of the records as they are now.
            units: how many records and how many patients there are, None where the data does not say. It never
                leaves the site.
            coordinator: fingerprint of the coordinator's key.
        """
        self._ledger, self._holding, self._fingerprint = ledger, holding, fingerprint
        self._units, self._coordinator = units, coordinator

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

    def settle(self, plan: Plan) -> tuple[str, ...]:
        """Give back what a crash has left reserved for one plan: its updates died with the process that held them.

        Guarantees: nothing of another plan is touched; its update may wait in this very process.
        Args:
            plan: of which no update waits here.
        Returns:
            the contexts that were given back.
        """
        prefix = _prefix(plan)
        left = tuple(context for context in self._ledger.outstanding() if context.startswith(prefix))
        for context in left:
            self._ledger.release(context)
        return left

    def reserve(self, plan: Plan, *, number: int, attempt: int) -> str:
        """Set the cost of one round aside; only then may a record be read.

        Returns:
            the context, for `commit` or `release`.
        Raises:
            Refused: over the ceiling, or a context that was used; nothing was recorded.
        """
        context = f"{_prefix(plan)}{number}:{attempt}"
        self._ledger.reserve(self._claim(plan, context=context, rounds=1))
        return context

    def afford(self, plan: Plan) -> None:
        """Ask whether the budget has room for a whole plan; nothing is set aside.

        Raises:
            Refused: it has not, or the plan hides what nobody can count here.
        """
        self._ledger.quote(self._claim(plan, context=f"{_prefix(plan)}whole", rounds=plan.rounds))

    def commit(self, context: str) -> None:
        """Make a cost final; only then may the vector be sealed."""
        self._ledger.commit(context)

    def release(self, context: str) -> None:
        """Give a cost back, after the update was erased."""
        self._ledger.release(context)

    def queries(self, plan: Plan) -> int:
        """Count the rounds of a plan that are paid for."""
        prefix, claims = _prefix(plan), self._ledger.holding(self._holding).claims
        return sum(context.startswith(prefix) for context in claims)

    def _claim(self, plan: Plan, *, context: str, rounds: int) -> Claim:
        return Claim(
            holding=self._holding,
            context=context,
            purpose=plan.study,
            run=plan.run,
            coordinator=self._coordinator,
            fingerprint=self._fingerprint,
            events=self._events(plan, rounds=rounds),
            protected=plan.dp is not None,
        )

    def _events(self, plan: Plan, *, rounds: int) -> tuple[StepEvents, ...]:
        if plan.dp is None:
            return ()
        units = self._units[plan.dp.unit]
        if units is None:
            raise Refused(
                "no_unit", reason="the records do not say whose they are", remedy="name the unit column of the data"
            )
        steps = plan.dp.events(steps=rounds * plan.training.steps_per_round, size=plan.layout.size(trained=True))
        return (steps.at_site(records=units),)


class FreePurse(Purse):
    """Pays for queries that read no record: nothing. The ledger's head still travels, and its witnesses are noted."""

    def settle(self, plan: Plan) -> tuple[str, ...]:  # noqa: ARG002 - nothing is ever reserved
        """There is nothing to give back."""
        return ()

    def reserve(self, plan: Plan, *, number: int, attempt: int) -> str:
        """Name the query; the ledger does not learn of it."""
        return f"{_prefix(plan)}{number}:{attempt}"

    def afford(self, plan: Plan) -> None:
        """A canary is always affordable."""

    def commit(self, context: str) -> None:
        """Nothing was spent."""

    def release(self, context: str) -> None:
        """Nothing was set aside."""

    def queries(self, plan: Plan) -> int:  # noqa: ARG002 - none of them costs anything
        """Count none."""
        return 0


def _prefix(plan: Plan) -> str:
    """What every context of a plan begins with."""
    return f"{plan.sha256}:"
