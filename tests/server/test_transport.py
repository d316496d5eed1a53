"""The coordinator's public port, with Flower's own client playing the sites."""

import os
import threading
from pathlib import Path
from typing import Any

from fleet_site import FleetSite
from transport_fixtures import make_port

from partsong.client.app import make_remote_app
from partsong.client.secure_sum.door import Answer
from partsong.common.envelope import SiteEnvelope
from partsong.server.exchange import Parcel


class Echo:
    """Stands where a site stands and turns around what it gets."""

    def handle(self, header: bytes, *, vector: bytes, note: bytes) -> Answer:
        return Answer(header=b"answer to " + header, vector=vector[::-1], note=note)


def app_of(port: Any, site: str, **changes: Any) -> Any:
    """The site's app, signing as itself."""
    values = {"site": site, "signer": port.identities[site], "coordinator": port.coordinator.public_key}
    return make_remote_app(lambda _: Echo(), on_error=print, envelope=SiteEnvelope(**values | changes))


def connect(port: Any, site: str) -> FleetSite:
    return FleetSite(port.address, port.trust(site)).activate()


def nodes(port: Any, exchange: Any) -> dict[str, int]:
    return {exchange.site_at(node): node for node in exchange.addresses()}


def test_a_whole_exchange_over_tls(tmp_path: Path) -> None:
    """Two sites get their own messages of every phase and their signed answers come back."""
    port = make_port(tmp_path, "north", "south")
    with port.superlink:
        exchange = port.exchange()
        sites = {name: connect(port, name) for name in port.sites}
        threads = [
            threading.Thread(target=site.serve, args=(app_of(port, name),), kwargs={"messages": 2})
            for name, site in sites.items()
        ]
        for thread in threads:
            thread.start()

        vector = os.urandom(6 << 20)
        node = nodes(port, exchange)
        parcels = {node[name]: Parcel(header=name.encode(), vector=vector, note=b"n") for name in sites}
        first = dict(exchange.ask(parcels, phase="open", timeout_s=20))
        second = dict(exchange.ask(parcels, phase="unmask", timeout_s=20))
        for thread in threads:
            thread.join()

    for answers in (first, second):
        assert {n: a.header for n, a in answers.items()} == {node[s]: b"answer to " + s.encode() for s in sites}
        assert all(a.vector == vector[::-1] and a.note == b"n" for a in answers.values())
