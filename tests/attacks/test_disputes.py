"""A site that gives wrong shares: the round ends with its sum, and whoever watches the run is told."""

from collections.abc import Callable
from dataclasses import replace

from wiring import Wired

from partsong.common import events
from partsong.common.codec import pack, unpack
from partsong.common.secure_sum.messages import Signed, Unmask, sign
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss

Make = Callable[..., Wired]


def liar(made: Wired, name: str, *, about: int) -> Callable[[str, str, Parcel | Loss], Parcel | Loss]:
    """Change a site's shares of this many seeds, under its own signature."""

    def after(site: str, phase: str, answer: Parcel | Loss) -> Parcel | Loss:
        if (site, phase) != (name, "unmask") or isinstance(answer, Loss):
            return answer
        given = unpack(Unmask, unpack(Signed, answer.note).body)
        wrong = tuple(bytes([s[0] ^ 1]) + s[1:] if i < about else s for i, s in enumerate(given.shares))
        signer = made.consortium.identities[sorted(made.names).index(name)]
        return replace(answer, note=pack(sign(replace(given, shares=wrong), signer)))

    return after


def told(made: Wired) -> list[events.SharesDisputed]:
    return [event for event in made.heard if isinstance(event, events.SharesDisputed)]


def test_a_site_that_lies_about_every_seed_is_named(wired: Make) -> None:
    """It contradicts all others, of whom at most one may be corrupt."""
    made = wired()
    made.propose()
    made.lines.after = liar(made, "e", about=4)

    made.round(1)

    assert made.is_exact(1)
    assert told(made) == [events.SharesDisputed(round=1, disputes=4, liars=("e",))]


def test_a_single_wrong_share_names_nobody(wired: Make) -> None:
    """The holder may have changed it, or the owner may have made it so."""
    made = wired()
    made.propose()
    made.lines.after = liar(made, "e", about=1)

    made.round(1)

    assert told(made) == [events.SharesDisputed(round=1, disputes=1, liars=())]


def test_where_all_shares_agree_nothing_is_told(wired: Make) -> None:
    """The control."""
    made = wired()
    made.propose()

    made.round(1)

    assert made.is_exact(1)
    assert told(made) == []
