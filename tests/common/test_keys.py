"""Identity keys and their files."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.keys import Identity, KeyFileError, fingerprint, lock, signature_fits, unlock

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")


@pytest.fixture(scope="module")
def locked() -> bytes:
    return lock(Identity(SEED), passphrase=b"correct horse", entropy=os.urandom)


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


@given(st.integers(0, 511), st.binary(max_size=20))
def test_a_changed_signature_message_or_key_does_not_fit(bit: int, message: bytes) -> None:
    """One bit anywhere is enough, and malformed lengths are no signatures either."""
    identity = Identity(SEED)
    signature = bytearray(identity.sign(message))
    assert signature_fits(identity.public_key, bytes(signature), message)

    signature[bit // 8] ^= 1 << bit % 8

    assert not signature_fits(identity.public_key, bytes(signature), message)
    assert not signature_fits(identity.public_key, identity.sign(message), message + b"x")
    assert not signature_fits(identity.public_key, identity.sign(message)[:-1], message)
    assert not signature_fits(b"", identity.sign(message), message)


def test_a_key_file_opens_with_its_passphrase_only(locked: bytes) -> None:
    """Round trip, and another passphrase is refused."""
    assert unlock(locked, passphrase=b"correct horse").public_key == Identity(SEED).public_key
    with pytest.raises(KeyFileError, match="does not open"):
        unlock(locked, passphrase=b"incorrect horse")


@pytest.mark.parametrize("field", ["public_key", "salt", "nonce", "ciphertext"])
def test_a_changed_field_does_not_open(locked: bytes, field: str) -> None:
    """The header is authenticated with the key."""
    tree = json.loads(locked)
    tree[field] = ("1" if tree[field][0] == "0" else "0") + tree[field][1:]

    with pytest.raises(KeyFileError, match="does not open"):
        unlock(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode(), passphrase=b"correct horse")


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"iterations": 0}, {"memory_kib": 1 << 30}, {"memory_kib": 8}, {"extra": 1}, {"salt": "zz"}],
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


def test_the_form_is_canonical(locked: bytes) -> None:
    """One more space is another file."""
    with pytest.raises(KeyFileError, match="canonical"):
        unlock(locked + b" ", passphrase=b"correct horse")


def test_an_empty_passphrase_locks_nothing() -> None:
    """Writing a key in clear needs more than an oversight."""
    with pytest.raises(KeyFileError, match="at least one byte"):
        lock(Identity(SEED), passphrase=b"", entropy=os.urandom)


def test_the_file_and_the_repr_hide_the_secret(locked: bytes) -> None:
    """Neither shows the seed."""
    assert SEED.hex().encode() not in locked
    assert SEED not in locked
    assert SEED.hex() not in repr(Identity(SEED))


def test_two_locks_of_one_key_have_nothing_secret_in_common(locked: bytes) -> None:
    """Salt and nonce are fresh."""
    other = json.loads(lock(Identity(SEED), passphrase=b"correct horse", entropy=os.urandom))
    one = json.loads(locked)

    assert all(one[field] != other[field] for field in ("salt", "nonce", "ciphertext"))


def test_fingerprints_are_short_and_differ() -> None:
    """Eight groups of four, another for each key, never another for the same key."""
    text = fingerprint(Identity(SEED).public_key)

    assert [len(group) for group in text.split(" ")] == [4] * 8
    assert text == fingerprint(Identity(SEED).public_key)
    assert len({fingerprint(os.urandom(32)) for _ in range(100)}) == 100
