"""Messages out of order, repeated, cut short or changed: nothing happens."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.common.errors import PartsongError, RoundAborted
from partsong.common.secure_sum.messages import Header
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import next_header, run_round


def calls(site) -> dict[str, Callable[[bytes], object]]:
    return {
        "open": site.open,
        "enter": site.enter,
        "confirm": site.confirm,
        "unmask": site.unmask,
        "close": lambda message: site.close(message, verdict=lambda _: True),
        "revoke": site.revoke,
    }


def desk_calls(desk: SumRound) -> list[Callable[[bytes], int]]:
    return [desk.add_ready, desk.add_report, desk.add_confirm, desk.add_unmask]


def mutations(message: bytes, seed: int) -> list[bytes]:
    """Eight changed versions of a message."""
    place = seed % len(message)
    flipped = [
        message[:i] + bytes([message[i] ^ 1 << (seed + i) % 8]) + message[i + 1 :]
        for i in (place, (place * 7) % len(message), len(message) - 1 - place % 200)
    ]
    return [*flipped, message[:place], message[place:], message + b"\0", message * 2, b""]


class Round:
    """Five sites and a coordinator at the same message, with everything that was ever sent."""

    def __init__(self, made) -> None:
        self.made, self.sent, self.thrown = made, [], 0
        run_round(made.federation, next_header(made.federation, words=made.words), lambda i, _: made.vectors[i])
        self.sent.append(made.federation.result)
        header: Header = next_header(made.federation, words=made.words)
        self.desk = SumRound(run=made.federation.run, signer=made.federation.consortium.coordinator, header=header)

    def bother(self, seed: int, *, allowed: str) -> None:
        """Throw old and changed messages at site 0 and at the coordinator; only the allowed call may accept one."""
        vault = self.made.federation.consortium.vaults[0]
        before = dict(vault._records)
        for old in self.sent:
            for message in [old, *mutations(old, seed)]:
                self.thrown += 1
                for name, call in calls(self.made.site(0)).items():
                    if name != allowed or message is not old:
                        self._refused_or_known(call, message)
                for call in desk_calls(self.desk):
                    self._refused_or_known(call, message)
        assert vault._records == before

    @staticmethod
    def _refused_or_known(call: Callable[[bytes], object], message: bytes) -> None:
        try:
            call(message)
        except PartsongError:
            return

    def play(self, seed: int) -> int:
        """Play the round, and give the number of messages that were thrown at both sides."""
        desk, sites = self.desk, self.made.federation.sites
        opening = desk.open(result=self.made.federation.result)
        for number, site in sites.items():
            site.open(opening)
            self.sent.append(site.ready(verdict=True))
            assert desk.add_ready(self.sent[-1]) == number
        self.sent.append(opening)
        self.bother(seed, allowed="open")
        roster = desk.close_roster()
        for number, site in sites.items():
            site.enter(roster)
            self.sent.append(site.report(self.made.vectors[number]))
            assert desk.add_report(self.sent[-1]) == number
        self.sent.append(roster)
        self.bother(seed, allowed="enter")
        requests = desk.close_reports()
        for number, site in sites.items():
            self.sent.append(site.confirm(requests[number]))
            assert desk.add_confirm(self.sent[-1]) == number
        self.sent += requests.values()
        self.bother(seed, allowed="confirm")
        quorum = desk.close_confirms()
        for number, site in sites.items():
            self.sent.append(site.unmask(quorum))
            assert desk.add_unmask(self.sent[-1]) == number
        self.sent.append(quorum)
        self.bother(seed, allowed="unmask")
        _, opened = desk.open_sum()
        assert (opened.words == sum(self.made.vectors.values())).all()
        return self.thrown


@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_garbage_changes_no_state_and_no_sum(lab: Callable, seed: int) -> None:
    """After every step all earlier messages come again, whole, cut and changed, at every door of both sides."""
    assert Round(lab(5)).play(seed) > 0


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(20))
def test_a_million_messages_change_no_state_and_no_sum(lab: Callable, part: int) -> None:
    """Fifty thousand in each part, every one at all doors of a site and of the coordinator."""
    thrown, seed = 0, 1_000_000 * (part + 1)

    while thrown < 50_000:
        thrown += Round(lab(5)).play(seed)
        seed += 1

    assert thrown >= 50_000


def test_a_site_that_reports_twice_is_counted_once(lab: Callable) -> None:
    """The coordinator adds a report once, and refuses a different second one."""
    made = lab(5)
    desk = SumRound(run=made.federation.run, signer=made.federation.consortium.coordinator, header=made.header)
    for site in made.federation.sites.values():
        site.open(desk.open(result=b""))
        desk.add_ready(site.ready(verdict=True))
    roster = desk.close_roster()
    for number, site in made.federation.sites.items():
        site.enter(roster)
        report = site.report(made.vectors[number])
        desk.add_report(report)
        desk.add_report(report)
    requests = desk.close_reports()
    confirms = [site.confirm(requests[number]) for number, site in made.federation.sites.items()]
    for confirm in confirms * 2:
        desk.add_confirm(confirm)
    quorum = desk.close_confirms()
    with pytest.raises(RoundAborted, match="found 0, expected 3"):
        desk.open_sum()
    for site in made.federation.sites.values():
        desk.add_unmask(site.unmask(quorum))
        desk.add_unmask(site.unmask(quorum))

    _, opened = desk.open_sum()

    assert (opened.words == sum(made.vectors.values())).all()
