"""Two runs at one connection: neither waits for the other, and a stop loses nothing of either."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transport_fixtures import Authority, make_port

from partsong.client.link import lanes
from partsong.client.link.channel import Channel, ClientTls
from partsong.client.link.questions import Question, Reply, signed
from partsong.client.secure_sum.door import Answer
from partsong.common.identity.envelope import SiteEnvelope
from partsong.server.exchange import Parcel
from partsong.server.link.gate import Limits


@pytest.fixture
def one_lane_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions of all runs wait for each other, as without lanes."""
    put = lanes.Lanes.put
    monkeypatch.setattr(lanes.Lanes, "put", lambda self, _lane, work: put(self, 0, work))


class Two:
    """A site whose first answer takes until it is told, and a coordinator that asks in two runs."""

    def __init__(self, fleet_end: Any, folder: Path) -> None:
        self.port = make_port(folder, "north", limits=Limits(hold_s=0.05))
        held = self.port.sites["north"]
        tls = ClientTls(certificate=held.certificate_file, key=held.key_file, authority=self.port.authority.file)
        envelope = SiteEnvelope(
            site="north", signer=self.port.identities["north"], coordinator=self.port.coordinator.public_key
        )
        self.stuck, self.go = threading.Event(), threading.Event()
        self.port.superlink.start()
        self.site = fleet_end.Running(
            self.port.superlink.port, tls, folder / "site", signed(envelope, self.answer), wait=threading.Event.wait
        )

    def answer(self, header: bytes, *, vector: bytes, note: bytes) -> Answer:
        if header == b"slow":
            self.stuck.set()
            assert self.go.wait(60)
        return Answer(header=b"re: " + header)

    def ask(self, header: bytes) -> Any:
        """Ask in a run of its own."""
        exchange = self.port.exchange()
        (node,) = exchange.addresses()
        ((_, answer),) = exchange.ask({node: Parcel(header=header)}, phase="open", timeout_s=60)
        return answer


@pytest.fixture
def two(fleet_end: Any, tmp_path: Path) -> Iterator[Two]:
    made = Two(fleet_end, tmp_path)
    yield made
    made.port.superlink.stop()


def test_a_question_of_another_run_is_answered_while_one_takes_long(two: Two) -> None:
    """The slow one's answer arrives when it is done."""
    with ThreadPoolExecutor(1) as pool, two.site:
        two.site.until_told("connected")
        slow = pool.submit(two.ask, b"slow")
        assert two.stuck.wait(30)

        quick = two.ask(b"quick")

        before = slow.done()
        two.go.set()
        assert (quick.header, before) == (b"re: quick", False)
        assert slow.result(60).header == b"re: slow"


@pytest.mark.usefixtures("one_lane_for_all")
def test_in_one_lane_it_would_wait(two: Two) -> None:
    """The control: the quick one is taken up once the slow one is done."""
    with ThreadPoolExecutor(2) as pool, two.site:
        two.site.until_told("connected")
        slow = pool.submit(two.ask, b"slow")
        assert two.stuck.wait(30)
        quick = pool.submit(two.ask, b"quick")
        two.site.until_told("confirmed", 2)

        early = threading.Event().wait(0.3) or quick.done()

        two.go.set()
        assert not early
        assert {slow.result(60).header, quick.result(60).header} == {b"re: slow", b"re: quick"}


@pytest.fixture
def bench(fleet_end: Any, tmp_path: Path) -> Iterator[Any]:
    """Flower's own SuperLink, one run."""
    authority = Authority(tmp_path)
    tls = fleet_end.tls_of(authority)
    link = fleet_end.Superlink(authority)
    yield fleet_end, link, tls, link.let_in(tls), tmp_path / "site"
    link.stop()


def test_a_question_that_waits_in_its_lane_when_the_site_stops_is_answered_by_the_next_run(bench: Any) -> None:
    """Two questions of one run: the first is finished, the second stays in the inbox; each is answered once."""
    module, link, tls, node, folder = bench
    asked: list[str] = []
    stuck, go = threading.Event(), threading.Event()

    def answer(question: Question) -> Reply:
        asked.append(question.message)
        stuck.set()
        assert go.wait(60)
        return Reply(fields={"header": b"h"})

    with module.Running(link.port, tls, folder, answer) as site:
        site.until_told("connected")
        first, second = link.ask(node), link.ask(node, note=b"2")
        assert stuck.wait(30)
        site.until_told("confirmed", 2)
        site.stop.set()
        go.set()
    once = list(asked)
    with module.Running(link.port, tls, folder, answer) as site:
        site.until(lambda: link.answer(first) and link.answer(second))

    assert len(once) == 1
    assert sorted(asked) == sorted([first, second])


@pytest.mark.parametrize("path", ["pull-messages", "deactivate-node", "send-node-heartbeat", "push-object"])
def test_a_stop_does_not_wait_for_a_network_that_never_answers(
    bench: Any, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Requests of this kind hang for as long as the test lasts; the run ends all the same."""
    module, link, tls, node, folder = bench
    post, never, hung = Channel.post, threading.Event(), threading.Event()

    def hangs(channel: Channel, asked: str, body: bytes, *, most_bytes: int) -> bytes:
        if asked.endswith(path) and link.armed:
            hung.set()
            never.wait(120)
        return post(channel, asked, body, most_bytes=most_bytes)

    monkeypatch.setattr(Channel, "post", hangs)
    link.armed = False

    with module.Running(link.port, tls, folder, lambda _question: Reply(fields={"header": b"h"})) as site:
        site.until_told("connected")
        link.armed = True
        link.ask(node, vector=b"v")
        if path != "deactivate-node":
            assert hung.wait(30)

    assert hung.is_set()
    never.set()
