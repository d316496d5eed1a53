"""Sites of a simulated federation that have a policy, and persons who decide."""

from collections.abc import Callable
from pathlib import Path

import pytest

from partsong.client.rules.approval import Approvals
from partsong.common import events
from partsong.common.config import SimulationConfig
from partsong.server.coordinator import RunNotStarted
from partsong.simulations.federation import (
    Federation,
    Result,
)
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir

Configure = Callable[..., SimulationConfig]

Play = Callable[..., Result]

POLICY = """
holdings: {records: {epsilon: EPSILON, delta: 1e-3}}
purposes: {train: {approval: APPROVAL}}
privacy: {max_delta: 1e-3}
data: {minimum_records: 10, minimum_patients: null}
adapter: {bases: [BASE], target_modules: [q_proj, v_proj]}
"""


@pytest.fixture
def policy(configured: Configure, tmp_path: Path) -> Callable[..., str]:
    """An override that gives every site this policy."""

    def write(*, epsilon: float = 8.0, approval: str = "auto") -> str:
        base = prepare(configured()).host.files.sha256
        text = POLICY.replace("EPSILON", str(epsilon)).replace("APPROVAL", approval).replace("BASE", base)
        (tmp_path / "policy.yaml").write_text(text)
        return f"site_policy={tmp_path / 'policy.yaml'}"

    return write


PRIVATE = ("privacy=dp", "privacy.epsilon=3", "privacy.delta=1e-3", "seed=null")


def test_sites_enforce_the_policy_that_they_are_given(play: Play, policy: Callable[..., str]) -> None:
    """A plan inside it is run; one that costs more than the holding ever may is refused before a record is read."""
    assert len(play(*PRIVATE, policy()).history) == 2

    with pytest.raises(RunNotStarted, match=r"site-1: budget; site-2: budget; site-3: budget"):
        play(*PRIVATE, policy(epsilon=1.0))


def test_a_plan_that_waits_for_a_person_goes_on_when_all_have_approved(
    configured: Configure, policy: Callable[..., str]
) -> None:
    """Manual approval: refused at first, then, by the hash of this one plan, accepted on resume."""
    config = configured(*PRIVATE, policy(approval="manual"))
    run, prepared = RunDir.create(config, marks=()), prepare(config)
    with pytest.raises(RunNotStarted, match="site-1: state"):
        Federation(prepared, run).run()

    for name in prepared.sites:
        approvals = Approvals(run.site_folder(name) / "approvals")
        (waiting,) = approvals.all()
        approvals.decide(waiting.plan_sha256, "approved")

    assert len(Federation(prepared, run).run().history) == 2


@pytest.mark.parametrize("withdrawn", [True, False])
def test_an_approval_that_is_withdrawn_stops_the_next_query(
    configured: Configure, policy: Callable[..., str], *, withdrawn: bool
) -> None:
    """Between two rounds an operator changes their mind; the control leaves the approval as it is."""
    config = configured(*PRIVATE, policy(), "sites=5")
    run = RunDir.create(config, marks=())

    def listen(event: events.Event) -> None:
        if withdrawn and isinstance(event, events.RoundOpened) and event.round == 2:
            approvals = Approvals(run.site_folder("site-3") / "approvals")
            approvals.decide(approvals.all()[0].plan_sha256, "refused")

    history = Federation(prepare(config), run, listen=listen).run().history

    assert history[1]["lost"] == ({"site-3": "refused"} if withdrawn else {})
