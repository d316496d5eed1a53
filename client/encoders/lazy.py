"""Trains an adapter as `lora` does, or evaluates one, with a model that is built for the plan on first need.

Covers: no model is built for a plan that breaks the site's limits, so a coordinator cannot fill the memory with an
adapter of its own size; a model that does not fit the plan is never trained.
Does not cover: the plan's privacy terms and budget (consent and ledger).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from partsong.client.daemon.records import Snapshot
from partsong.client.data.encode import Encoded
from partsong.client.data.personal import has_details, require_libraries
from partsong.client.encoders.encoder import LocalRound, LocalUpdate
from partsong.client.encoders.resident import ResidentModel
from partsong.client.encoders.rouge import require_library
from partsong.client.rules.consent import Facts, NotAgreed, Rules, check_limits
from partsong.common.adapters.adapter import AdapterLayout
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.errors import InputError, Refused
from partsong.common.plan import Plan

if TYPE_CHECKING:  # torch comes with it
    from partsong.client.encoders.lora import LoraTraining
    from partsong.client.model.host import ModelHost


class LazyModel:
    """Records, and the place of a model that a plan needs to answer its queries with."""

    def __init__(
        self, *, model: ModelConfig, data: DataConfig, rules: Rules, records: Snapshot, resident: ResidentModel
    ) -> None:
        """Hold records and the place of a model; nothing is loaded.

        Args:
            model: of the site; its task is the only one that is answered.
            data: of the site; `max_length` is the most that is taken of a record, `labels` the classes that are
                allowed, where it names any.
            rules: limits that a plan has to keep before a model is built.
            records: of the site, as they were when the plan was taken up.
            resident: shared by all plans.
        """
        self.model, self.data, self.rules = model, data, rules
        self.records, self.resident = records, resident
        self._encoded: tuple[str, Encoded] | None = None

    def facts(self, plan: Plan) -> Facts:
        """Say what the site has for this plan. Builds the model, unless the plan is refused without one.

        Raises:
            NotAgreed: `model`: the base model cannot have the plan's adapter.
        """
        bare = Facts(
            records=self.records.count,
            base_sha256=self.resident.sha256,
            layout=AdapterLayout(tensors=()),
            labels=self.data.labels or plan.labels,
            patients=self.records.patients,
            max_length=min(plan.max_length, self.data.max_length),
        )
        try:
            check_limits(plan, self.rules)
        except NotAgreed:
            return bare
        if plan.task != self.model.task:
            raise NotAgreed("model", f"the plan is for {plan.task}, this site has a {self.model.task}", rule="task")
        if (plan.base_sha256, plan.labels, plan.max_length) != (bare.base_sha256, bare.labels, bare.max_length):
            return bare
        host = self.resident.host_for(plan)
        return replace(bare, layout=host.layout, lora=host.lora_options)

    def ready(self, plan: Plan) -> tuple[ModelHost, Encoded]:
        """Give the resident model, which is built anew where another plan had its turn, and the tokenised records.

        Nothing here holds on to the model: else it could not make room for another plan's.

        Raises:
            NotAgreed: `model` or `data`: they do not fit the plan.
        """
        host = self.resident.host_for(plan)
        if self._encoded is None or self._encoded[0] != plan.sha256:
            data = replace(self.data, labels=plan.labels, max_length=plan.max_length)
            try:
                encoded = self.records.encoded(host.tokenizer, data, task=plan.task)
            except (InputError, Refused) as err:
                raise NotAgreed("data", str(err), rule="data") from err
            self._encoded = plan.sha256, encoded
        return host, self._encoded[1]


class LazyLora(LazyModel):
    """The encoder of training queries at a site's daemon."""

    resumes = True

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Train for the steps of one round that are left; see `LoraTraining.encode`."""
        return self._training(asked.plan).encode(asked)

    def _training(self, plan: Plan) -> LoraTraining:
        from partsong.client.encoders.lora import LoraTraining  # noqa: PLC0415 - torch, on first need

        host, encoded = self.ready(plan)
        return LoraTraining(host=host, encoded=encoded, labels=plan.labels)


class LazyVoting(LazyLora):
    """The encoder at a site's daemon of plans whose rounds are voted on, by records that the site keeps for testing."""

    def __init__(self, training: LazyModel, tests: LazyModel) -> None:
        """Train on the records of one, vote by those of the other."""
        super().__init__(
            model=training.model,
            data=training.data,
            rules=training.rules,
            records=training.records,
            resident=training.resident,
        )
        self._tests = tests

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Train for one round, or vote on the one before it; see `Voting.encode`."""
        if not asked.plan.is_vote(asked.number):
            return super().encode(asked)
        from partsong.client.encoders.vote import Booth, cast_votes  # noqa: PLC0415 - torch, on first need

        host, encoded = self._tests.ready(asked.plan)
        return cast_votes(Booth(host=host, encoded=encoded), asked)


class LazySurvey(LazyModel):
    """The encoder of survey queries at a site's daemon. The model is loaded for its tokenizer; it is not asked."""

    resumes = False

    def facts(self, plan: Plan) -> Facts:
        """Say what the site has for this plan; see `LazyModel.facts`.

        Raises:
            NotAgreed: `data`: the plan asks for personal details, and what finds them is not installed.
        """
        require_libraries(plan.question)
        return LazyModel.facts(self, plan)

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Answer a round's question; see `Survey.encode`."""
        from partsong.client.encoders.survey import Survey  # noqa: PLC0415 - torch, on first need

        table, region = self.records.table, self.data.phone_region
        survey = Survey(
            facts=self.facts,
            records=lambda plan: self.ready(plan)[1],
            groups=table.groups(self.data),
            personal=lambda place: has_details(table.rows[place], region=region),
        )
        return survey.encode(asked)


class LazyEvaluation(LazyModel):
    """The encoder of evaluation queries at a site's daemon; its records are those that the site keeps for testing."""

    resumes = False

    def facts(self, plan: Plan) -> Facts:
        """Say what the site has for this plan; see `LazyModel.facts`.

        Raises:
            NotAgreed: `model`: the plan asks for ROUGE-L, and the library is not installed.
        """
        require_library(plan.question)
        return LazyModel.facts(self, plan)

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Answer a round's question; see `Evaluation.encode`."""
        from partsong.client.encoders.evaluation import Evaluation  # noqa: PLC0415 - torch, on first need

        host, encoded = self.ready(asked.plan)
        groups = self.records.table.groups(self.data)
        return Evaluation(host=host, encoded=encoded, labels=asked.plan.labels, groups=groups).encode(asked)
