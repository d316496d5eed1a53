"""HPKE and ML-KEM: published answers. Sealing draws its own randomness, so opening is what can be compared."""

import hashlib
import json
from collections.abc import Callable

import pytest
from cryptography.hazmat.bindings._rust import openssl as rust_openssl
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from partsong.common.errors import WireError
from partsong.common.identity import p384
from partsong.common.identity.suite import SUITES
from partsong.common.secure_sum.pairwise import _HPKE, make_setup_keys, seal_secret

unhex = bytes.fromhex
KEMS = {"A": 0x647A, "F": 0x0051}
LATTICES = {"768": MLKEM768PrivateKey, "1024": MLKEM1024PrivateKey}


def opened(suite: hpke.Suite, key: object, vector: dict) -> list[str]:
    """Open the first message; only that of sequence number 0 fits single-shot HPKE.

    The library's function with associated data, which all published vectors have, is a private one.
    """
    first = vector["encryptions"][0]
    sealed = unhex(vector["enc"] + first["ct"])
    got = rust_openssl.hpke._decrypt_with_aad(suite, sealed, key, unhex(vector["info"]), unhex(first["aad"]))
    return [got.hex(), first["pt"]]


def test_hpke_opens_the_messages_of_rfc_9180(lines: Callable) -> None:
    """X25519 and P-256 in base mode with HKDF-SHA256: each AEAD that the library has."""
    kdf = {1: hpke.KDF.HKDF_SHA256, 3: hpke.KDF.HKDF_SHA512}
    aeads = {1: hpke.AEAD.AES_128_GCM, 2: hpke.AEAD.AES_256_GCM, 3: hpke.AEAD.CHACHA20_POLY1305}
    vectors = json.loads("\n".join(lines("HPKE/test-vectors.json")))
    ours = [v for v in vectors if (v["mode"], v["kem_id"]) == (0, 0x20) and v["aead_id"] in aeads]
    for vector in ours:
        suite = hpke.Suite(hpke.KEM.X25519, kdf[vector["kdf_id"]], aeads[vector["aead_id"]])
        got, wanted = opened(suite, X25519PrivateKey.from_private_bytes(unhex(vector["skRm"])), vector)
        assert got == wanted
    assert (len(vectors), len(ours)) == (128, 6)


def hybrid_key(vector: dict) -> tuple[object, bytes]:
    """Expand the 32-byte seed of a vector to both private keys; give them with the public key in our order."""
    seed = unhex(vector["skRm"])
    if vector["kem_id"] == KEMS["A"]:
        expanded = hashlib.shake_256(seed).digest(96)
        lattice = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        curve = X25519PrivateKey.from_private_bytes(expanded[64:])
        public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        return hpke.MLKEM768X25519PrivateKey(lattice, curve), public
    expanded = hashlib.shake_256(seed).digest(64 + 48)
    lattice, point = MLKEM1024PrivateKey.from_seed_bytes(expanded[:64]), p384.private_key(expanded[64:])
    public = lattice.public_key().public_bytes_raw() + p384.point_bytes(point.public_key())
    return hpke.MLKEM1024P384PrivateKey(lattice, point), public


def test_the_hybrid_kems_open_the_messages_of_the_draft(lines: Callable) -> None:
    """draft-ietf-hpke-pq: X-Wing twice, MLKEM1024-P384 once, the latter just as suite F has it."""
    vectors = json.loads("\n".join(lines("HPKE/hpke-pq-test-vectors.json")))
    ours = [v for v in vectors if v["kem_id"] in KEMS.values()]
    suites = {
        (KEMS["A"], 1, 3): hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305),
        (KEMS["A"], 17, 3): hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.SHAKE256, hpke.AEAD.CHACHA20_POLY1305),
        (KEMS["F"], 2, 2): _HPKE["F"],
    }
    for vector in ours:
        key, public = hybrid_key(vector)
        assert public.hex() == vector["pkRm"]
        got, wanted = opened(suites[vector["kem_id"], vector["kdf_id"], vector["aead_id"]], key, vector)
        assert got == wanted
    assert (len(vectors), len(ours)) == (13, 3)


def blocks(lines: list[str]) -> list[dict[str, str]]:
    pairs = (line.split(" = ") for line in lines if " = " in line)
    groups: list[dict[str, str]] = []
    for name, value in pairs:
        if name == "count":
            groups.append({})
        groups[-1][name] = value
    return groups


def decapsulates(size: str, record: dict[str, str]) -> bool:
    key = LATTICES[size].from_seed_bytes(unhex(record["d"] + record["z"]))
    answers = [key.decapsulate(unhex(record[name])).hex() for name in ("ct", "ct_n")]
    return key.public_key().public_bytes_raw().hex() == record["pk"] and answers == [record["ss"], record["ss_n"]]


@pytest.mark.parametrize("size", list(LATTICES))
def test_ml_kem_gives_the_published_secrets(lines: Callable, size: str) -> None:
    """Key from seed, the secret of a right ciphertext, and that of the implicit refusal of a wrong one."""
    found = [decapsulates(size, record) for record in blocks(lines(f"asymmetric/MLKEM/kat_MLKEM_{size}.rsp"))]

    assert found == [True] * 1000


@pytest.mark.parametrize(("size", "counts"), [("768", (20, 11)), ("1024", (21, 11))])
def test_ml_kem_decapsulates_as_wycheproof_says(wycheproof: Callable, size: str, counts: tuple[int, int]) -> None:
    """Changed ciphertexts give the secret of the implicit refusal; other lengths of seed or ciphertext are refused."""
    rows = wycheproof(f"mlkem_{size}_test")
    for row in rows:

        def secret(row: dict = row) -> str:
            return LATTICES[size].from_seed_bytes(unhex(row["seed"])).decapsulate(unhex(row["c"])).hex()

        if row["result"] == "valid":
            assert secret() == row["K"]
        else:
            with pytest.raises(ValueError, match=r"."):
                secret()
    assert (len(rows), [row["result"] for row in rows].count("invalid")) == counts


@pytest.mark.parametrize(("suite", "size", "count"), [("A", "768", 37), ("F", "1024", 41)])
def test_public_keys_that_wycheproof_calls_invalid_are_refused(
    wycheproof: Callable, suite: str, size: str, count: int
) -> None:
    """Coefficients that are not reduced, and other lengths: nothing is sealed to them."""
    public = make_setup_keys(lambda n: b"\x11" * n, suite=suite).kem_public
    lattice_size = len(public) - {"A": 32, "F": 97}[suite]
    rows = wycheproof(f"mlkem_{size}_encaps_test")
    place = {"transcript": bytes(32), "sender": 0, "receiver": 1, "suite": suite}
    for row in rows:
        with pytest.raises(WireError, match="malformed KEM key"):
            seal_secret(bytes(32), kem_public=unhex(row["ek"]) + public[lattice_size:], **place)

    assert len(rows) == count
    assert {row["result"] for row in rows} == {"invalid"}
    assert seal_secret(bytes(32), kem_public=public, **place)


def test_both_suites_are_here() -> None:
    """A third one would need vectors of its own."""
    assert tuple(KEMS) == SUITES
