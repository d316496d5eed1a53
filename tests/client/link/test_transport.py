"""A site's connection against Flower's own SuperLink over loopback TLS."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from transport_fixtures import Authority, make_port

from partsong.client.link.channel import ClientTls
from partsong.client.link.questions import Question, Reply, Told, signed
from partsong.client.link.transport import Limits as FleetLimits
from partsong.client.secure_sum.door import Answer
from partsong.common.identity.envelope import SiteEnvelope
from partsong.server.exchange import Parcel
from partsong.server.link.gate import Limits


@dataclass
class Bench:
    """A coordinator's end with one enrolled site."""

    module: Any
    link: Any
    authority: Any
    tls: Any
    node: int
    folder: Path
    asked: list[Question] = field(default_factory=list)

    def run(self, handle: Any = None, **changes: Any) -> Any:
        """The site's end, not yet started."""
        port = changes.pop("port", self.link.port)
        return self.module.Running(port, self.tls, self.folder, handle or self.echo, **changes)

    def echo(self, question: Question) -> Reply:
        """Answer with what was asked, reversed."""
        self.asked.append(question)
        return Reply(fields={"header": b"re: " + bytes(question.fields["header"])}, vector=question.vector[::-1])


@pytest.fixture
def bench(fleet_end: Any, tmp_path: Path) -> Iterator[Bench]:
    authority = Authority(tmp_path)
    tls = fleet_end.tls_of(authority)
    link = fleet_end.Superlink(authority)
    yield Bench(fleet_end, link, authority, tls, link.let_in(tls), tmp_path / "site")
    link.stop()


def test_a_question_is_answered(bench: Bench) -> None:
    """Fields, vector and note reach the site, and the answer's bytes the coordinator, chunks and all."""
    vector = bytes(range(256)) * 30_000

    with bench.run() as site:
        site.until_told("connected")
        fields = {"header": b"h", "signature": b"s", "version": 1}
        question = bench.link.ask(bench.node, fields=fields, vector=vector, note=b"n", kind="train")
        site.until_told("sent")
        reply = bench.link.answer(question)

    (asked,) = bench.asked
    assert (asked.message, asked.run, asked.kind) == (question, bench.link.run, "open")
    assert (dict(asked.fields), asked.vector, asked.note) == (fields, vector, b"n")
    assert reply.content["partsong"] == {"header": b"re: h"}
    assert reply.content["vector"]["vector"].data == vector[::-1]
    assert "note" not in reply.content


def test_no_code_and_no_description_of_a_run_is_ever_fetched(bench: Bench) -> None:
    """All paths that a site asks for in its life are these."""
    with bench.run() as site:
        site.until_told("connected")
        bench.link.ask(bench.node, vector=b"v")
        site.until_told("sent")
        site.until(lambda: "/v1/fleet/send-node-heartbeat" in bench.link.paths)

    asked_for = {path.removeprefix("/v1/fleet/") for path in bench.link.paths}
    assert asked_for <= {
        "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "pull-object",
        "confirm-message-received", "push-messages", "push-object",
    }  # fmt: skip
    assert {"activate-node", "pull-object", "push-object", "deactivate-node"} <= asked_for


def test_whatever_goes_wrong_at_the_site_the_coordinator_learns_only_that(bench: Bench) -> None:
    """The exception is told at the site."""
    secret = "patient Smith, 2021-03-04"

    def fail(_question: Question) -> Reply:
        raise ValueError(secret)

    with bench.run(fail) as site:
        site.until_told("connected")
        question = bench.link.ask(bench.node)
        site.until_told("sent")
        reply = bench.link.answer(question)

    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (2, "the site failed")
    (told,) = [t for t in site.told if t.what == "failed"]
    assert str(told.error) == secret


def test_with_the_coordinators_own_port_questions_and_answers_are_signed_both_ways(
    fleet_end: Any, tmp_path: Path
) -> None:
    """The two ends of this package, the envelope around the site."""
    port = make_port(tmp_path, "north", limits=Limits(hold_s=0.05))
    held = port.sites["north"]
    tls = ClientTls(certificate=held.certificate_file, key=held.key_file, authority=port.authority.file)
    envelope = SiteEnvelope(site="north", signer=port.identities["north"], coordinator=port.coordinator.public_key)

    def answer(header: bytes, *, vector: bytes, note: bytes) -> Answer:
        return Answer(header=b"re: " + header, vector=vector[::-1], note=note + b"!")

    with port.superlink:
        with fleet_end.Running(port.superlink.port, tls, tmp_path / "site", signed(envelope, answer)) as site:
            site.until_told("connected")
            exchange = port.exchange()
            (node,) = exchange.addresses()
            asked = Parcel(header=b"h", vector=bytes(range(200)) * 60_000, note=b"n")
            ((answered_by, got),) = exchange.ask({node: asked}, phase="open", timeout_s=30)
            site.until_told("sent")
        left = port.superlink.connected()

    assert answered_by == node
    assert got == Parcel(header=b"re: h", vector=asked.vector[::-1], note=b"n!")
    assert left == ()


def test_a_message_over_a_limit_is_dropped_and_the_next_is_answered(bench: Bench) -> None:
    """Too many parts: nothing is fetched. Too long: no more is fetched than fits. Nothing is offered again."""
    limits = FleetLimits(parts=6, message_bytes=100_000)
    with bench.run(limits=limits) as site:
        site.until_told("connected")
        bench.link.ask(bench.node, vector=b"v", note=b"n")
        many = site.until_told("dropped")
        fetched = [path for path in bench.link.paths if "pull-object" in path]
        bench.link.ask(bench.node, vector=bytes(100_001))
        long = site.until_told("dropped", 2)
        question = bench.link.ask(bench.node, vector=bytes(90_000))
        site.until_told("sent")

    assert "over 6 parts" in many.reason
    assert fetched == []
    assert "longer than" in long.reason
    assert [asked.message for asked in bench.asked] == [question]
    assert bench.link.paths.count("/v1/fleet/confirm-message-received") == 3


def test_a_question_whose_time_ran_out_here_is_not_handled(bench: Bench) -> None:
    """As after an outage of the site: nobody waits for the answer, and no budget is spent on it."""
    now = [time.time()]

    def age(told: Told) -> None:
        now[0] += 601 * (told.what == "journaled")

    with bench.run(clock=lambda: now[0]) as site:
        site.until_told("connected")
        site.on_told = age
        bench.link.ask(bench.node, ttl_s=600)
        dropped = site.until_told("dropped")

    assert "time is over" in dropped.reason
    assert bench.asked == []
    assert list((bench.folder / "inbox").iterdir()) == []


def test_a_question_lives_from_when_it_came_and_not_from_when_it_was_asked_for(bench: Bench) -> None:
    """A coordinator that has none yet lets the request for one wait, here for longer than the question lives."""
    now, pause_s = [time.time() - 200], [61.0]  # a coordinator trusts no clock that is ahead of its own

    def wait(path: str) -> None:
        now[0] += pause_s[0] * path.endswith("/pull-messages")

    def end(told: Told) -> None:
        pause_s[0] *= told.what != "arrived"

    with bench.run(clock=lambda: now[0]) as site:
        site.until_told("connected")
        site.on_told, bench.link.intercept = end, wait
        bench.link.ask(bench.node, ttl_s=60)
        ended = site.until(lambda: [told.what for told in site.told if told.what in ("sent", "dropped")])

    assert ended == ["sent"]
    assert len(bench.asked) == 1


def test_a_question_that_is_older_than_the_sites_memory_is_not_handled(bench: Bench) -> None:
    """It could have been answered and forgotten. One that the site still remembers for longer than it lives is."""
    day_s = 24 * 3600
    with bench.run() as site:
        site.until_told("connected")
        bench.link.ask(bench.node, ago_s=8 * day_s, ttl_s=20 * day_s)
        dropped = site.until_told("dropped")
        young = bench.link.ask(bench.node, ago_s=7 * day_s, ttl_s=20 * day_s)
        site.until_told("sent")

    assert "dated further off" in dropped.reason
    assert [asked.message for asked in bench.asked] == [young]
