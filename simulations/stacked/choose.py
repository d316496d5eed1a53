"""From a configuration to sites that train together, or to the reason why they cannot."""

from __future__ import annotations

from functools import partial

from partsong.client.encoders.encoder import Encoder, LocalRound, LocalUpdate
from partsong.client.encoders.lora import LoraTraining
from partsong.client.rules.consent import Facts
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError
from partsong.common.plan import Plan
from partsong.common.simulated import ANY_RANK
from partsong.simulations.prepare import Prepared
from partsong.simulations.stacked.company import Company
from partsong.simulations.stacked.layers import owners
from partsong.simulations.stacked.train import Job, train_together


class StackedTraining:
    """An encoder that has its site's round trained in company."""

    resumes = False

    def __init__(self, alone: LoraTraining, company: Company) -> None:
        """Stand in for `alone`."""
        self._alone, self._company = alone, company

    def facts(self, plan: Plan) -> Facts:
        """Say what the site says alone."""
        return self._alone.facts(plan)

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """Train for one round; see `train_together` for guarantees and errors."""
        return self._company.join(
            Job(
                plan=asked.plan,
                number=asked.number,
                frozen_F=asked.frozen_F,
                adapter_P=asked.adapter_P,
                records=self._alone.records,
                randomness=asked.randomness,
                on_step=asked.on_step,
            )
        )


def company_of(prepared: Prepared) -> Company | None:
    """Give the company of the sites of this process; None where each trains alone."""
    if prepared.config.engine.stacked == 1:
        return None
    return Company(partial(train_together, prepared.host), most=prepared.config.engine.stacked)


def in_company(company: Company | None, encoder: Encoder) -> Encoder:
    """Let an encoder that trains do so in company."""
    return StackedTraining(encoder, company) if company and isinstance(encoder, LoraTraining) else encoder


def require_stackable(prepared: Prepared) -> None:
    """Refuse a configuration whose sites would not train together as they do alone.

    Raises:
        ConfigError: it asks for something that has no stacked form.
        ModelError: the model's trained layers have none.
    """
    config = prepared.config
    if config.engine.stacked == 1:
        return
    if (obstacle := _obstacle(config)) is not None:
        key, found, expected = obstacle
        raise ConfigError(
            key, found=f"{found} with engine.stacked={config.engine.stacked}", expected=expected,
            remedy="engine.stacked=1",
        )  # fmt: skip
    owners(prepared.host.model, prepared.host.trainable())


def _obstacle(config: SimulationConfig) -> tuple[str, str, str] | None:
    """Name the first key that stands in the way, what it says, and what it would have to say."""
    if config.privacy.mode == "dp":
        return "privacy.mode", "dp", "none: private steps are taken by each site alone"
    if config.purpose != "train":
        return "purpose", config.purpose, "train: nothing else takes steps"
    if config.vote.mode != "off":
        return "vote.mode", config.vote.mode, "off: sites vote one by one"
    if config.adapter.method in ANY_RANK:
        return "adapter.method", config.adapter.method, "a method that trains one rank at all sites"
    return None
