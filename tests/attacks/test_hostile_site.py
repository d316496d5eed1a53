"""One of five sites is hostile, over real connections: the round goes on, and gives exactly the sum of the others."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hostile import Hospital, Ward, opened, without
from transport_fixtures import Authority

from partsong.client.daemon import plan_desk
from partsong.client.link.questions import Question, Reply, signed
from partsong.client.secure_sum.door import Answer
from partsong.common import wire
from partsong.common.identity.envelope import CoordinatorEnvelope, SiteEnvelope
from partsong.common.identity.keys import Identity
from partsong.server.link import inflating
from partsong.server.rounds import Loss

HONEST, EVERYBODY = ("a", "b", "c", "d"), ("a", "b", "c", "d", "e")
MALLORY = Identity(b"\x66" * 32)
OVER_32_MB = bytes((32 << 20) + 1)
"""All its chunks are the same one, so that 5 MB of it travel."""
FLOOD = 300
"""How many refusals a flood goes on to."""
TOO_OFTEN = "too_often"
"""A canary follows a canary here without a pause, so that honest sites spend their allowance too, and wait for it."""
Lie = Callable[[Ward, Answer], Answer]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    with pytest.MonkeyPatch.context() as patch, opened(tmp_path_factory.mktemp("hospital")) as made:
        patch.setattr(plan_desk, "MOST_CANARIES", 500)
        yield made


@pytest.fixture
def e(hospital: Hospital) -> Iterator[Ward]:
    """The hostile one; honest again after each test."""
    ward = hospital.wards["e"]
    yield ward
    ward.answers = ward.honest


def lying(ward: Ward, phase: str, lie: Lie, *, signer: Any = None, name: str = "e") -> Callable[[Question], Reply]:
    """Answer as the site does, but for one phase."""
    key = ward.site.fleet.charter.coordinator_key
    envelope = SiteEnvelope(site="e", signer=ward.site.signer, coordinator=key)
    forged = SiteEnvelope(site=name, signer=signer or ward.site.signer, coordinator=key)
    envelope.seal = forged.seal  # type: ignore[method-assign]

    def answer(header: bytes, *, vector: bytes, note: bytes) -> Answer:
        return lie(ward, ward.site.daemon.answer(header, vector=vector, note=note))

    def handle(question: Question) -> Reply:
        return signed(envelope, answer)(question) if question.kind == phase else ward.honest(question)

    return handle


def truthful(_ward: Ward, answer: Answer) -> Answer:
    return answer


def noise(_ward: Ward, answer: Answer) -> Answer:
    """As long as the real message, and nothing that it should be."""
    return Answer(header=answer.header, note=os.urandom(len(answer.note)))


def in_anothers_name(_ward: Ward, answer: Answer) -> Answer:
    report = wire.decode(answer.header, wire.Report)
    header = wire.encode(wire.Report(site="d", round=report.round, attempt=report.attempt))
    return Answer(header=header, vector=answer.vector, note=answer.note)


def no_header(_ward: Ward, answer: Answer) -> Answer:
    return Answer(header=b"\xff" * 100, note=answer.note)


def oversized(_ward: Ward, answer: Answer) -> Answer:
    return Answer(header=answer.header, vector=OVER_32_MB, note=answer.note)


def failing(_ward: Ward, _answer: Answer) -> Answer:
    raise ValueError("patient Smith")


LIES: list[Lie] = [noise, in_anothers_name, no_header, oversized, failing]


@pytest.mark.parametrize("lie", LIES)
def test_what_a_site_makes_of_its_report_costs_itself_alone(hospital: Hospital, e: Ward, lie: Lie) -> None:
    """The others are in the sum, which is exact, and all of them find it right."""
    e.answers = lying(e, "roster", lie)

    played = hospital.play(hospital.canary(f"{lie.__name__}"))

    assert (played.accepted, played.survivors) == (EVERYBODY, HONEST)
    assert played.is_exact()
    assert set(played.checked) >= set(HONEST)


def test_without_the_bound_a_chunk_named_many_times_is_laid_out(
    hospital: Hospital, e: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control for what is oversized: it would be taken, and could as well have been a terabyte."""
    without(monkeypatch, inflating, "_modest", "if left < 0:", "if False:")
    e.answers = lying(e, "roster", oversized)

    assert hospital.play(hospital.canary("laid out")).survivors == EVERYBODY


def test_the_truth_is_in_the_sum(hospital: Hospital, e: Ward) -> None:
    """The control: the same way of answering, without a lie."""
    e.answers = lying(e, "roster", truthful)

    played = hospital.play(hospital.canary("truth"))

    assert played.survivors == EVERYBODY
    assert played.is_exact()


@pytest.mark.parametrize("how", [{"signer": MALLORY}, {"name": "d"}], ids=["another key", "another site"])
def test_an_envelope_that_is_not_the_asked_sites_does_not_count(
    hospital: Hospital, e: Ward, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds would have been right: without the check it is in the sum."""
    e.answers = lying(e, "roster", truthful, **how)

    played = hospital.play(hospital.canary(f"envelope {how}"))
    check = "if (answer.run, answer.kind, answer.site) != (self._run, kind, site):"
    without(monkeypatch, CoordinatorEnvelope, "open", check, "if False:")
    monkeypatch.setattr("partsong.common.identity.envelope._fits", lambda *_: True)
    unchecked = hospital.play(hospital.canary(f"envelope {how}, unchecked"))

    assert (played.survivors, unchecked.survivors) == (HONEST, EVERYBODY)
    assert played.outcome.state.lost == {"e": Loss.MALFORMED}


def test_an_answer_to_an_earlier_question_does_not_count(hospital: Hospital, e: Ward) -> None:
    """A signed READY is no REPORT."""
    kept: list[Reply] = []

    def late(question: Question) -> Reply:
        kept.append(e.honest(question))
        return kept[-2] if question.kind == "roster" else kept[-1]

    e.answers = late

    played = hospital.play(hospital.canary("earlier"))

    assert played.survivors == HONEST
    assert played.is_exact()


def test_a_flood_of_one_site_leaves_the_round_alone(hospital: Hospital, e: Ward) -> None:
    """It asks as fast as it can while the others are asked, beyond its allowance; it gets 429 for it and no more."""
    seen: list[int] = []
    with hospital.port.stranger(hospital.port.trust("e")) as flooding:
        flooding.activate()

        def flood() -> None:
            while len(seen) < FLOOD:
                try:
                    flooding.heartbeat()
                except httpx.HTTPStatusError as err:
                    seen.append(err.response.status_code)

        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        played = hospital.play(hospital.canary("flood"))
        for thread in threads:
            thread.join()

    assert set(played.survivors) >= set(HONEST)
    assert played.is_exact()
    assert set(seen) == {429}


def test_with_a_wrong_certificate_a_site_is_not_heard(hospital: Hospital, tmp_path: Any) -> None:
    """Neither one of its own making, nor during a round."""
    port = hospital.port
    foreign = Authority(tmp_path, "foreign")
    held = foreign.hold("e", key=port.sites["e"].key)
    refused = len(port.refusals)

    with pytest.raises(httpx.TransportError):
        port.stranger(port.authority.trust(held)).activate()
    played = hospital.play(hospital.canary("wrong certificate"))

    assert {code for _, code in port.refusals[refused:]} <= {TOO_OFTEN}
    assert played.survivors == EVERYBODY
