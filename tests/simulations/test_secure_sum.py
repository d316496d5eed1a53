"""A whole federation in one process, under each suite: set-up, rounds, drop-outs, restarts, a revocation, vaults on disk."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from partsong.client.secure_sum.file_vault import FileVault
from partsong.common.codec import pack, unpack
from partsong.common.errors import Refused
from partsong.common.identity.charter import SignedCharter, read, sign_as_coordinator, sign_as_site
from partsong.common.identity.keys import lock, unlock
from partsong.common.identity.p384 import ORDER, point_bytes, private_key, signature_from_der
from partsong.common.identity.suite import EXCHANGE_KEY_BYTES, KEM_KEY_BYTES, SIGNATURE_BYTES, SUITES
from partsong.common.secure_sum.messages import Bundle, Bundles, Revocation, Signed, sign
from partsong.server.secure_sum.key_setup import SetupRelay
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import Federation, found, next_header, run_round, set_up, wake

WORDS = 40
NAMES = ["bergamo", "lyon", "porto", "turku", "utrecht"]
VECTORS = {i: np.random.default_rng(i).integers(0, 2**50, WORDS, dtype=np.uint64) for i in range(5)}


@pytest.fixture(params=SUITES)
def made(request: pytest.FixtureRequest) -> Federation:
    return set_up(found(NAMES, suite=request.param), run=bytes(32))


def sum_of(made: Federation, sites: set[int], **how: object) -> None:
    """Run a round and compare its sum with the plain one over these sites."""
    opened = run_round(made, next_header(made, words=WORDS), lambda i, _: VECTORS[i], **how)

    assert opened.words.tolist() == sum(VECTORS[i] for i in sites).tolist()


@pytest.mark.parametrize(
    ("phase", "survivors"),
    [("ready", {0, 1, 3, 4}), ("report", {0, 1, 3, 4}), ("confirm", set(range(5))), ("unmask", set(range(5)))],
)
def test_the_sum_is_exact_over_those_that_confirmed(made: Federation, phase: str, survivors: set[int]) -> None:
    """With everyone, then with one site lost at each message, then with it back."""
    sum_of(made, set(range(5)))
    sum_of(made, survivors, drop={2: phase})
    sum_of(made, set(range(5)))


def test_a_site_goes_on_after_a_crash(made: Federation) -> None:
    """All that a restarted process has is its vault."""
    sum_of(made, set(range(5)))
    for site in range(5):
        made.sites[site] = wake(made.consortium, site)

    sum_of(made, set(range(5)))


def test_a_revocation_ends_a_site_s_part_in_the_run(made: Federation) -> None:
    """The others enter no roster with it, it enters none itself, and without it the run goes on."""
    sum_of(made, set(range(5)))
    revocation = pack(sign(Revocation(setup=made.run.setup, site=4), made.consortium.coordinator))
    for site in made.sites.values():
        site.revoke(revocation)
    made.rounds += 1
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=WORDS))
    for site in made.sites.values():
        site.open(desk.open(result=made.result))
        desk.add_ready(site.ready(verdict=True))
    roster = desk.close_roster()

    for site in made.sites.values():
        with pytest.raises(Refused, match="revoked_site"):
            site.enter(roster)
    made.rounds += 1
    sum_of(made, {0, 1, 2, 3}, drop={4: "ready"})


def test_an_identity_comes_from_its_file_and_vaults_lie_on_disk(made: Federation, tmp_path: Path) -> None:
    """Locked, unlocked, a charter co-signed with what was unlocked, and rounds from vaults on disk."""
    first = made.consortium
    from_file = unlock(
        lock(first.identities[0], passphrase=b"correct horse", entropy=os.urandom), passphrase=b"correct horse"
    )
    keys = (from_file, *first.identities[1:])
    signed = SignedCharter(
        charter=first.charter,
        coordinator_signature=sign_as_coordinator(first.charter, first.coordinator),
        site_signatures={n: sign_as_site(first.charter, site_id=n, signer=k) for n, k in zip(NAMES, keys, strict=True)},
    )
    for name in NAMES:
        (tmp_path / name).mkdir()
    vaults = tuple(FileVault(tmp_path / name, key=os.urandom(32), entropy=os.urandom) for name in NAMES)

    on_disk = set_up(
        replace(first, charter=read(signed.to_bytes()).charter, identities=keys, vaults=vaults), run=bytes(32)
    )

    sum_of(on_disk, set(range(5)))
    sum_of(on_disk, {0, 1, 2, 3}, drop={4: "report"})


class Device:
    """A P-384 key that a module of hardware would hold: its nonces are random and its s may be the larger one."""

    def __init__(self, scalar: bytes) -> None:
        self._key, self.upper = private_key(scalar), 0
        self.public_key = point_bytes(self._key.public_key())

    def sign(self, message: bytes) -> bytes:
        der = self._key.sign(message, ECDSA(SHA384()))
        self.upper += decode_dss_signature(der)[1] > ORDER // 2
        return signature_from_der(der)


def test_a_key_that_never_leaves_its_device_signs_charter_and_rounds() -> None:
    """Through `Signer` alone, with signatures that differ each time."""
    plain = found(NAMES, suite="F")
    devices = tuple(Device(key.secret_bytes()) for key in plain.identities)
    for name, device in zip(NAMES, devices, strict=True):
        sign_as_site(plain.charter, site_id=name, signer=device)
    made = set_up(replace(plain, identities=devices), run=bytes(32))

    sum_of(made, set(range(5)))
    sum_of(made, {0, 1, 2, 3}, drop={4: "report"})

    assert devices[0].sign(b"x") != devices[0].sign(b"x")
    assert sum(device.upper for device in devices) > 0


@pytest.mark.parametrize("suite", SUITES)
def test_what_goes_over_the_wire_has_the_sizes_of_the_suite(suite: str) -> None:
    """Bundles and signatures, as they pass the relay."""
    made = found(NAMES, suite=suite)
    relay = SetupRelay(charter=made.charter, signer=made.coordinator, run=bytes(32), attempt=1)
    set_up(made, run=bytes(32))

    begin = unpack(Signed, relay.begin())

    assert len(begin.signature) == SIGNATURE_BYTES.of(suite)
    assert relay.begin().startswith({"A": b"\x11partsong/1 signed", "F": b"\x13partsong/1/F signed"}[suite])
    bundle = Bundle(
        begin=bytes(32),
        site=0,
        exchange=bytes(EXCHANGE_KEY_BYTES.of(suite)),
        kem=bytes(KEM_KEY_BYTES.of(suite)),
        commitment=bytes(32),
    )
    signed = sign(bundle, made.identities[0])
    assert unpack(Bundles, pack(Bundles(bundles=(signed,)))).bundles == (signed,)
    assert len(pack(bundle)) - len({"A": "partsong/1 bundle", "F": "partsong/1/F bundle"}[suite]) == 1 + 72 + len(
        bundle.exchange + bundle.kem
    )
