"""Secrets beside the identity key open for their owner, their use and their passphrase alone."""

import os

import pytest

from partsong.common.identity.keys import KeyFileError
from partsong.common.identity.wrapped_secret import unwrap, wrap

OWNER, SECRET, PASSPHRASE = b"\x01" * 32, b"thirty-two secret bytes, or more", b"correct horse battery"
DATA = wrap(SECRET, kind="vault", owner=OWNER, passphrase=PASSPHRASE, entropy=os.urandom)


def test_a_secret_comes_back() -> None:
    """And is not in the file in the clear."""
    assert unwrap(DATA, kind="vault", owner=OWNER, passphrase=PASSPHRASE) == SECRET
    assert SECRET not in DATA
    assert SECRET.hex().encode() not in DATA


def test_nothing_else_opens_it() -> None:
    """Another passphrase, use or owner; a changed byte of the key, the numbers or the owner; another form."""
    middle = DATA.index(b'"ciphertext":"') + 20
    flipped = DATA[:middle] + (b"0" if DATA[middle : middle + 1] != b"0" else b"1") + DATA[middle + 1 :]
    other = OWNER.hex().replace("01", "02", 1).encode()

    for data, kind, owner, passphrase in (
        (DATA, "vault", OWNER, b"correct horse batterz"),
        (DATA, "authority", OWNER, PASSPHRASE),
        (DATA.replace(b'"vault"', b'"authority"'), "authority", OWNER, PASSPHRASE),
        (DATA, "vault", b"\x02" * 32, PASSPHRASE),
        (DATA.replace(OWNER.hex().encode(), other), "vault", bytes.fromhex(other.decode()), PASSPHRASE),
        (flipped, "vault", OWNER, PASSPHRASE),
        (DATA.replace(b"65536", b"19456"), "vault", OWNER, PASSPHRASE),
        (DATA + b"\n", "vault", OWNER, PASSPHRASE),
        (b"{}", "vault", OWNER, PASSPHRASE),
        (b"\xff", "vault", OWNER, PASSPHRASE),
    ):
        with pytest.raises(KeyFileError):
            unwrap(data, kind=kind, owner=owner, passphrase=passphrase)
