"""What a plan's queries are answered with, and what they are paid from.

Covers: a canary gets neither records nor model; a plan that trains or evaluates pays from the site's holding, counted
as the records it reads were when it was taken up; an evaluation reads the test records and no others, a plan whose
rounds are voted on reads both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.spending import FreePurse, Purse
from partsong.client.daemon.records import SiteRecords, Snapshot
from partsong.client.encoders.canary import CanaryEncoder
from partsong.client.encoders.encoder import Encoder
from partsong.client.encoders.lazy import LazyEvaluation, LazyLora, LazyModel, LazySurvey, LazyVoting
from partsong.client.encoders.resident import ResidentModel
from partsong.client.rules.consent import NotAgreed, Rules
from partsong.common import canary
from partsong.common.deployment import SiteConfig
from partsong.common.errors import InputError
from partsong.common.plan import Plan

_LAZY: dict[str, type[LazyLora | LazyEvaluation | LazySurvey]] = {
    "train": LazyLora,
    "evaluate": LazyEvaluation,
    "survey": LazySurvey,
}
"""What answers the queries of each study that reads records."""


L = TypeVar("L", bound=LazyModel)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Of one plan."""

    encoder: Encoder
    purse: Purse


class Works(Protocol):
    """Makes the work of every plan of one site."""

    @property
    def has_changed(self) -> bool:
        """Whether the records are others than those of the plans that were taken up."""
        ...

    def work_of(self, plan: Plan) -> Work:
        """Give encoder and purse of a plan.

        Raises:
            NotAgreed: the site has not what it takes.
        """
        ...

    def check_readable(self) -> None:
        """Look whether records are there, without reading them.

        Raises:
            DataError: they are not.
        """
        ...


class Workshop:
    """Makes the work of every plan of one site."""

    def __init__(
        self, config: SiteConfig, *, rules: Rules, ledger: Ledger, coordinator: str, resident: ResidentModel
    ) -> None:
        """Load and read nothing yet.

        Args:
            config: of the site.
            rules: of its policy; a plan that breaks its limits gets no model.
            ledger: of the site.
            coordinator: fingerprint of the coordinator's key.
            resident: the base model.
        Raises:
            ConfigError: the configuration names no records.
        """
        self._config, self._rules, self._resident = config, rules, resident
        self._ledger, self._coordinator = ledger, coordinator
        self.records = SiteRecords(config.data)
        held_out = config.data.held_out
        self.tests = None if held_out is None else SiteRecords(replace(config.data, path=held_out))

    @property
    def has_changed(self) -> bool:
        """Whether the records' files have changed since they were read."""
        return self.records.has_changed or (self.tests is not None and self.tests.has_changed)

    def check_readable(self) -> None:
        """Look whether the records' files are there."""
        self.records.check_readable()

    def work_of(self, plan: Plan) -> Work:
        """Give encoder and purse of a plan; the records are read, where it asks for them.

        Raises:
            NotAgreed: `data`: the records cannot be read.
        """
        if plan.study == canary.STUDY:
            free = FreePurse(
                self._ledger, holding=self._config.holding, fingerprint="", units={}, coordinator=self._coordinator
            )
            return Work(encoder=CanaryEncoder(site=self._config.name), purse=free)
        records = self._snapshot(plan)
        encoder = self._lazy(_LAZY[plan.study], records)
        if plan.vote is not None:
            encoder = LazyVoting(encoder, tests=self._lazy(LazyLora, self._read(self.tests)))
        purse = Purse(
            self._ledger,
            holding=self._config.holding,
            fingerprint=records.fingerprint,
            units=records.units,
            coordinator=self._coordinator,
            only=plan.sha256,
            survey_first=self._rules.survey_first,
        )
        return Work(encoder=encoder, purse=purse)

    def _snapshot(self, plan: Plan) -> Snapshot:
        """Read what the plan is about: the records, or those that are kept for testing."""
        return self._read(self.tests if plan.study == "evaluate" else self.records)

    def _lazy(self, kind: type[L], records: Snapshot) -> L:
        return kind(
            model=self._config.model,
            data=self._config.data,
            rules=self._rules,
            records=records,
            resident=self._resident,
        )

    def _read(self, source: SiteRecords | None) -> Snapshot:
        if source is None:
            raise NotAgreed("data", "no records are kept for testing here", rule="data.held_out")
        try:
            return source.snapshot()
        except InputError as err:
            raise NotAgreed("data", str(err), rule="data") from err
