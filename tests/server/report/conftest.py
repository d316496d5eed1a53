"""Facts of a small made-up run, signed and not."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partsong.common.config import TrainingConfig
from partsong.common.identity.charter import Charter, Member
from partsong.common.identity.keys import Identity
from partsong.common.privacy.terms import SumNoise
from partsong.server.report.facts import Facts, RoundFacts
from partsong.server.report.gather import facts_of
from partsong.server.report.signed import SignedFacts, sign_facts
from partsong.server.report.sources import Ending, Sources

SITES = ("bonn", "graz", "lyon")
COORDINATOR = Identity(bytes(range(32)))


def _entry(number: int, **changes: Any) -> RoundFacts:
    values: dict[str, Any] = {
        "round": number, "sites": SITES, "lost": {}, "reason": "", "loss": 2.5 / number, "epsilon": 0.5 * number,
        "bytes_out": dict.fromkeys(SITES, 1000), "held_out_loss": None, "held_out_exact": None,
    }  # fmt: skip
    return RoundFacts(**values | changes)


@pytest.fixture
def entry() -> Callable[..., RoundFacts]:
    """A round of all three sites, with these changes."""
    return _entry


@pytest.fixture
def charter() -> Charter:
    """Three sites and a coordinator."""
    keys = {site: Identity(bytes([number] * 32)).public_key.hex() for number, site in enumerate(SITES, start=1)}
    return Charter(
        consortium="rhein", version=1, previous=None, suite="A", coordinator=COORDINATOR.public_key.hex(),
        sites=tuple(Member(id=site, key=key) for site, key in keys.items()),
        minimum_cohort=3, minimum_honest=3, corrupt_tolerance=0,
    )  # fmt: skip


@pytest.fixture
def sources(make_plan: Callable[..., Any], make_dp: Callable[..., Any], charter: Charter) -> Callable[..., Sources]:
    """A private masked run of two rounds, with these changes."""

    def make(**changes: Any) -> Sources:
        ending = Ending(
            base_name="tiny", config_sha256="c" * 64, marks=(), checked_by=SITES[:2], adapter_sha256="a" * 64
        )  # fmt: skip
        values: dict[str, Any] = {
            "plan": make_plan(masked=True, dp=make_dp()), "charter": charter, "rounds": (_entry(1), _entry(2)),
            "opened_rounds": 2, "versions": {"partsong": "0.1"}, "refused": {}, "simulated": False, "ending": ending,
        }  # fmt: skip
        return Sources(**values | changes)

    return make


@pytest.fixture
def facts(sources: Callable[..., Sources]) -> Facts:
    """Of a private masked run."""
    return facts_of(sources())


@pytest.fixture
def together(sources: Callable[..., Sources], make_plan: Callable[..., Any], make_dp: Callable[..., Any]) -> Facts:
    """Of a run whose sites brought their noise together."""
    shared = SumNoise(minimum_sum=4, colluders=1, expected_batch=20.0)
    dp, training = make_dp(noise="discrete", on_sum=shared), TrainingConfig(steps_per_round=1, optim="sgd")
    return facts_of(sources(plan=make_plan(masked=True, dp=dp, training=training)))


@pytest.fixture
def not_private(
    sources: Callable[..., Sources], make_plan: Callable[..., Any], entry: Callable[..., RoundFacts]
) -> Facts:
    """Of an unmasked simulation without privacy that scored held-out records."""
    rounds = (entry(1, epsilon=None, held_out_loss=1.25, held_out_exact=0.5),)
    ending = dataclasses.replace(sources().ending, checked_by=(), marks=("NOT PRIVATE: so",))
    return facts_of(
        sources(plan=make_plan(), charter=None, rounds=rounds, opened_rounds=1, simulated=True, ending=ending)
    )


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A published directory of two files."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "README.md").write_text("card")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def sign(adapter: Path) -> Callable[[Facts], SignedFacts]:
    """Sign facts with the coordinator's key, where the charter names one."""
    return lambda found: sign_facts(found, adapter=adapter, signer=COORDINATOR if found.charter else None)
