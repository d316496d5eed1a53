"""Wycheproof's vectors of curves: what is invalid is refused, and nothing is left out unsaid."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from partsong.common.identity import p384
from partsong.common.identity.keys import signature_fits
from partsong.common.secure_sum import pairwise
from partsong.common.secure_sum.pairwise import SetupKeys

unhex = bytes.fromhex
FILE = Path(__file__).parents[1] / "vectors" / "wycheproof.json"


def keys_of(suite: str, private: bytes) -> SetupKeys:
    key = X25519PrivateKey.from_private_bytes(private) if suite == "A" else p384.private_key(private)
    return SetupKeys(suite=suite, exchange=key, kem=None, exchange_public=b"", kem_public=b"")


def test_the_rows_are_counted() -> None:
    """As many as upstream has, less what the file says it leaves out."""
    files = json.loads(FILE.read_text())["files"]

    assert {name: (file["of"], len(file["rows"])) for name, file in files.items()} == {
        "aes_gcm_test": (316, 66),
        "hkdf_sha256_test": (86, 86),
        "x25519_test": (518, 518),
        "ed25519_test": (210, 210),
        "ecdsa_secp384r1_sha384_p1363_test": (280, 280),
        "ecdh_secp384r1_ecpoint_test": (790, 258),
        "mlkem_768_encaps_test": (265, 37),
        "mlkem_1024_encaps_test": (269, 41),
        "mlkem_768_test": (201, 20),
        "mlkem_1024_test": (202, 21),
    }
    assert all((file["left_out"] == "nothing") == (file["of"] == len(file["rows"])) for file in files.values())


def test_x25519_gives_the_secret_or_refuses_a_zero_one(wycheproof: Callable) -> None:
    """Twisted, small and unreduced points are computed as RFC 7748 says; a secret of zeros is none."""
    seen = Counter()
    for row in wycheproof("x25519_test"):
        keys = keys_of("A", unhex(row["private"]))
        if set(row["shared"]) == {"0"}:
            with pytest.raises(ValueError, match="Error computing shared key"):
                pairwise._exchange(keys, unhex(row["public"]))
            seen["refused"] += 1
        else:
            assert pairwise._exchange(keys, unhex(row["public"])).hex() == row["shared"]
            seen["computed"] += 1

    assert seen == {"computed": 487, "refused": 31}


def test_ed25519_signatures_fit_where_they_should(wycheproof: Callable) -> None:
    """Each invalid one is refused: truncated, with garbage behind, malleable. Those that a library may take or refuse
    are under keys of small or mixed order, which only their owner could have put into a charter.
    """
    seen = Counter()
    for row in wycheproof("ed25519_test"):
        fits = signature_fits(unhex(row["key"]), unhex(row["sig"]), unhex(row["msg"]))
        seen[row["result"], fits] += 1
        if row["result"] == "acceptable":
            assert {"MixedOrderPublicKey", "SmallOrderPublicKey"} & set(row["flags"])

    assert seen == {("valid", True): 117, ("invalid", False): 64, ("acceptable", True): 29}


def test_ecdsa_signatures_fit_in_their_one_form(wycheproof: Callable) -> None:
    """Each invalid one is refused; a valid one fits if s is in the lower half, else its mirror image does."""
    seen = Counter()
    for row in wycheproof("ecdsa_secp384r1_sha384_p1363_test"):
        key, signature, message = unhex(row["key"]), unhex(row["sig"]), unhex(row["msg"])
        fits = signature_fits(key, signature, message)
        s = int.from_bytes(signature[48:], "big")
        if row["result"] == "valid" and s > p384.ORDER // 2:
            mirror = signature[:48] + (p384.ORDER - s).to_bytes(48, "big")
            assert signature_fits(key, mirror, message)
            seen["mirrored", fits] += 1
        else:
            seen[row["result"], fits] += 1

    assert seen == {("valid", True): 105, ("mirrored", False): 88, ("invalid", False): 87}


def test_ecdh_on_p_384_gives_the_secret_or_refuses_the_point(wycheproof: Callable) -> None:
    """Points off the curve and every form but the uncompressed one are refused."""
    seen = Counter()
    for row in wycheproof("ecdh_secp384r1_ecpoint_test"):
        private = int(row["private"], 16).to_bytes(48, "big")
        public = unhex(row["public"])
        try:
            shared = pairwise._exchange(keys_of("F", private), public).hex()
        except ValueError:
            seen[row["result"], "refused"] += 1
            assert row["result"] == "invalid" or "CompressedPoint" in row["flags"] or "CompressedPublic" in row["flags"]
        else:
            assert row["result"] == "valid"
            assert shared == row["shared"]
            seen["valid", "computed"] += 1

    assert seen == {("valid", "computed"): 239, ("invalid", "refused"): 18, ("acceptable", "refused"): 1}
