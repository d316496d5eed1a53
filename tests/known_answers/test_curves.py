"""X25519, Ed25519, P-384: published answers, through the functions that the protocol calls."""

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from partsong.common.identity import p384
from partsong.common.identity.keys import Identity, P384Identity, signature_fits
from partsong.common.secure_sum import pairwise
from partsong.common.secure_sum.pairwise import SetupKeys

unhex = bytes.fromhex


def exchange(private: bytes, public: bytes, *, suite: str = "A") -> bytes:
    """Run the exchange of a set-up with a given private key."""
    key = X25519PrivateKey.from_private_bytes(private) if suite == "A" else p384.private_key(private)
    keys = SetupKeys(suite=suite, exchange=key, kem=None, exchange_public=b"", kem_public=b"")
    return pairwise._exchange(keys, public)


def point(x: str, y: str) -> bytes:
    return b"\x04" + unhex(x).rjust(48, b"\0") + unhex(y).rjust(48, b"\0")


def test_the_exchange_is_that_of_rfc_7748(records: Callable) -> None:
    """Section 5.2, both vectors and the first iteration, and the two sides of section 6.1."""
    found = records("asymmetric/X25519/rfc7748.txt", first="COUNT")
    for record in found:
        assert exchange(unhex(record["INPUT_SCALAR"]), unhex(record["INPUT_U"])).hex() == record["OUTPUT_U"]
    assert len(found) == 3

    alice = X25519PrivateKey.from_private_bytes(
        unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    )
    bob = X25519PrivateKey.from_private_bytes(unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    publics = [key.public_key().public_bytes_raw() for key in (alice, bob)]
    assert publics[0].hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    for key, public in ((alice, publics[1]), (bob, publics[0])):
        shared = exchange(key.private_bytes_raw(), public)
        assert shared.hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def test_a_thousand_iterations_of_rfc_7748(records: Callable) -> None:
    """Section 5.2: each output is the next scalar."""
    k = u = b"\x09" + bytes(31)
    for _ in range(1000):
        k, u = exchange(k, u), k

    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_signatures_are_those_of_rfc_8032_and_a_thousand_more(lines: Callable) -> None:
    """The reference implementation's list, whose first entries are those of section 7.1."""
    found = lines("asymmetric/Ed25519/sign.input")
    for line in found:
        secret, public, message, signed, _ = line.split(":")
        identity = Identity(unhex(secret[:64]))
        assert identity.public_key.hex() == public
        assert identity.sign(unhex(message)).hex() == signed[:128]
        assert signature_fits(identity.public_key, unhex(signed[:128]), unhex(message))
    assert len(found) == 1024


def test_deterministic_signatures_are_those_of_rfc_6979() -> None:
    """Appendix A.2.6, SHA-384; the second s is the larger one there, so ours is its mirror image."""
    scalar = unhex("6b9d3dad2e1b8c1c05b19875b6659f4de23c3b667bf297ba9aa47740787137d896d5724e4c70a825f872c9ea60d2edf5")
    identity = P384Identity(scalar)
    r1 = "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46"
    s1 = 0x99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8
    r2 = "8203b63d3c853e8d77227fb377bcf7b7b772e97892a80f36ab775d509d7a5feb0542a7f0812998da8f1dd3ca3cf023db"
    s2 = 0xDDD0760448D42D8A43AF45AF836FCE4DE8BE06B485E9B61B827C2F13173923E06A739F040649A667BF3B828246BAA5A5

    assert identity.public_key.hex() == (
        "04"
        "ec3a4e415b4e19a4568618029f427fa5da9a8bc4ae92e02e06aae5286b300c64def8f0ea9055866064a254515480bc13"
        "8015d9b72d7d57244ea8ef9ac0c621896708a59367f9dfb9f54ca84b3f1c9db1288b231c3ae0d4fe7344fd2533264720"
    )
    for message, r, s in ((b"sample", r1, s1), (b"test", r2, s2)):
        lower = min(s, p384.ORDER - s)
        assert identity.sign(message).hex() == r + lower.to_bytes(48, "big").hex()
        assert p384.signature_from_der(encode_dss_signature(int(r, 16), s)) == identity.sign(message)


def test_signatures_of_fips_186_3_are_verified(records: Callable) -> None:
    """P-384 with SHA-384: 15 generated ones fit, and of 15 others just those that the list says."""
    made = records("asymmetric/ECDSA/FIPS_186-3/SigGen.txt", first="Msg", section="P-384,SHA-384")
    given = records("asymmetric/ECDSA/FIPS_186-3/SigVer.rsp", first="Msg", section="P-384,SHA-384")
    results = []
    for record in made + given:
        signature = p384.signature_from_der(encode_dss_signature(int(record["R"], 16), int(record["S"], 16)))
        results.append(signature_fits(point(record["Qx"], record["Qy"]), signature, unhex(record["Msg"])))

    assert (len(made), len(given)) == (15, 15)
    assert results == [True] * 15 + [record["Result"].startswith("P") for record in given]
    assert 0 < results[15:].count(True) < 15


def test_points_of_fips_186_3_are_read_or_refused(records: Callable) -> None:
    """The list of P-384: on the curve, off it, out of range."""
    found = records("asymmetric/ECDSA/FIPS_186-3/PKV.rsp", first="Qx", section="P-384")
    accepted = []
    for record in found:
        try:
            p384.read_point(point(record["Qx"], record["Qy"]))
        except ValueError:
            accepted.append(False)
        else:
            accepted.append(True)

    assert accepted == [record["Result"].startswith("P") for record in found]
    assert (len(found), accepted.count(True)) == (12, 4)


def test_key_pairs_of_fips_186_3_belong_together(records: Callable) -> None:
    """Ten scalars of P-384 and their points."""
    found = records("asymmetric/ECDSA/FIPS_186-3/KeyPair.rsp", first="d", section="P-384")
    keys = [record for record in found if "Qx" in record]
    for record in keys:
        assert P384Identity(unhex(record["d"])).public_key == point(record["Qx"], record["Qy"])
    assert len(keys) == 10


@pytest.mark.parametrize("role", ["init", "resp"])
def test_the_exchange_on_p_384_is_that_of_sp_800_56a(records: Callable, role: str) -> None:
    """The validity lists: the right secret where the list says so, another or none where something was changed."""
    name = f"asymmetric/ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_{role}.fax"
    found = records(name, first="COUNT", section="ED - SHA384")
    right = []
    for record in found:
        try:
            shared = exchange(unhex(record["dsIUT"]), point(record["QsCAVSx"], record["QsCAVSy"]), suite="F").hex()
        except ValueError:
            shared = ""
        right.append(shared == record["Z"])
    passes = [record["Result"].startswith("P") for record in found]

    assert right == passes
    assert (len(found), passes.count(True)) == (30, 18)
