"""HKDF, AES in counter and Galois mode, Argon2id: published answers, through the functions that call them."""

import hashlib
import hmac
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from partsong.common import derive
from partsong.common.secure_sum.masks import STREAM_WORD, apply_masks

unhex = bytes.fromhex


def test_keys_are_derived_as_in_rfc_5869(records: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Appendix A.1 to A.3, through our own functions: the info of the vector in place of a digest, 32 bytes of output."""
    found = records("KDF/rfc-5869-HKDF-SHA256.txt", first="COUNT")
    for record in found:
        info, wanted = unhex(record["info"]), record["OKM"][:64]
        monkeypatch.setattr(derive, "digest", lambda label, *parts, info=info: info)

        assert derive.derive(unhex(record["PRK"]), "any").hex() == wanted
        assert derive.extract(unhex(record["IKM"]), salt=unhex(record["salt"]), label="any", parts=()).hex() == wanted
        assert hmac.new(unhex(record["salt"]), unhex(record["IKM"]), hashlib.sha256).hexdigest() == record["PRK"]
        assert HKDFExpand(SHA256(), int(record["L"]), info).derive(unhex(record["PRK"])).hex() == record["OKM"]
    assert len(found) == 3


def test_hkdf_gives_the_answers_of_wycheproof(wycheproof: Callable) -> None:
    """All sizes and salts; more output than HKDF has is refused."""
    rows = wycheproof("hkdf_sha256_test")
    for row in rows:

        def derived(row: dict = row) -> str:
            kdf = HKDF(SHA256(), row["size"], unhex(row["salt"]), unhex(row["info"]))
            return kdf.derive(unhex(row["ikm"])).hex()

        if row["result"] == "valid":
            assert derived() == row["okm"]
        else:
            with pytest.raises(ValueError, match=r"larger|exceeds|digest"):
                derived()
    assert [row["result"] for row in rows].count("valid") == 83
    assert len(rows) == 86


def stream(key: bytes, *, counter: int, size: int) -> bytes:
    """The key stream that masks put on words, from a block's counter on."""
    words = np.zeros(-(-size // 8), np.uint64)
    apply_masks(words, plus=[key], minus=[], first_word=2 * counter)
    return words.astype(STREAM_WORD).tobytes()[:size]


def test_masks_are_the_key_stream_of_sp_800_38a() -> None:
    """Appendix F.5.5, four blocks of AES-256 in counter mode."""
    key = unhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    plain = unhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    cipher = (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )

    keystream = stream(key, counter=0xF0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF, size=len(plain))

    assert bytes(a ^ b for a, b in zip(plain, keystream, strict=True)).hex() == cipher


def test_masks_are_the_key_stream_of_rfc_3686(records: Callable) -> None:
    """Its three vectors of AES-256."""
    found = records("ciphers/AES/CTR/aes-256-ctr.txt", first="COUNT")
    for record in found:
        plain = unhex(record["PLAINTEXT"])
        keystream = stream(unhex(record["KEY"]), counter=int(record["IV"], 16), size=len(plain))
        assert bytes(a ^ b for a, b in zip(plain, keystream, strict=True)) == unhex(record["CIPHERTEXT"])
    assert len(found) == 3


def test_sealed_bytes_open_as_nist_s_list_says(records: Callable) -> None:
    """AES-256-GCM with nonces of 96 bits and whole tags, as everywhere here: opened, or refused."""
    found = records("ciphers/AES/GCM/gcmDecrypt256.rsp", first="Count")
    # A record begins with Count; those with other sizes of nonce or tag are not what this package uses.
    ours = [r for r in found if len(r["IV"]) == 24 and len(r["Tag"]) == 32]
    refused = 0
    for record in ours:
        sealed = unhex(record["CT"]) + unhex(record["Tag"])
        try:
            opened = AESGCM(unhex(record["Key"])).decrypt(unhex(record["IV"]), sealed, unhex(record["AAD"]))
        except InvalidTag:
            refused += 1
            assert "PT" not in record
        else:
            assert opened == unhex(record["PT"])

    assert (len(found), len(ours)) == (7875, 375)
    assert refused == 191


def test_sealed_bytes_open_as_wycheproof_says(wycheproof: Callable) -> None:
    """Changed tags are refused, each of them; what opens is sealed again to the same bytes."""
    rows = wycheproof("aes_gcm_test")
    for row in rows:
        cipher, nonce, aad = AESGCM(unhex(row["key"])), unhex(row["iv"]), unhex(row["aad"])
        sealed = unhex(row["ct"] + row["tag"])
        if row["result"] == "valid":
            assert cipher.decrypt(nonce, sealed, aad).hex() == row["msg"]
            assert cipher.encrypt(nonce, unhex(row["msg"]), aad) == sealed
        else:
            with pytest.raises(InvalidTag):
                cipher.decrypt(nonce, sealed, aad)
    assert [row["result"] for row in rows].count("invalid") == 27
    assert len(rows) == 66


def test_passphrases_are_stretched_as_in_rfc_9106(records: Callable) -> None:
    """Section 5.3, and what the reference tool prints."""
    found = records("KDF/argon2id.txt", first="COUNT")
    for record in found:
        kdf = Argon2id(
            salt=unhex(record["salt"]),
            length=int(record["length"]),
            iterations=int(record["iter"]),
            lanes=int(record["lanes"]),
            memory_cost=int(record["memcost"]),
            ad=unhex(record["ad"]) if "ad" in record else None,
            secret=unhex(record["secret"]) if "secret" in record else None,
        )
        assert kdf.derive(unhex(record["pass"])).hex() == record["output"].lower()
    assert len(found) == 6
