"""A run over the real public port: mutual TLS, signed messages, and sites in threads of their own."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fleet_site import FleetSite
from office import NAMES, Office
from transport_fixtures import make_port

from partsong.client.app import make_remote_app
from partsong.common.identity.envelope import SiteEnvelope
from partsong.common.plan import Plan
from partsong.server.exchange import Parcel
from partsong.simulations.verify.run import verify

ROUNDS = 2
MESSAGES = 1 + 4 + 4 * ROUNDS + 1 + 2
"""To each site: the plan, set-up, the rounds, the last sum, the offer and the adapter."""


def app_of(office: Office, name: str, errors: list[Exception]) -> Any:
    """A site's app: what a hand says, signed with the site's key of the charter."""
    made = office.hospitals.made
    charter = made.consortium.charter
    signer = made.consortium.identities[charter.number_of(name)]

    def handle(header: bytes, *, vector: bytes, note: bytes) -> Any:
        parcel = Parcel(header=header, vector=vector, note=note)
        kind = "offer" if b'"kind":"offer"' in header else "publish" if b'"kind":"publish"' in header else ""
        answer = office.hospitals.answer(name, kind, parcel) or made.hands[name].handle(parcel)
        assert isinstance(answer, Parcel)
        return answer

    envelope = SiteEnvelope(site=name, signer=signer, coordinator=bytes.fromhex(charter.coordinator))
    return make_remote_app(lambda _: SimpleNamespace(handle=handle), on_error=errors.append, envelope=envelope)


def test_a_job_is_carried_out_over_the_public_port(tmp_path: Path, make_masked_plan: Callable[..., Plan]) -> None:
    """Five sites, each with its own certificate and key; every sum is of all five and the adapter verifies."""
    office, errors = Office(tmp_path, make_masked_plan()), list[Exception]()
    port = make_port(tmp_path, *NAMES)
    with port.superlink:
        sites = [FleetSite(port.address, port.trust(name)).activate() for name in NAMES]
        threads = [
            threading.Thread(target=site.serve, args=(app_of(office, name, errors),), kwargs={"messages": MESSAGES})
            for name, site in zip(NAMES, sites, strict=True)
        ]
        daemon = office.daemon(port.superlink)
        run = daemon.submit(office.job(rounds=ROUNDS, expected_sites=NAMES))
        for thread in threads:
            thread.start()
        assert daemon.step()
        for thread, site in zip(threads, sites, strict=True):
            thread.join()
            site.client.close()

    assert errors == []
    assert (run.told().state, run.told().reason) == ("finished", "")
    assert not verify(run.path).wrong
    assert all(run.read_plan().sha256 in shelf for shelf in office.hospitals.shelves.values())
    assert port.refusals == []
