"""No secret of a site in anything that crosses the wire, in errors, or in what objects show of themselves."""

from collections.abc import Callable

import numpy as np
import pytest

from partsong.common.codec import pack
from partsong.common.errors import PartsongError
from partsong.common.identity.keys import Identity
from partsong.server.secure_sum.protocol import SumRound


def captured(made) -> tuple[list[bytes], dict[str, bytes]]:
    """One round's traffic in both directions, and every secret of the sites that is not opened in it."""
    desk = SumRound(run=made.federation.run, signer=made.federation.consortium.coordinator, header=made.header)
    wire, sites = [desk.open(result=b"")], made.federation.sites
    secrets = {}
    for number, site in sites.items():
        site.open(wire[0])
        wire.append(site.ready(verdict=True))
        desk.add_ready(wire[-1])
        state = made.state(number)
        secrets |= {f"pair key {number}-{peer}": key for peer, key in state.keys_by_peer().items()}
        secrets["group key"] = state.group_key
        secrets[f"identity {number}"] = made.federation.consortium.identities[number].secret_bytes()
        secrets[f"vector {number}"] = made.vectors[number].tobytes()[:32]
    wire.append(desk.close_roster())
    for number, site in sites.items():
        site.enter(wire[6])
        wire.append(site.report(made.vectors[number]))
        desk.add_report(wire[-1])
    requests = desk.close_reports()
    for number, site in sites.items():
        wire += [requests[number], site.confirm(requests[number])]
        desk.add_confirm(wire[-1])
    quorum = desk.close_confirms()
    for site in sites.values():
        wire.append(site.unmask(quorum))
        desk.add_unmask(wire[-1])
    result, _ = desk.open_sum()
    return [*wire, quorum, result], secrets


def test_no_known_secret_crosses_the_wire(lab: Callable) -> None:
    """Keys, seeds and plain words of every site, against every byte of a round; a planted one is found."""
    wire, secrets = captured(lab(5))
    traffic = b"\0".join(wire)

    leaked = [name for name, secret in secrets.items() if secret in traffic]

    assert len(secrets) == 5 * 4 + 1 + 5 + 5
    assert leaked == []
    assert secrets["group key"] in traffic + secrets["group key"]


def test_keys_do_not_show_in_reprs(lab: Callable) -> None:
    """Printing a site, its state, its seeds or its identity shows no key."""
    made = lab(3)
    made.ready(0)
    state = made.state(0)
    shown = " ".join(map(repr, (state, made.site(0), made.federation, made.federation.consortium, Identity(b"k" * 32))))

    for key in (state.group_key, *state.pair_keys):
        assert repr(key)[2:-1] not in shown
        assert key.hex() not in shown


def test_errors_hold_no_words_of_a_vector(lab: Callable) -> None:
    """A refusal at any door says rule and numbers, not content."""
    made = lab(3)
    made.up_to_reports([1])
    made.site(0).enter(made.roster(made.everyone))
    message = pack(made.reports[1])
    secret = np.full(51, 123456789, np.uint64)
    texts = []
    for call in (made.site(0).open, made.site(0).enter, made.site(0).confirm, made.site(0).unmask):
        with pytest.raises(PartsongError) as caught:
            call(message)
        texts.append(str(caught.value))
    with pytest.raises(PartsongError) as caught:
        made.site(0).report(secret)
    texts.append(str(caught.value))

    assert all(len(text) < 200 and "123456789" not in text for text in texts)
