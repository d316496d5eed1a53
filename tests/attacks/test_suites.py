"""Attacks on the choice of the suite, and the other attacks again under suite F."""

import importlib.util
import os
import types
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from partsong.client.secure_sum.key_setup import KeySetup
from partsong.client.secure_sum.vault import MemoryVault
from partsong.common.codec import pack, unpack
from partsong.common.errors import Refused, WireError
from partsong.common.identity.keys import Identity, P384Identity, make_identity
from partsong.common.identity.p384 import ORDER
from partsong.common.identity.suite import SUITES
from partsong.common.secure_sum import messages
from partsong.common.secure_sum.messages import Begin, Bundle, Bundles, Ready, Revocation, Signed, sign
from partsong.common.secure_sum.pairwise import make_setup_keys
from partsong.server.secure_sum.key_setup import SetupRelay
from partsong.simulations.secure_sum import Consortium, found

HERE = Path(__file__).parent
NAMES = [f"site{i}" for i in range(5)]


def load(name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"again_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def set_up_site(made: Consortium, number: int, **change: object) -> KeySetup:
    charter = made.charter
    fields = {
        "charter": charter,
        "site_id": charter.sites[number].id,
        "signer": made.identities[number],
        "floors": charter.floors,
        "vault": MemoryVault(),
    }
    return KeySetup(**(fields | change))


def relay_of(made: Consortium) -> SetupRelay:
    return SetupRelay(charter=made.charter, signer=made.coordinator, run=bytes(32), attempt=1)


@pytest.mark.parametrize(("suite", "other"), [SUITES, SUITES[::-1]])
def test_a_site_of_another_suite_does_not_start(suite: str, other: str) -> None:
    """It names its own suite and the charter's."""
    made = found(NAMES, suite=suite)

    with pytest.raises(Refused, match=f"suite: the charter is of suite {suite}, this site's key of suite {other}"):
        set_up_site(made, 0, signer=make_identity(other, os.urandom))


@pytest.mark.parametrize(("suite", "other"), [SUITES, SUITES[::-1]])
def test_a_set_up_under_a_charter_of_the_other_suite_is_refused(suite: str, other: str) -> None:
    """The downgrade: the same coordinator and the same sites, a good charter of either suite, one of them pinned."""
    pinned, offered = found(NAMES, suite=suite), found(NAMES, suite=other)
    begin = Begin(charter=offered.charter.hash, run=bytes(32), attempt=1)

    with pytest.raises(WireError, match="no valid signature"):
        set_up_site(pinned, 0).begin(relay_of(offered).begin(), entropy=os.urandom)
    with pytest.raises(Refused, match="other_charter"):
        set_up_site(pinned, 0).begin(pack(sign(begin, pinned.coordinator)), entropy=os.urandom)


@pytest.mark.parametrize(("suite", "other"), [SUITES, SUITES[::-1]])
def test_keys_of_another_suite_from_a_corrupt_site_are_refused_by_name(suite: str, other: str) -> None:
    """Well signed, in the format of the other suite: neither the relay nor a site takes them."""
    made = found(NAMES, suite=suite)
    relay = relay_of(made)
    sites = [set_up_site(made, number) for number in range(5)]
    bundles = [unpack(Signed, site.begin(relay.begin(), entropy=os.urandom)) for site in sites]
    keys = make_setup_keys(os.urandom, suite=other)
    weak = replace(unpack(Bundle, bundles[3].body), exchange=keys.exchange_public, kem=keys.kem_public)
    bundles[3] = sign(weak, made.identities[3])

    with pytest.raises(WireError, match=f"keys of suite {other} from site 3, expected {suite}"):
        relay.add_bundle(pack(bundles[3]))
    with pytest.raises(WireError, match=f"keys of suite {other} from site 3, expected {suite}"):
        sites[0].pair(pack(Bundles(bundles=tuple(bundles))))


@pytest.mark.parametrize(("suite", "other"), [SUITES, SUITES[::-1]])
def test_a_signature_of_the_other_suite_is_none(suite: str, other: str) -> None:
    """Not even by a key with the same secret bytes: the charter's key decides how it is checked."""
    made = found(NAMES, suite=suite)
    twin = {"A": lambda key: Identity(key[:32]), "F": lambda key: P384Identity(key.ljust(48, b"\1"))}[other]
    begin = Begin(charter=made.charter.hash, run=bytes(32), attempt=1)

    with pytest.raises(WireError, match="no valid signature"):
        set_up_site(made, 0).begin(pack(sign(begin, twin(made.coordinator.secret_bytes()))), entropy=os.urandom)


def test_a_mirrored_signature_is_no_second_message(lab: Callable) -> None:
    """The coordinator turns a site's signature into the other one that ECDSA allows: it fits nowhere."""
    five = lab(5, suite="F")
    for number in five.everyone:
        five.ready(number)
    ready = five.readys[3]
    s = int.from_bytes(ready.signature[48:], "big")
    five.readys[3] = replace(ready, signature=ready.signature[:48] + (ORDER - s).to_bytes(48, "big"))

    with pytest.raises(WireError, match="ready: found no valid signature"):
        five.site(0).enter(five.roster(five.everyone))
    five.readys[3] = ready
    assert five.site(0).enter(five.roster(five.everyone))
    assert unpack(Ready, ready.body).site == 3


@pytest.mark.parametrize("suite", SUITES)
def test_a_site_revoked_within_a_round_is_in_no_sum(lab: Callable, suite: str) -> None:
    """After its report: nobody who knows confirms survivors with it, whoever did before answers as before."""
    five = lab(5, suite=suite)
    five.up_to_reports()
    early = five.site(1).confirm(five.request(1, five.everyone))
    revocation = pack(five.signed(Revocation(setup=five.federation.run.setup, site=4)))
    for number in five.everyone:
        five.site(number).revoke(revocation)

    for number in (0, 2, 3, 4):
        with pytest.raises(Refused, match="revoked_site"):
            five.site(number).confirm(five.request(number, five.everyone))
    assert five.site(1).confirm(five.request(1, five.everyone)) == early
    assert five.site(0).confirm(five.request(0, [0, 1, 2, 3]))


def attacks() -> list[tuple[str, str]]:
    files = ("test_set_up", "test_rosters", "test_survivors", "test_results", "test_hygiene")
    return [(file, name) for file in files for name in vars(load(file)) if name.startswith("test_")]


@pytest.mark.parametrize(("file", "name"), attacks(), ids=lambda text: text.removeprefix("test_")[:60])
def test_the_attacks_fail_under_suite_f_too(monkeypatch: pytest.MonkeyPatch, file: str, name: str) -> None:
    """Each test of an attack passes again with every key and signature of suite F."""
    module = load(file)
    regulated = {
        "found": partial(found, suite="F"),
        "make_setup_keys": partial(make_setup_keys, suite="F"),
        "MALLORY": P384Identity(b"\x66" * 48),
        "Identity": lambda seed: P384Identity(seed[:16] * 3),
    }
    for word, value in regulated.items():
        if hasattr(module, word):
            monkeypatch.setattr(module, word, value)
    again = load("test_mutations")
    lab = partial(load("conftest").Lab, suite="F")

    assert len(list(again.runs_of(getattr(module, name), lab, monkeypatch))) >= 1


def test_running_them_again_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a site that takes any signature lets an attack of suite F through."""
    module, again = load("test_rosters"), load("test_mutations")
    again.replace_everywhere(
        monkeypatch, messages, "if not signature_fits(key, signed.signature, digest", "if False and (key, digest"
    )
    monkeypatch.setattr(module, "Identity", lambda seed: P384Identity(seed[:16] * 3))

    with pytest.raises((pytest.fail.Exception, AssertionError)):
        module.test_an_invented_site_is_refused(partial(load("conftest").Lab, suite="F"))
