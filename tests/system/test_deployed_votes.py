"""A coordinator and three sites as processes of their own, over TLS: rounds are voted on, and a run is rolled back."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rehearsed import daemons, loopback_deploy

from partsong.client.adapters.store import AdapterStore
from partsong.client.home.layout import SiteHome
from partsong.client.home.site_files import open_ledger
from partsong.common.adapters.adapter import digest
from partsong.server.adapter_file import read_adapter
from partsong.server.planning import epsilon_after
from partsong.server.run_files import RunFiles
from partsong.simulations.verify.run import verify

SITES = loopback_deploy.SITES
RUN = (
    f"model=local model.source={loopback_deploy.BASE} model.threads=1 max_length=64 "
    f"'expected_sites=[{','.join(SITES)}]' training.steps_per_round=1 privacy.epsilon=20 "
    "vote.mode=holdout vote.epsilon=40 vote.scale=0.01 vote.most_votes=30"
)
KEEPS = "rounds=2 training.learning_rate=0.01 vote.margin=1.0"
"""A loss may rise by a nat, which a hundredth on each weight cannot bring about."""
DROPS = "rounds=1 training.learning_rate=3.0 vote.margin=0.0"
"""AdamW's first step moves every weight by about the rate, whatever the noise: the adapter is ruined."""


@dataclass(frozen=True, kw_only=True)
class Voted:
    """Two runs: one that all sites vote for, one that all vote against."""

    rehearsal: Any
    kept: RunFiles
    dropped: RunFiles

    def stored(self, run: RunFiles) -> list[str]:
        """Digest of the trained part that each site keeps of a run."""
        homes = (SiteHome(site.folder / site.name) for site in self.rehearsal.sites)
        kept = (one for home in homes for one in AdapterStore(home.adapters).all())
        return [one.adapter for one in kept if one.run == run.read_plan().run]


def allow_votes(policy: Path) -> None:
    """Training with votes, without a person, at a price that leaves little noise."""
    tree = yaml.safe_load(policy.read_text())
    tree["holdings"]["records"]["epsilon"] = 1000
    tree["privacy"] = {"max_epsilon": 500, "min_noise_multiplier": 0.1}
    tree["data"] = {"minimum_patients": None, "minimum_records": 1, "vote": "allow"}
    tree["purposes"] = {"train": {"approval": "auto"}}
    policy.write_text(yaml.safe_dump(tree))


def history(run: RunFiles) -> list[dict[str, Any]]:
    """What each round has come to."""
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def published(run: RunFiles) -> str:
    """Digest of the trained part that is published."""
    return digest(read_adapter(run.adapter / "adapter_model.safetensors", run.read_plan().layout)[0])


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Voted]:
    """The page up to its daemons, then the two runs."""
    folder = tmp_path_factory.mktemp("votes")
    with daemons(folder, held_out=30, allow=allow_votes) as rehearsal:
        kept, dropped = (_run(rehearsal, f"{name} {RUN} {more}") for name, more in (("kept", KEEPS), ("lost", DROPS)))
        yield Voted(rehearsal=rehearsal, kept=kept, dropped=dropped)


def _run(rehearsal: Any, words: str) -> RunFiles:
    told = json.loads(rehearsal.hub.do(f"partsong coordinator run {words} --json --dir hub"))
    run = RunFiles(Path(rehearsal.hub.folder, told["path"]))
    _wait_for(rehearsal, lambda: json.loads((run.path / "state.json").read_text())["state"] in {"finished", "failed"})
    assert json.loads((run.path / "state.json").read_text())["state"] == "finished"
    return run


def _wait_for(rehearsal: Any, there: Callable[[], bool]) -> None:
    """As long as a run may take on a busy machine, and no longer than the coordinator lives."""
    rehearsal.running[0].wait_for(there, limit_s=loopback_deploy.RUN_LIMIT_S)


@pytest.mark.nightly
def test_every_second_round_is_a_vote_that_all_sites_are_in(voted: Voted) -> None:
    """Ninety records for, less the noise; every ledger has paid for training and votes, in one claim."""
    plan, told = voted.kept.read_plan(), history(voted.kept)

    votes = [entry["vote"] for entry in told if "vote" in entry]

    assert (plan.rounds, [vote["of"] for vote in votes], [vote["kept"] for vote in votes]) == (4, [1, 3], [True, True])
    assert all(abs(vote["votes"] - 90) < 9 * vote["noise_sd"] + 1 for vote in votes)
    assert all(set(entry["sites"]) == set(SITES) for entry in told)
    assert published(voted.kept) != plan.start_sha256
    assert verify(voted.kept.path).wrong == ()


@pytest.mark.nightly
def test_a_round_that_is_voted_down_is_undone_at_every_site(voted: Voted) -> None:
    """What is published and stored is the start, which a control run that was voted for is not."""
    plan = voted.dropped.read_plan()
    (vote,) = (entry["vote"] for entry in history(voted.dropped) if "vote" in entry)

    stored = voted.stored(voted.dropped)

    assert (vote["of"], vote["kept"]) == (1, False)
    assert vote["votes"] < -45
    assert [published(voted.dropped), *stored] == [plan.start_sha256] * (1 + len(SITES))
    assert verify(voted.dropped.path).wrong == ()


@pytest.mark.nightly
def test_every_ledger_has_paid_for_training_and_votes(voted: Voted) -> None:
    """A committed claim for each query, of a vote as of training, within what the plans state together."""
    plans = [voted.kept.read_plan(), voted.dropped.read_plan()]
    stated = sum(epsilon_after(plan, plan.rounds) or 0.0 for plan in plans)

    for site in voted.rehearsal.sites:
        with contextlib.closing(open_ledger(site.folder / site.name)) as ledger:
            purposes = [claim.purpose for claim in ledger.holding("records").claims.values()]
            assert purposes == ["train"] * sum(plan.rounds for plan in plans)
            assert not ledger.outstanding()
            assert 0 < ledger.spent("records").epsilon <= stated


@pytest.mark.nightly
def test_a_rollback_reaches_sites_that_are_connected(voted: Voted) -> None:
    """To the adapter after the first vote: the coordinator publishes it, and each site stores what it once computed.

    Going to the last round again takes it back.
    """
    run = voted.kept
    last, rounds = published(run), run.read_plan().rounds
    assert voted.stored(run) == [last] * len(SITES)

    for number in (2, rounds):
        voted.rehearsal.hub.do(f"partsong coordinator rollback {run.path.name} {number} --dir hub")

        now = published(run)
        assert (now == last) == (number == rounds)
        _wait_for(voted.rehearsal, lambda now=now: voted.stored(run) == [now] * len(SITES))
        assert verify(run.path).wrong == ()
