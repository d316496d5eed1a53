"""Failure capsules on their way: from a site that allows it, beside its answer, to `explain`; from no other site."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from partsong.client.daemon.failure_book import FailureBook
from partsong.client.daemon.releasing import releasing
from partsong.client.secure_sum.door import Answer
from partsong.common import wire
from partsong.common.capsule import Environment, decode, encode, make_capsule
from partsong.common.capsule_shelf import CapsuleShelf
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.control.feed import Feed
from partsong.common.deployment import SiteConfig
from partsong.server.daemon.capsules import MOST_OF_A_SITE, KeepingCapsules
from partsong.server.daemon.deployed_run import DeployedRun
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss

AROUND = Environment(
    python="3.11.7", system="Linux", machine="x86_64", versions={}, gpu=False, memory_gb=16, disk_gb=64
)  # fmt: skip
SECRET = "patient Smith, 2021-03-04"
CONFIG = SiteConfig(name="north", coordinator="localhost:7443", model=ModelConfig(source="x"), data=DataConfig())
REFUSAL = wire.encode(wire.Refuse(site="north", code="state"))


def capsule_of(*, site: str = "north", run: str = "run-1") -> bytes:
    return encode(make_capsule(ValueError(SECRET), site=site, run=run, phase="answer", environment=AROUND))


class Sites:
    """Answers every address alike."""

    def __init__(self, answer: Parcel | Loss) -> None:
        self.answer = answer

    def addresses(self) -> tuple[int, ...]:
        return (1,)

    def site_at(self, address: int) -> str | None:
        return "north" if address == 1 else None

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        yield from dict.fromkeys(parcels, self.answer).items()


def heard(run: DeployedRun, answer: Parcel | Loss, *, address: int = 1) -> list[Parcel | Loss]:
    """What a run hears of this answer."""
    keeping = KeepingCapsules(Sites(answer), run)
    asked = {address: Parcel(header=b"h")}
    return [got for _, got in keeping.ask(asked, phase="open", timeout_s=1)]


@pytest.fixture
def run(tmp_path: Path) -> DeployedRun:
    """A run that is only a folder."""
    return DeployedRun(tmp_path / "run-1")


def test_a_capsule_beside_a_refusal_is_kept_and_the_run_hears_of_a_failure(run: DeployedRun) -> None:
    """As if the site had said nothing but that it failed."""
    capsule = capsule_of()

    got = heard(run, Parcel(header=REFUSAL, note=capsule))

    assert got == [Loss.FAILED]
    assert CapsuleShelf(run.capsules).of_run("run-1") == (decode(capsule),)


@pytest.mark.parametrize(
    "answer",
    [
        Parcel(header=REFUSAL),
        Parcel(header=REFUSAL, note=b"{}"),
        Parcel(header=REFUSAL, note=b"x" * 100_000),
        Parcel(header=REFUSAL, note=capsule_of(site="south")),
        Parcel(header=REFUSAL, note=capsule_of(run="run-2")),
        Parcel(header=wire.encode(wire.Accept(site="north", plan_sha256="a" * 64)), note=capsule_of()),
        Parcel(header=b"no header", note=capsule_of()),
        Loss.FAILED,
    ],
    ids=["none", "no capsule", "too long", "another site", "another run", "no refusal", "no message", "a loss"],
)
def test_whatever_else_is_handed_over_as_it_came(run: DeployedRun, answer: Parcel | Loss) -> None:
    """And nothing is kept of it."""
    got = heard(run, answer)

    assert got == [answer]
    assert CapsuleShelf(run.capsules).ids() == ()


def test_of_an_address_without_a_site_nothing_is_kept(run: DeployedRun) -> None:
    """Nobody has signed for it."""
    answer = Parcel(header=REFUSAL, note=capsule_of())

    assert heard(run, answer, address=2) == [answer]
    assert CapsuleShelf(run.capsules).ids() == ()


def test_one_site_leaves_only_so_many(run: DeployedRun) -> None:
    """So the others' stay; each is another capsule, with an id of its own."""
    sites = Sites(Loss.FAILED)
    keeping = KeepingCapsules(sites, run)

    for _ in range(MOST_OF_A_SITE + 3):
        sites.answer = Parcel(header=REFUSAL, note=capsule_of())
        ((_, got),) = keeping.ask({1: Parcel(header=b"h")}, phase="open", timeout_s=1)
        assert got is Loss.FAILED

    assert len(CapsuleShelf(run.capsules).ids()) == MOST_OF_A_SITE


@pytest.mark.parametrize("allowed", [True, False])
def test_a_failure_leaves_a_site_as_a_capsule_only_where_it_is_allowed(
    tmp_path: Path, make_plan: Any, *, allowed: bool
) -> None:
    """Named by the plan's run, without a word of what failed; by default the error stays in the process."""
    failures = FailureBook(tmp_path / "capsules", site="north", feed=Feed(), clock=lambda: 1.0)
    header = wire.encode(wire.Propose(plan=make_plan()))

    def fails(_header: bytes, **_rest: bytes) -> Answer:
        raise ValueError(SECRET)

    config = dataclasses.replace(CONFIG, release_capsules=allowed)
    answer = releasing(fails, config=config, failures=failures, plans=tmp_path / "plans")
    if not allowed:
        with pytest.raises(ValueError, match="Smith"):
            answer(header)
        assert failures.newest() == ()
        return

    found = answer(header)

    capsule = decode(found.note)
    assert wire.decode(found.header, wire.Refuse) == wire.Refuse(site="north", code="state")
    assert (capsule.site, capsule.run, capsule.errors) == ("north", "run-1", ("ValueError",))
    assert b"Smith" not in found.note
    assert failures.newest() == (capsule.id,)


def test_an_answer_goes_out_as_it_is(tmp_path: Path) -> None:
    """A refusal by the site's rules has no capsule, whatever is allowed."""
    failures = FailureBook(tmp_path / "capsules", site="north", feed=Feed(), clock=lambda: 1.0)
    config = dataclasses.replace(CONFIG, release_capsules=True)
    answer = releasing(
        lambda _header, **_rest: Answer(header=REFUSAL), config=config, failures=failures, plans=tmp_path
    )

    assert answer(b"h", vector=b"", note=b"") == Answer(header=REFUSAL)
    assert failures.newest() == ()
