"""The site's connection and the coordinator's own port, which starts again and forgets."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from transport_fixtures import make_port

from partsong.client.link.channel import ClientTls
from partsong.client.link.questions import Told, signed
from partsong.client.secure_sum.door import Answer
from partsong.common.identity.envelope import SiteEnvelope
from partsong.server.exchange import Parcel
from partsong.server.link.gate import Limits as ServerLimits
from partsong.server.link.transport import EmbeddedSuperlink


class OwnPort:
    """The coordinator's own port, and a site of it behind a relay."""

    def __init__(self, fleet_end: Any, networks: Any, folder: Path) -> None:
        self.port = make_port(folder, "north", limits=ServerLimits(hold_s=0.05))
        held = self.port.sites["north"]
        tls = ClientTls(certificate=held.certificate_file, key=held.key_file, authority=self.port.authority.file)
        envelope = SiteEnvelope(
            site="north", signer=self.port.identities["north"], coordinator=self.port.coordinator.public_key
        )
        self.headers: list[bytes] = []
        self.port.superlink.start()
        self.relay = networks.Relay(self.port.superlink.port)
        self.site = fleet_end.Running(self.relay.port, tls, folder / "site", signed(envelope, self._answer))

    def __enter__(self) -> Self:
        self.site.__enter__()
        self.site.until_told("connected")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.site.__exit__(kind)
        self.relay.__exit__()
        self.port.superlink.stop()

    def ask(self, header: bytes, *, vector: bytes = b"", timeout_s: float = 30.0) -> Any:
        """Ask in a new run; gives the answer, or None."""
        exchange = self.port.exchange()
        (node,) = exchange.addresses()
        parcel = Parcel(header=header, vector=vector)
        return dict(exchange.ask({node: parcel}, phase="open", timeout_s=timeout_s)).get(node)

    def _answer(self, header: bytes, *, vector: bytes, note: bytes) -> Answer:
        self.headers.append(header)
        return Answer(header=header, vector=vector, note=note)


def test_the_coordinators_own_port_takes_the_rest_of_a_cut_upload(
    fleet_end: Any, networks: Any, tmp_path: Path
) -> None:
    """The answer arrives whole and was made once."""
    vector = os.urandom(18 << 20)
    with OwnPort(fleet_end, networks, tmp_path) as own:

        def cut(told: Told) -> None:
            if told.what == "kept":
                own.relay.cut_after = 12 << 20

        own.site.on_told = cut
        answer = own.ask(b"h", vector=vector)

    assert own.relay.cuts == 1
    assert answer == Parcel(header=b"h", vector=vector)
    assert own.headers == [b"h"]


def test_a_coordinator_that_starts_again_asks_anew_and_gets_no_old_answer(
    fleet_end: Any, networks: Any, tmp_path: Path
) -> None:
    """Its own port knows a site by its key, so the site keeps its number; the old run's answer is refused."""
    with OwnPort(fleet_end, networks, tmp_path) as own:
        old, keys = own.port.superlink, {name: held.public for name, held in own.port.sites.items()}
        new = EmbeddedSuperlink(old._listen, keys)
        new.start()

        def restart(told: Told) -> None:
            if told.what == "kept" and own.headers == [b"old"]:
                own.relay.lead_to(new.port)

        own.site.on_told = restart
        first = own.ask(b"old", timeout_s=0.5)
        dropped = own.site.until_told("dropped")
        own.site.until(new.connected)
        old.stop()
        own.port = replace(own.port, superlink=new)
        second = own.ask(b"new")

    assert first is None
    assert "not_asked" in dropped.reason
    assert second.header == b"new"
    assert own.headers == [b"old", b"new"]


def test_a_question_of_a_coordinators_former_life_is_not_worked_on(
    fleet_end: Any, networks: Any, tmp_path: Path
) -> None:
    """Killed and started again after it had sent a question: the site, which may train for hours, is told not to."""
    with OwnPort(fleet_end, networks, tmp_path) as own:
        old, keys = own.port.superlink, {name: held.public for name, held in own.port.sites.items()}
        new = EmbeddedSuperlink(old._listen, keys)
        new.start()

        def restart(told: Told) -> None:
            if told.what == "journaled" and own.port.superlink is old:
                own.port = replace(own.port, superlink=new)
                own.relay.lead_to(new.port)

        own.site.on_told = restart
        first = own.ask(b"old", timeout_s=0.5)
        dropped = own.site.until_told("dropped")
        own.site.until(new.connected)
        second = own.ask(b"new")
        old.stop()

    assert first is None
    assert "not_asked" in dropped.reason
    assert second.header == b"new"
    assert own.headers == [b"new"]
