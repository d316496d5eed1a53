"""A site's connection over networks that break, filter and come back."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transport_fixtures import Authority, make_port

from partsong.client.link.backoff import LONGEST_S
from partsong.client.link.channel import ClientTls
from partsong.client.link.questions import Question, Reply
from partsong.common.errors import InputError


class Bench:
    """A coordinator's end with one enrolled site."""

    def __init__(self, fleet_end: Any, folder: Path) -> None:
        self.module, self.folder = fleet_end, folder
        self.authority = Authority(folder)
        self.tls = fleet_end.tls_of(self.authority)
        self.link = fleet_end.Superlink(self.authority)
        self.node = self.link.let_in(self.tls)
        self.asked: list[str] = []

    def run(self, **changes: Any) -> Any:
        """The site's end, not yet started."""
        port = changes.pop("port", self.link.port)
        return self.module.Running(port, changes.pop("tls", self.tls), self.folder / "site", self.answer, **changes)

    def answer(self, question: Question) -> Reply:
        """Never the same twice."""
        self.asked.append(question.message)
        return Reply(fields={"header": os.urandom(8)}, vector=os.urandom(len(question.vector)))

    def fail(self, path: str, status: int, times: int) -> None:
        """Answer requests for `path` so, the first `times` of them."""
        left = [status] * times
        self.link.intercept = lambda asked: left.pop() if asked.endswith(path) and left else None


@pytest.fixture
def bench(fleet_end: Any, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(fleet_end, tmp_path)
    yield made
    made.link.stop()


def test_an_upload_that_is_cut_goes_on_with_what_is_missing(bench: Bench, networks: Any) -> None:
    """Of four chunks those that arrived are not sent again, and the bytes are those of one answer."""
    size = 18 << 20
    with networks.Relay(bench.link.port) as relay, bench.run(port=relay.port) as site:
        site.until_told("connected")

        def cut(told: Any) -> None:
            if told.what == "kept":
                relay.cut_after = 12 << 20

        site.on_told = cut
        question = bench.link.ask(bench.node, vector=bytes(size))
        site.until_told("sent")
        reply = bench.link.answer(question)

    assert relay.cuts == 1
    assert bench.asked == [question]
    assert len(reply.content["vector"]["vector"].data) == size
    chunks = -(-size // (5 << 20))
    sent = len([t for t in site.told if t.what == "sending"])
    assert chunks + 4 < sent <= chunks + 6, "array, record, records and message ride along, and one or two go again"
    assert bench.link.paths.count("/v1/fleet/push-messages") == 2


def test_an_expired_upload_session_is_renewed(bench: Bench) -> None:
    """A chunk that comes too late is not stored; the site announces the answer again and sends all of it."""
    link = bench.link

    def expire(path: str) -> None:
        if path.endswith("push-object") and link.paths.count(path) == 2:
            for session in link.state._object_push_sessions.values():
                session.expires_at = session.expires_at.replace(year=2020)

    link.intercept = expire
    with bench.run() as site:
        site.until_told("connected")
        question = link.ask(bench.node, vector=bytes(100))
        site.until_told("sent")

    assert link.paths.count("/v1/fleet/push-messages") == 2
    assert link.answer(question) is not None
    assert bench.asked == [question]


@pytest.mark.parametrize(
    "path", ["pull-messages", "pull-object", "confirm-message-received", "push-messages", "push-object"]
)
def test_server_errors_are_waited_out_and_told(bench: Bench, path: str) -> None:
    """Ten in a row, at any step, cost time and nothing else; the waits grow and stay bounded."""
    with bench.run(uniform=lambda: 1.0) as site:
        site.until_told("connected")
        question = bench.link.ask(bench.node, vector=b"v")
        bench.fail(path, 503, 10)
        site.until_told("sent")
        site.until_told("connected", 2)

    down = [told.wait_s for told in site.told if told.what == "unreachable"]
    assert down == [0.5, 1, 2, 4, 8, 16, 20, 20, 20, 20]
    assert max(site.waits_s) == LONGEST_S
    assert bench.asked == [question]


def test_a_coordinator_that_is_down_for_long_is_waited_for(bench: Bench, networks: Any) -> None:
    """Minutes by the waits' clock; then everything goes on with the same site."""
    with networks.Relay(bench.link.port) as relay, bench.run(port=relay.port, uniform=lambda: 1.0) as site:
        site.until_told("connected")
        relay.lead_to(1)
        site.until(lambda: sum(t.wait_s for t in site.told) > 180)
        relay.lead_to(bench.link.port)
        site.until_told("connected", 2)
        bench.link.state.acknowledge_node_heartbeat(bench.node, 30)
        question = bench.link.ask(bench.node)
        site.until_told("sent")

    assert bench.link.answer(question) is not None


def test_a_site_stops_at_once_while_the_coordinator_is_down(bench: Bench) -> None:
    """Before it was ever reached, too: no wait holds a shutdown up."""
    waits: list[float] = []

    def wait(stop: threading.Event, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            stop.set()

    with bench.run(port=1, wait=wait, uniform=lambda: 1.0) as site:
        site.until(site.stop.is_set)

    assert waits == [0.5, 1.0, 2.0]
    assert [told.what for told in site.told] == ["unreachable"] * 3


def test_a_coordinator_that_lost_its_memory_gets_the_site_back(bench: Bench, networks: Any) -> None:
    """It knows the site by another number; what was under way for the old one is dropped."""
    with networks.Relay(bench.link.port) as relay, bench.run(port=relay.port) as site:
        site.until_told("connected")
        bench.fail("push-messages", 503, 1)

        def forget(told: Any) -> None:
            if told.what == "unreachable" and relay.target == bench.link.port:
                other = bench.module.Superlink(bench.authority)
                others.append((other, other.let_in(bench.tls)))
                relay.lead_to(other.port)

        others: list[Any] = []
        site.on_told = forget
        bench.link.ask(bench.node)
        dropped = site.until_told("dropped")
        ((other, node),) = others
        question = other.ask(node)
        site.until_told("sent")
    other.stop()

    assert node != bench.node
    assert "anew" in dropped.reason
    assert other.answer(question) is not None
    assert (bench.folder / "site" / "node").read_text() == f"{node}\n"


def test_an_answer_that_nobody_waits_for_is_dropped(bench: Bench) -> None:
    """The run is over: 403."""
    with bench.run() as site:
        site.until_told("connected")
        site.on_told = lambda told: bench.link.finish_run() if told.what == "kept" else None
        bench.link.ask(bench.node)
        site.until_told("dropped")

    assert list((bench.folder / "site" / "outbox").glob("*-*")) == []
    assert list((bench.folder / "site" / "inbox").iterdir()) == []


def test_after_a_crash_the_site_goes_on_as_who_it_was(bench: Bench) -> None:
    """Flower refuses to activate a site that it holds for connected, and takes its heartbeat."""
    with bench.run() as site:
        site.until_told("connected")
        bench.fail("deactivate-node", 503, 1)

    with bench.run() as site:
        site.until_told("connected")

    assert [told.what for told in site.told][:2] == ["resumed", "connected"]


def test_a_site_that_is_not_enrolled_keeps_asking_and_says_so(bench: Bench) -> None:
    """It is let in as soon as the coordinator knows it."""
    stranger = bench.module.tls_of(bench.authority, "south")
    with bench.run(tls=stranger) as site:
        site.until_told("refused", 3)
        bench.link.let_in(stranger)
        site.until_told("connected")

    assert "412" in site.told[0].reason


def test_one_taken_off_the_list_waits_and_keeps_its_answer(fleet_end: Any, tmp_path: Path) -> None:
    """The coordinator's own port says `not_enrolled`; that is about the site and not about its message."""
    port = make_port(tmp_path, "north")
    held = port.sites["north"]
    tls = ClientTls(certificate=held.certificate_file, key=held.key_file, authority=port.authority.file)

    def answer(question: Question) -> Reply:
        port.superlink.replace_sites({})
        return Reply(fields={"header": b"x"})

    with port.superlink, fleet_end.Running(port.superlink.port, tls, tmp_path / "site", answer) as site:
        site.until_told("connected")
        exchange = port.exchange()
        (node,) = exchange.addresses()
        message = exchange._grid.create_message(
            fleet_end.RecordDict({"partsong": fleet_end.ConfigRecord()}), "train", node, "open", 60
        )
        exchange._grid.push_messages([message])
        refused = site.until_told("refused", 2)

    assert "not_enrolled" in refused.reason
    assert len(list((tmp_path / "site" / "outbox").glob("*.answer"))) == 1


def test_the_heartbeat_survives_whatever_happens(bench: Bench) -> None:
    """Errors of the server, and even of the listener."""
    beats = 0

    def intercept(path: str) -> int | None:
        nonlocal beats
        if path.endswith("send-node-heartbeat"):
            beats += 1
            return 500 if beats <= 3 else None
        return None

    def complain(told: Any) -> None:
        if told.what == "heartbeat_failed":
            raise RuntimeError("the listener fails too")

    bench.link.intercept = intercept
    with bench.run() as site:
        site.on_told = complain
        site.until(lambda: beats >= 6)

    assert [told.what for told in site.told] == ["connected", *3 * ["heartbeat_failed"]]


def test_a_proxy_is_used_where_one_is_set(bench: Bench, networks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given explicitly, or by HTTPS_PROXY; NO_PROXY takes a coordinator out."""
    address = f"CONNECT 127.0.0.1:{bench.link.port} HTTP/1.1"
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with networks.Proxy() as proxy:
        used = []
        for explicit, environment in ((True, {}), (False, {"HTTPS_PROXY"}), (False, {"HTTPS_PROXY", "NO_PROXY"})):
            for name in environment:
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}" if "HTTPS" in name else "127.0.0.1")
            del proxy.asked[:]
            with bench.run(proxy=f"http://127.0.0.1:{proxy.port}" if explicit else None) as site:
                site.until_told("connected")
            used.append(set(proxy.asked))

    assert used == [{address}, {address}, set()]


def test_a_coordinator_of_another_authority_is_not_spoken_to(bench: Bench, tmp_path: Path) -> None:
    """Not a byte of HTTP goes out."""
    other = Authority(tmp_path, "other")
    tls = ClientTls(certificate=bench.tls.certificate, key=bench.tls.key, authority=other.file)

    with bench.run(tls=tls) as site:
        told = site.until_told("unreachable")

    assert "certificate verify failed" in told.reason
    assert bench.link.paths == []


def test_a_coordinator_with_another_name_is_not_spoken_to(bench: Bench, networks: Any) -> None:
    """A proxy, or a name server, that leads elsewhere gets no further than the handshake."""
    with networks.Proxy(bench.link.port) as proxy:
        spoken = {}
        for name in ("elsewhere.example", "localhost"):
            with bench.run(address=f"{name}:443", proxy=f"http://127.0.0.1:{proxy.port}") as site:
                spoken[name] = site.until(lambda site=site: site.told[:1])[0]

    assert "Hostname mismatch" in spoken["elsewhere.example"].reason
    assert spoken["localhost"].what == "connected"


def test_files_that_do_not_fit_stop_the_start(bench: Bench) -> None:
    """The certificate of one key with the key of another."""
    other = bench.module.tls_of(bench.authority, "south")

    with pytest.raises(InputError, match="TLS files"):
        bench.run(tls=ClientTls(certificate=other.certificate, key=bench.tls.key, authority=bench.tls.authority))
