"""A canary asked for at a coordinator: carried out over site daemons, judged by its sum, never behind a run."""

import dataclasses
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_fleet import NAMES, Fleet
from office import Office

from partsong.client.encoders.encoder import LocalUpdate
from partsong.common.deployment import CanaryConfig
from partsong.common.errors import ConfigError, DataError, PartsongError
from partsong.common.identity.charter import SignedCharter, sign_as_coordinator, sign_as_site
from partsong.server.daemon.canary_job import FILE, CanaryJob, CanaryWrong, read_canary, require_right
from partsong.server.daemon.carry import Pace
from partsong.server.daemon.daemon import CoordinatorDaemon
from partsong.server.daemon.deployed_run import DeployedRun
from partsong.server.daemon.explain import explain
from partsong.server.doctor.canary import last_canary
from partsong.server.exchange import Parcel
from partsong.server.membership.home import CoordinatorHome
from partsong.server.rounds import Loss
from partsong.server.run import Result
from partsong.simulations.configure import compose_canary


class Wires:
    """Stands where the superlink does: five site daemons in this process."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.there = fleet, list(NAMES)

    def connected(self) -> tuple[str, ...]:
        return tuple(self.there)

    def exchange(self, *, run: str, signer: object, identity_keys: Mapping[str, bytes]) -> "Wires":
        return self

    def addresses(self) -> tuple[int, ...]:
        return tuple(NAMES.index(name) for name in self.there)

    def site_at(self, address: int) -> str:
        return NAMES[address]

    def ask(
        self, parcels: Mapping[int, Parcel], *, phase: str, timeout_s: float
    ) -> Iterator[tuple[int, Parcel | Loss]]:
        for address, parcel in parcels.items():
            daemon = self.fleet.sites[NAMES[address]].daemon
            try:
                answer = daemon.answer(parcel.header, vector=parcel.vector, note=parcel.note)
            except PartsongError:
                yield address, Loss.FAILED
            else:
                yield address, Parcel(header=answer.header, vector=answer.vector, note=answer.note)


class Asking:
    """A coordinator's daemon on a directory, wired to a fleet."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.wires, self.home, self.folder = Wires(fleet), CoordinatorHome(folder / "hub"), folder
        charter, signer = fleet.charter, fleet.trust.signer
        signed = SignedCharter(
            charter=charter,
            coordinator_signature=sign_as_coordinator(charter, signer),
            site_signatures={
                name: sign_as_site(charter, site_id=name, signer=site.signer) for name, site in fleet.sites.items()
            },
        )
        self.daemon = CoordinatorDaemon(
            self.home, self.wires, signer=signer, charter=lambda: signed, pace=Pace(settle_s=0.0, retry_s=0.0)
        )

    def canary(self, **settings: Any) -> DeployedRun:
        """Ask for one and carry it out."""
        job = self.folder / f"job-{len(list(self.folder.iterdir()))}"
        CanaryJob(config=CanaryConfig(**{"numbers": 30, "start_timeout_s": 0.01} | settings)).write(job)
        run = self.daemon.submit(job)
        assert self.daemon.step("canaries")
        return run


@pytest.fixture
def asking(fleet: Fleet, tmp_path: Path) -> Asking:
    """Five site daemons, and a coordinator that is wired to them."""
    (tmp_path / "asking").mkdir()
    return Asking(fleet, tmp_path / "asking")


def test_a_canary_ends_well_when_its_sum_is_that_of_its_sites(asking: Asking) -> None:
    """All five are in it and found it right; there is no adapter, and nobody is offered one."""
    run = asking.canary()

    assert run.told().state == "finished", run.told().reason
    assert (run.told().reason, run.adapter.exists()) == ("", False)
    assert [(found.site, found.rounds, found.checked) for found in explain(run)] == [(n, (1,), True) for n in NAMES]
    assert not asking.daemon.step()
    assert last_canary(asking.home.runs).state == "right"


def test_without_a_site_the_others_sum_is_still_judged(asking: Asking) -> None:
    """Four of five; where the fifth is expected the canary fails, and names it."""
    asking.wires.there.remove("b")

    run, strict = asking.canary(), asking.canary(expected_sites=("b",))

    assert run.told().state == "finished"
    assert json.loads(run.metrics.read_text())["sites"] == ["a", "c", "d", "e"]
    assert strict.told().state == "failed"
    assert "missing: b" in strict.told().reason
    assert last_canary(asking.home.runs).state == "wrong"


def test_one_wrong_number_of_one_site_fails_the_canary(asking: Asking) -> None:
    """The control: a site whose vector is off by one in one place."""
    encoder = asking.wires.fleet.sites["c"].daemon.works.work.encoder
    honest = encoder.encode

    def lies(*plan: Any, **asked: Any) -> LocalUpdate:
        update = honest(*plan, **asked)
        off_P = update.update_P.copy()
        off_P[7] += 1.0 if off_P[7] < 0 else -1.0
        return dataclasses.replace(update, update_P=off_P)

    encoder.encode = lies

    run = asking.canary()

    assert run.told().state == "failed"
    assert "found 1 of 30 numbers of the sum of a, b, c, d, e that are not theirs" in run.told().reason
    assert last_canary(asking.home.runs).reason == run.told().reason


def test_a_sum_with_nan_is_wrong(asking: Asking) -> None:
    """Every comparison with it is false, so the check asks for right numbers, not for wrong ones."""
    run = asking.canary()
    plan = run.read_plan()
    history = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    nothing_P = np.full(30, np.nan, np.float32)

    with pytest.raises(CanaryWrong, match="found 30 of 30"):
        require_right(
            Result(
                plan=plan, trained_P=nothing_P, frozen_F=nothing_P[:0], history=history, epsilon=None, secure_sum=None
            )
        )


def test_a_canary_does_not_wait_for_the_run_before_it(asking: Asking, tmp_path: Path) -> None:
    """While a run waits for a site that never comes, a canary is asked for, carried out and done."""
    daemon, runs = asking.daemon, asking.home.runs
    (tmp_path / "office").mkdir()
    job = Office.job(_Desk(tmp_path / "office"), expected_sites=("b",))
    asking.wires.there.remove("b")
    CanaryJob(config=CanaryConfig(numbers=5)).write(tmp_path / "canary")
    told = threading.Event()
    daemon.feed.tell = lambda *_args, **facts: told.set() if facts.get("state") == "finished" else None

    run = daemon.submit(job)
    daemon.start()
    try:
        canary = daemon.submit(tmp_path / "canary")
        assert told.wait(60)
    finally:
        daemon.close()

    assert (canary.told().state, run.told().state) == ("finished", "waiting")
    assert sorted(path.name for path in runs.iterdir()) == sorted((run.name, canary.name))


def test_in_the_lane_of_runs_it_would_wait(asking: Asking, tmp_path: Path) -> None:
    """The control: that lane never takes it."""
    CanaryJob(config=CanaryConfig(numbers=5)).write(tmp_path / "canary")
    run = asking.daemon.submit(tmp_path / "canary")

    assert not asking.daemon.step("runs")

    assert run.told().state == "waiting"


@pytest.mark.parametrize(
    "text", [b"numbers: 0\n", b"numbers: five\n", b"colour: red\n", b"numbers: 5\nx: [", b"\xff", b"expected_sites: [a, a]"]
)  # fmt: skip
def test_a_canary_that_cannot_be_is_refused_and_leaves_nothing(asking: Asking, tmp_path: Path, text: bytes) -> None:
    """Out of range, of another type, unknown, not YAML, not text, twice the same."""
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / FILE).write_bytes(text)

    with pytest.raises(DataError, match=r"canary\.yaml"):
        asking.daemon.submit(tmp_path / "job")

    assert not list(asking.home.runs.glob("*"))


def test_a_canary_of_a_stranger_is_refused(asking: Asking, tmp_path: Path) -> None:
    """A site that is in no charter cannot be expected."""
    CanaryJob(config=CanaryConfig(expected_sites=("z",))).write(tmp_path / "job")

    with pytest.raises(ConfigError, match=r"expected_sites: found 'z'"):
        asking.daemon.submit(tmp_path / "job")


def test_settings_on_the_command_line_reach_the_job(tmp_path: Path) -> None:
    """And a typing error is answered with the closest key."""
    config = compose_canary(["numbers=7", "expected_sites=[a]"])
    CanaryJob(config=config).write(tmp_path / "job")

    assert read_canary(tmp_path / "job").config == CanaryConfig(numbers=7, expected_sites=("a",))
    with pytest.raises(ConfigError, match="numbers"):
        compose_canary(["numbrs=7"])


class _Desk:
    """What `Office.job` uses of an office."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, 0
