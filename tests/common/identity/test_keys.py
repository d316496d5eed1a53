"""Identity keys and their files."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.identity.keys import (
    Identity,
    KeyFileError,
    P384Identity,
    fingerprint,
    lock,
    make_identity,
    signature_fits,
    unlock,
)
from partsong.common.identity.suite import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, SUITES, SuiteName, suite_of_key

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
VECTORS = Path(__file__).parents[2] / "vectors"
KEYS = {"A": Identity(SEED), "F": P384Identity(SEED + b"sixteen bytes  .")}


def tape(name: str) -> Callable[[int], bytes]:
    """Give the bytes of SHAKE-256 of a name, one after the other."""
    data, at = hashlib.shake_256(name.encode()).digest(1 << 10), [0]

    def take(size: int) -> bytes:
        at[0] += size
        return data[at[0] - size : at[0]]

    return take


@pytest.fixture(scope="module", params=SUITES)
def key(request: pytest.FixtureRequest) -> Identity | P384Identity:
    return KEYS[request.param]


@pytest.fixture(scope="module")
def locked(key: Identity | P384Identity) -> bytes:
    return lock(key, passphrase=b"correct horse", entropy=os.urandom)


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            (
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
                "d25bf5f0595bbe24655141438e7a100b"
            ),
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            (
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
                "387b2eaeb4302aeeb00d291612bb0c00"
            ),
        ),
    ],
)
def test_signatures_are_those_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    """Section 7.1, tests 1 and 2."""
    identity = Identity(bytes.fromhex(seed))

    assert identity.public_key.hex() == public
    assert identity.sign(bytes.fromhex(message)).hex() == signature
    assert signature_fits(identity.public_key, bytes.fromhex(signature), bytes.fromhex(message))


@given(st.sampled_from(SUITES), st.integers(0, 511), st.binary(max_size=20))
def test_a_changed_signature_message_or_key_does_not_fit(suite: str, bit: int, message: bytes) -> None:
    """One bit anywhere is enough, and malformed lengths are no signatures either."""
    identity = KEYS[suite]
    signature = bytearray(identity.sign(message))
    assert signature_fits(identity.public_key, bytes(signature), message)

    signature[bit // 8] ^= 1 << bit % 8

    assert not signature_fits(identity.public_key, bytes(signature), message)
    assert not signature_fits(identity.public_key, identity.sign(message), message + b"x")
    assert not signature_fits(identity.public_key, identity.sign(message)[:-1], message)
    assert not signature_fits(identity.public_key, identity.sign(message) + b"\0", message)
    assert not signature_fits(b"", identity.sign(message), message)


def test_a_key_s_length_is_that_of_its_suite() -> None:
    """So is its signature's; and neither suite's signature fits under the other's key."""
    made = {suite: make_identity(suite, os.urandom) for suite in SUITES}

    for suite, identity in made.items():
        assert (len(identity.public_key), suite_of_key(identity.public_key)) == (PUBLIC_KEY_BYTES.of(suite), suite)
        assert len(identity.sign(b"x")) == SIGNATURE_BYTES.of(suite)
    assert suite_of_key(bytes(33)) is None
    assert not signature_fits(made["A"].public_key, made["F"].sign(b"x"), b"x")
    assert not signature_fits(made["F"].public_key, made["A"].sign(b"x"), b"x")


def test_a_key_file_opens_with_its_passphrase_only(key: Identity | P384Identity, locked: bytes) -> None:
    """Round trip, and another passphrase is refused."""
    opened = unlock(locked, passphrase=b"correct horse")
    assert (type(opened), opened.secret_bytes()) == (type(key), key.secret_bytes())
    with pytest.raises(KeyFileError, match="does not open"):
        unlock(locked, passphrase=b"incorrect horse")


@pytest.mark.parametrize("suite", SUITES)
def test_the_format_is_frozen(suite: SuiteName) -> None:
    """The same secret, salt and nonce give the file that stands with the vectors, and that file opens."""
    frozen = (VECTORS / f"identity_{suite.lower()}.json").read_bytes()
    source, passphrase = tape(f"key file {suite}"), "später Frost".encode()
    identity = make_identity(suite, source)

    assert lock(identity, passphrase=passphrase, entropy=source) == frozen
    assert unlock(frozen, passphrase=passphrase).secret_bytes() == identity.secret_bytes()


@pytest.mark.parametrize("field", ["public_key", "salt", "nonce", "ciphertext"])
def test_a_changed_field_does_not_open(locked: bytes, field: str) -> None:
    """The header is authenticated with the key."""
    tree = json.loads(locked)
    tree[field] = ("1" if tree[field][0] == "0" else "0") + tree[field][1:]

    with pytest.raises(KeyFileError, match="does not open"):
        unlock(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode(), passphrase=b"correct horse")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"iterations": 0},
        {"memory_kib": 1 << 30},
        {"memory_kib": 8},
        {"extra": 1},
        {"salt": "zz"},
        {"public_key": "00" * 33},
        {"ciphertext": "00" * 47},
    ],
)
def test_other_formats_and_bounds_are_refused_before_any_work(locked: bytes, change: dict[str, object]) -> None:
    """A planted file costs neither memory nor time."""
    tree = json.loads(locked) | change

    with pytest.raises(KeyFileError, match="another format"):
        unlock(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode(), passphrase=b"correct horse")


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_noise_is_no_key_file(data: bytes) -> None:
    """Any other bytes end in the same kind of error."""
    with pytest.raises(KeyFileError):
        unlock(data, passphrase=b"x")


def test_a_secret_that_is_no_key_of_its_suite_is_refused() -> None:
    """A scalar of 0 or of the order and beyond, in a file that its writer sealed well."""

    class Odd(P384Identity):
        def secret_bytes(self) -> bytes:
            return b"\xff" * 48

    odd = lock(Odd(bytes(47) + b"\7"), passphrase=b"x", entropy=os.urandom)

    with pytest.raises(KeyFileError, match="not its own"):
        unlock(odd, passphrase=b"x")


def test_the_form_is_canonical(locked: bytes) -> None:
    """One more space is another file."""
    with pytest.raises(KeyFileError, match="canonical"):
        unlock(locked + b" ", passphrase=b"correct horse")


def test_an_empty_passphrase_locks_nothing() -> None:
    """Writing a key in clear needs more than an oversight."""
    with pytest.raises(KeyFileError, match="at least one byte"):
        lock(Identity(SEED), passphrase=b"", entropy=os.urandom)


def test_the_file_and_the_repr_hide_the_secret(key: Identity | P384Identity, locked: bytes) -> None:
    """Neither shows the seed."""
    assert SEED.hex().encode() not in locked
    assert SEED not in locked
    assert SEED.hex() not in repr(key)


def test_a_key_file_with_another_s_public_key_is_refused() -> None:
    """Also when whoever wrote it knew the passphrase."""

    class Posing(P384Identity):
        @property
        def public_key(self) -> bytes:
            return KEYS["F"].public_key

    posing = lock(Posing(bytes(47) + b"\7"), passphrase=b"x", entropy=os.urandom)

    with pytest.raises(KeyFileError, match="not its own"):
        unlock(posing, passphrase=b"x")


def test_two_locks_of_one_key_have_nothing_secret_in_common(key: Identity | P384Identity, locked: bytes) -> None:
    """Salt and nonce are fresh."""
    other = json.loads(lock(key, passphrase=b"correct horse", entropy=os.urandom))
    one = json.loads(locked)

    assert all(one[field] != other[field] for field in ("salt", "nonce", "ciphertext"))


def test_fingerprints_are_short_and_differ() -> None:
    """Eight groups of four, another for each key, never another for the same key."""
    for key in KEYS.values():
        text = fingerprint(key.public_key)

        assert [len(group) for group in text.split(" ")] == [4] * 8
        assert text == fingerprint(key.public_key)
    assert len({fingerprint(os.urandom(32)) for _ in range(100)}) == 100
