"""A second, slow implementation of PROTOCOL.md replays one frozen transcript, byte for byte.

It shares no code with the package: integers of Python, HMAC for keys, single AES blocks for streams. Section numbers
are those of PROTOCOL.md.
"""

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "transcript.json").read_text())
CHARTER = json.loads(VECTOR["charter"])
SITES = range(3)
FIELD, TAG_FIELD = 2**21 - 9, 2**89 - 1
THRESHOLD, QUORUM = 2, 2
ZERO_NONCE = bytes(12)


# Section 2.


def frame(*parts: bytes) -> bytes:
    return b"".join(len(p).to_bytes(8, "big") + p for p in parts)


def digest(label: str, *parts: bytes) -> bytes:
    return hashlib.sha256(frame(b"partsong/1 " + label.encode(), *parts)).digest()


def mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


def derive(key: bytes, label: str, *parts: bytes) -> bytes:
    return mac(key, digest(label, *parts) + b"\x01")


def extract(salt: bytes, secret: bytes, label: str, *parts: bytes) -> bytes:
    return mac(mac(salt, secret), digest(label, *parts) + b"\x01")


def num(i: int) -> bytes:
    return i.to_bytes(4, "big")


def stream(key: bytes, size: int) -> bytes:
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    blocks = (block.update(i.to_bytes(16, "big")) for i in range(-(-size // 16)))
    return b"".join(blocks)[:size]


def stream_words(key: bytes, words: int) -> list[int]:
    data = stream(key, 8 * words)
    return [int.from_bytes(data[8 * w : 8 * w + 8], "little") for w in range(words)]


def root(data: bytes) -> bytes:
    leaves = [hashlib.sha256(b"\0" + data[i : i + 65536]).digest() for i in range(0, len(data), 65536)]
    assert len(leaves) == 1
    return leaves[0]


class Fields:
    """Reads one message and insists that nothing is left."""

    def __init__(self, name: str, data: bytes) -> None:
        label = b"partsong/1 " + name.encode()
        assert data[: 1 + len(label)] == bytes([len(label)]) + label
        self.data, self.at = data, 1 + len(label)

    def fixed(self, size: int) -> bytes:
        self.at += size
        assert self.at <= len(self.data)
        return self.data[self.at - size : self.at]

    def number(self) -> int:
        return int.from_bytes(self.fixed(8), "big")

    def count(self) -> int:
        return int.from_bytes(self.fixed(4), "big")

    def text(self) -> bytes:
        return self.fixed(self.count())

    def texts(self) -> list[bytes]:
        return [self.text() for _ in range(self.count())]

    def signed(self, key: bytes | None = None) -> bytes:
        body, signature = self.text(), self.fixed(64)
        Ed25519PublicKey.from_public_bytes(key or key_of(body)).verify(signature, digest("signature", body))
        return body

    def many_signed(self, key: bytes | None = None) -> list[bytes]:
        return [self.signed(key) for _ in range(self.count())]

    def end(self) -> None:
        assert self.at == len(self.data)


COORDINATOR = bytes.fromhex(CHARTER["coordinator"])
SITE_AT = {"bundle": 32, "pairing": 32, "reveal": 32, "ready": 32, "report header": 32, "confirm": 64, "unmask": 32}


def key_of(body: bytes) -> bytes:
    """The identity key of the site that a body names."""
    name = body[12 : 1 + body[0]].decode()
    at = 1 + body[0] + SITE_AT[name]
    return bytes.fromhex(CHARTER["sites"][int.from_bytes(body[at : at + 8], "big")]["key"])


def alone(data: bytes, key: bytes | None = None) -> bytes:
    fields = Fields("signed", data)
    body = fields.signed(key)
    fields.end()
    return body


def message(name: str, at: int | None = None) -> bytes:
    return bytes.fromhex(VECTOR[name] if at is None else VECTOR[name][at])


def tape(site: int, *sizes: int) -> list[bytes]:
    data, out = hashlib.shake_256(b"site %d" % site).digest(1 << 16), []
    for size in sizes:
        out.append(data[:size])
        data = data[size:]
    return out


# Section 5: what each site drew, in order, with the site's place deciding what it draws after its nonce.


def drawn(site: int) -> dict[str, bytes]:
    sizes = {"exchange": 32, "lattice": 64, "curve": 32, "nonce": 32}
    if site == 0:
        sizes["group"] = 32
    sizes |= {f"r{peer}": 32 for peer in range(site + 1, 3)} | {"round": 32}
    return dict(zip(sizes, tape(site, *sizes.values()), strict=True))


DRAWN = [drawn(site) for site in SITES]
EXCHANGE = [X25519PrivateKey.from_private_bytes(d["exchange"]) for d in DRAWN]
KEM_KEYS = [
    (MLKEM768PrivateKey.from_seed_bytes(d["lattice"]), X25519PrivateKey.from_private_bytes(d["curve"])) for d in DRAWN
]
B = digest("begin", alone(message("begin"), COORDINATOR))
T = digest("set-up", *(alone(message("bundle", i)) for i in SITES))


def pair_key(i: int, j: int) -> bytes:
    i, j = sorted((i, j))
    shared = EXCHANGE[i].exchange(X25519PublicKey.from_public_bytes(EXCHANGE[j].public_key().public_bytes_raw()))
    return extract(T, shared + DRAWN[i][f"r{j}"], "pair key", num(i), num(j))


GROUP_HASH = digest("group key", T, DRAWN[0]["group"])
SETUP = digest("run", T, GROUP_HASH, *(d["nonce"] for d in DRAWN))


def test_begin_and_bundles() -> None:
    """BEGIN names the charter; bundles hold the public halves of what was drawn."""
    begin = Fields("begin", alone(message("begin"), COORDINATOR))
    assert begin.fixed(32) == digest("charter", VECTOR["charter"].encode())
    assert (begin.fixed(32), begin.number()) == (bytes.fromhex(VECTOR["run"]), 1)
    begin.end()
    for site in SITES:
        bundle = Fields("bundle", alone(message("bundle", site)))
        assert (bundle.fixed(32), bundle.number()) == (B, site)
        assert bundle.fixed(32) == EXCHANGE[site].public_key().public_bytes_raw()
        assert bundle.fixed(1216) == b"".join(key.public_key().public_bytes_raw() for key in KEM_KEYS[site])
        assert bundle.fixed(32) == digest("beacon nonce", B, DRAWN[site]["nonce"])
        bundle.end()
    together = Fields("bundles", message("bundles"))
    assert together.many_signed() == [alone(message("bundle", site)) for site in SITES]
    together.end()


def test_pairings_and_keys() -> None:
    """Every sealed secret opens to what was drawn; pair keys and group key follow."""
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    for receiver in SITES:
        pairings = Fields("pairings", message("pairings", receiver))
        bodies = pairings.many_signed()
        pairings.end()
        assert len(bodies) == receiver
        for sender, body in enumerate(bodies):
            pairing = Fields("pairing", body)
            assert (pairing.fixed(32), pairing.number(), pairing.number()) == (T, sender, receiver)
            info = digest("pair secret", T, num(sender), num(receiver))
            secret = suite.decrypt(pairing.text(), MLKEM768X25519PrivateKey(*KEM_KEYS[receiver]), info)
            assert secret == DRAWN[sender][f"r{receiver}"]
            group, key = pairing.text(), derive(pair_key(0, receiver), "group key", T)
            assert group == (AESGCM(key).encrypt(ZERO_NONCE, DRAWN[0]["group"], T) if sender == 0 else b"")
            pairing.end()
    assert {f"{i}-{j}": pair_key(i, j).hex() for i in SITES for j in SITES if i < j} == VECTOR["pair_keys"]
    assert DRAWN[0]["group"].hex() == VECTOR["group_key"]


def test_reveals_and_the_name_of_the_run() -> None:
    """Nonces, the group key's hash, and the hash over all of it."""
    reveals = Fields("reveals", message("reveals"))
    for site, body in enumerate(reveals.many_signed()):
        assert body == alone(message("reveal", site))
        reveal = Fields("reveal", body)
        assert (reveal.fixed(32), reveal.number()) == (T, site)
        assert (reveal.fixed(32), reveal.fixed(32)) == (DRAWN[site]["nonce"], GROUP_HASH)
        reveal.end()
    reveals.end()
    assert SETUP.hex() == VECTOR["setup"]


# Section 6.


def header_body() -> bytes:
    opening = Fields("open", message("open"))
    body = opening.signed(COORDINATOR)
    assert opening.text() == b""
    opening.end()
    return body


HEADER = header_body()
READYS = [alone(message("ready", i)) for i in SITES]
CONTEXT = digest("context", HEADER, *READYS)
WORDS = len(VECTOR["vectors"][0])


def test_open_ready_and_roster() -> None:
    """The header's fields, one READY each, and the context over all of them."""
    header = Fields("header", HEADER)
    assert (header.fixed(32), header.number()) == (SETUP, 1)
    assert [header.fixed(32) for _ in range(3)] == [b"\x01" * 32, b"\x02" * 32, bytes(32)]
    assert [header.number() for _ in range(5)] == [WORDS, 0, 1, 2**40, 0]
    assert header.fixed(32) == SETUP
    header.end()
    for site, body in enumerate(READYS):
        ready = Fields("ready", body)
        assert (ready.fixed(32), ready.number(), ready.number()) == (digest("header", HEADER), site, 1)
        ready.end()
    roster = Fields("roster", alone(message("roster"), COORDINATOR))
    assert roster.fixed(32) == digest("header", HEADER)
    assert roster.many_signed() == READYS
    roster.end()
    assert CONTEXT.hex() == VECTOR["context"]
    assert digest("rotation", CONTEXT).hex() == VECTOR["rotation_seed"]


# Section 7.


def round_key(i: int, j: int) -> bytes:
    return derive(pair_key(i, j), "ratchet")


def pair_seed(i: int, j: int) -> bytes:
    return derive(round_key(i, j), "mask", CONTEXT)


def fresh(site: int, size: int) -> bytes:
    keys = b"".join(round_key(site, peer) for peer in SITES if peer != site)
    return stream(extract(CONTEXT, DRAWN[site]["round"] + keys, "round entropy"), size)


def own_seed(site: int) -> bytes:
    return fresh(site, 32)


def pad(site: int) -> int:
    return int.from_bytes(derive(DRAWN[0]["group"], "tag pad", CONTEXT, num(site)), "big") % TAG_FIELD


def inner(words: list[int]) -> int:
    r = stream_words(derive(DRAWN[0]["group"], "tag", CONTEXT), len(words))
    return sum(a * b for a, b in zip(r, words, strict=True)) % TAG_FIELD


def masked(site: int) -> bytes:
    tag = (inner(VECTOR["vectors"][site]) + pad(site)) % TAG_FIELD
    words = VECTOR["vectors"][site] + [tag >> 32 * part & 0xFFFFFFFF for part in range(3)]
    masks = [(1, derive(own_seed(site), "own mask", CONTEXT))]
    masks += [(1 if peer > site else -1, pair_seed(site, peer)) for peer in SITES if peer != site]
    for sign, key in masks:
        words = [(w + sign * s) % 2**64 for w, s in zip(words, stream_words(key, WORDS + 3), strict=True)]
    return b"".join(w.to_bytes(8, "little") for w in words)


def shares(site: int) -> dict[int, bytes]:
    """For each holder its shares of this site's secrets."""
    peers = [peer for peer in SITES if peer != site]
    secrets = [own_seed(site), *(pair_seed(site, peer) for peer in peers)]
    limbs = [int.from_bytes(s, "big") >> 20 * i & 0xFFFFF for s in secrets for i in range(13)]
    data, slopes = fresh(site, 32 + 8 * len(limbs))[32:], []
    for at in range(0, len(data), 4):
        value = int.from_bytes(data[at : at + 4], "little") & 0x1FFFFF
        if value < FIELD and len(slopes) < len(limbs):
            slopes.append(value)
    return {
        peer: b"".join(((a + b * (peer + 1)) % FIELD).to_bytes(3, "little") for a, b in zip(limbs, slopes, strict=True))
        for peer in peers
    }


def bundles(site: int) -> list[bytes]:
    return [
        AESGCM(derive(round_key(site, holder), "share", CONTEXT, num(site), num(holder))).encrypt(
            ZERO_NONCE, share, digest("share bundle", CONTEXT, num(site), num(holder))
        )
        for holder, share in sorted(shares(site).items())
    ]


def report_header(site: int) -> bytes:
    return Fields("report", message("report", site)).signed()


SURVIVORS = digest("survivor set", CONTEXT, *(report_header(site) for site in SITES))


@pytest.mark.parametrize("site", SITES)
def test_reports(site: int) -> None:
    """Masks, tag, shares and bundles, to the last byte."""
    report = Fields("report", message("report", site))
    header = Fields("report header", report.signed())
    assert (header.fixed(32), header.number()) == (CONTEXT, site)
    assert (header.fixed(32), header.fixed(32)) == (root(masked(site)), digest("bundles", *bundles(site)))
    header.end()
    assert report.texts() == bundles(site)
    assert report.text() == masked(site)
    report.end()
    assert {str(j): pair_seed(0, j).hex() for j in (1, 2)} == VECTOR["mask_seeds_of_site_0"]


@pytest.mark.parametrize("site", SITES)
def test_confirm_and_unmask(site: int) -> None:
    """The survivor hash, one confirmation each, and shares of the other sites' own seeds alone."""
    request = Fields("confirm request", message("confirm_request", site))
    survivors = Fields("survivors", request.signed(COORDINATOR))
    assert survivors.fixed(32) == CONTEXT
    assert survivors.many_signed() == [report_header(i) for i in SITES]
    survivors.end()
    others = [i for i in SITES if i != site]
    assert request.texts() == [bundles(i)[[j for j in SITES if j != i].index(site)] for i in others]
    request.end()
    confirm = Fields("confirm", alone(message("confirm", site)))
    assert (confirm.fixed(32), confirm.fixed(32), confirm.number()) == (CONTEXT, SURVIVORS, site)
    confirm.end()
    quorum = Fields("quorum", alone(message("quorum"), COORDINATOR))
    assert quorum.fixed(32) == CONTEXT
    assert quorum.many_signed() == [alone(message("confirm", i)) for i in SITES]
    quorum.end()
    unmask = Fields("unmask", alone(message("unmask", site)))
    assert (unmask.fixed(32), unmask.number()) == (CONTEXT, site)
    assert unmask.texts() == [shares(i)[site][:39] for i in others]
    unmask.end()


def opened() -> list[int]:
    """Rebuild each own seed from the two other sites' shares by Lagrange, and take the masks off the sum."""
    given = {i: Fields("unmask", alone(message("unmask", i))) for i in SITES}
    texts = {}
    for site, fields in given.items():
        fields.fixed(40)
        texts[site] = fields.texts()
    total = [0] * (WORDS + 3)
    for owner in SITES:
        a, b = (i for i in SITES if i != owner)
        points = {i: texts[i][[j for j in SITES if j != i].index(owner)] for i in (a, b)}
        wa = (b + 1) * pow(b - a, -1, FIELD)
        wb = (a + 1) * pow(a - b, -1, FIELD)
        limbs = [
            (
                wa * int.from_bytes(points[a][at : at + 3], "little")
                + wb * int.from_bytes(points[b][at : at + 3], "little")
            )
            % FIELD
            for at in range(0, 39, 3)
        ]
        seed = sum(limb << 20 * i for i, limb in enumerate(limbs)).to_bytes(32, "big")
        assert seed == own_seed(owner)
        words = masked(owner)
        mask = stream_words(derive(seed, "own mask", CONTEXT), WORDS + 3)
        for w in range(WORDS + 3):
            total[w] = (total[w] + int.from_bytes(words[8 * w : 8 * w + 8], "little") - mask[w]) % 2**64
    return total


def test_result() -> None:
    """The opened words are the plain sum, the tag fits, and the statement names them."""
    result = Fields("result", message("result"))
    statement = Fields("statement", result.signed(COORDINATOR))
    assert result.signed(COORDINATOR) == HEADER
    assert result.many_signed() == READYS
    assert result.many_signed() == [report_header(i) for i in SITES]
    assert result.many_signed() == [alone(message("confirm", i)) for i in SITES]
    words = result.text()
    result.end()
    assert [statement.fixed(32) for _ in range(3)] == [CONTEXT, SURVIVORS, root(words)]
    statement.end()
    total = opened()
    plain = [sum(column) for column in zip(*VECTOR["vectors"], strict=True)]
    assert b"".join(w.to_bytes(8, "little") for w in total) == words
    assert total[:WORDS] == plain == VECTOR["sum"]
    tag = total[WORDS] + (total[WORDS + 1] << 32) + (total[WORDS + 2] << 64)
    assert (tag - inner(plain) - sum(pad(i) for i in SITES)) % TAG_FIELD == 0
