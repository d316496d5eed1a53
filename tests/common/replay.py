"""A second, slow implementation of PROTOCOL.md, which replays a frozen transcript of three sites.

It shares no code with the package: integers of Python, HMAC for keys and for HPKE, single AES blocks for streams,
and for suite F its own arithmetic of P-384. Section numbers are those of PROTOCOL.md.
"""

import functools
import hashlib
import hmac
import json
from pathlib import Path
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

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


# P-384: y^2 = x^3 - 3x + b.

P = 2**384 - 2**128 - 2**96 + 2**32 - 1
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
B = 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF
G = (
    0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7,
    0x3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C00A60B1CE1D7E819D7A431D7C90EA0E5F,
)
Point = tuple[int, int] | None


def add(one: Point, two: Point) -> Point:
    if one is None or two is None:
        return one or two
    (x1, y1), (x2, y2) = one, two
    if x1 == x2 and (y1 + y2) % P == 0:
        return None
    slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, P) if one == two else (y2 - y1) * pow(x2 - x1, -1, P)
    x = (slope * slope - x1 - x2) % P
    return x, (slope * (x1 - x) - y1) % P


def times(scalar: int, point: Point) -> Point:
    total = None
    for bit in f"{scalar:b}":
        total = add(total, total)
        if bit == "1":
            total = add(total, point)
    return total


def point_bytes(point: Point) -> bytes:
    return b"\x04" + point[0].to_bytes(48, "big") + point[1].to_bytes(48, "big")


def read_point(data: bytes) -> Point:
    x, y = int.from_bytes(data[1:49], "big"), int.from_bytes(data[49:], "big")
    assert (len(data), data[0]) == (97, 4)
    assert max(x, y) < P
    assert (y * y - x**3 + 3 * x - B) % P == 0
    return x, y


@functools.cache
def verify_ecdsa(key: bytes, signature: bytes, message: bytes) -> None:
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    assert 0 < r < N
    assert 0 < s <= (N - 1) // 2
    hashed, inverse = int.from_bytes(hashlib.sha384(message).digest(), "big"), pow(s, -1, N)
    point = add(times(hashed * inverse % N, G), times(r * inverse % N, read_point(key)))
    assert point[0] % N == r


# HPKE, RFC 9180, base mode, one message; the combiners of the two hybrid KEMs.


def hpke_open(sealed: bytes, secret: bytes, info: bytes, *, suite_id: bytes, hash_name: str) -> bytes:
    def hpke_mac(key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, hash_name).digest()

    def labeled_extract(salt: bytes, label: bytes, value: bytes) -> bytes:
        return hpke_mac(salt, b"HPKE-v1" + suite_id + label + value)

    def labeled_expand(key: bytes, label: bytes, value: bytes, size: int) -> bytes:
        return hpke_mac(key, size.to_bytes(2, "big") + b"HPKE-v1" + suite_id + label + value + b"\x01")[:size]

    schedule = b"\0" + labeled_extract(b"", b"psk_id_hash", b"") + labeled_extract(b"", b"info_hash", info)
    key = labeled_extract(secret, b"secret", b"")
    nonce = labeled_expand(key, b"base_nonce", schedule, 12)
    return AESGCM(labeled_expand(key, b"key", schedule, 32)).decrypt(nonce, sealed, b"")


class SuiteA:
    """X25519, X-Wing, Ed25519."""

    mark, signature_bytes, exchange_bytes, kem_bytes = b"", 64, 32, 1184 + 32
    drawn_sizes: ClassVar = {"exchange": 32, "lattice": 64, "curve": 32}

    @staticmethod
    def verify(key: bytes, signature: bytes, message: bytes) -> None:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)

    @staticmethod
    def public(drawn: bytes) -> bytes:
        return X25519PrivateKey.from_private_bytes(drawn).public_key().public_bytes_raw()

    @staticmethod
    def exchange(drawn: bytes, public: bytes) -> bytes:
        return X25519PrivateKey.from_private_bytes(drawn).exchange(X25519PublicKey.from_public_bytes(public))

    lattice = MLKEM768PrivateKey

    @classmethod
    def open(cls, sealed: bytes, lattice: bytes, curve: bytes, info: bytes) -> bytes:
        lattice_part, curve_part = sealed[:1088], sealed[1088:1120]
        shared = cls.lattice.from_seed_bytes(lattice).decapsulate(lattice_part) + cls.exchange(curve, curve_part)
        secret = hashlib.sha3_256(shared + curve_part + cls.public(curve) + rb"\.//^\\"[:6]).digest()
        return hpke_open(sealed[1120:], secret, info, suite_id=b"HPKE\x64\x7a\0\1\0\2", hash_name="sha256")


class SuiteF:
    """ECDH on P-384, MLKEM1024-P384, ECDSA."""

    mark, signature_bytes, exchange_bytes, kem_bytes = b"/F", 96, 97, 1568 + 97
    drawn_sizes: ClassVar = {"exchange": 48, "lattice": 64, "curve": 48}
    verify = staticmethod(verify_ecdsa)

    @staticmethod
    def public(drawn: bytes) -> bytes:
        return point_bytes(times(int.from_bytes(drawn, "big") + 1, G))

    @staticmethod
    def exchange(drawn: bytes, public: bytes) -> bytes:
        return times(int.from_bytes(drawn, "big") + 1, read_point(public))[0].to_bytes(48, "big")

    lattice = MLKEM1024PrivateKey

    @classmethod
    def open(cls, sealed: bytes, lattice: bytes, curve: bytes, info: bytes) -> bytes:
        lattice_part, curve_part = sealed[:1568], sealed[1568:1665]
        shared = cls.lattice.from_seed_bytes(lattice).decapsulate(lattice_part) + cls.exchange(curve, curve_part)
        secret = hashlib.sha3_256(shared + curve_part + cls.public(curve) + b"MLKEM1024-P384").digest()
        return hpke_open(sealed[1665:], secret, info, suite_id=b"HPKE\0\x51\0\2\0\2", hash_name="sha384")


class Fields:
    """Reads one message and insists that nothing is left."""

    def __init__(self, name: str, data: bytes, replay: "Replay", *, marked: bool) -> None:
        label = b"partsong/1" + (replay.suite.mark if marked else b"") + b" " + name.encode()
        assert data[: 1 + len(label)] == bytes([len(label)]) + label
        self.data, self.at, self.replay = data, 1 + len(label), replay

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
        suite, body = self.replay.suite, self.text()
        signature = self.fixed(suite.signature_bytes)
        suite.verify(key or self.replay.key_of(body), signature, digest("signature", body))
        return body

    def many_signed(self, key: bytes | None = None) -> list[bytes]:
        return [self.signed(key) for _ in range(self.count())]

    def end(self) -> None:
        assert self.at == len(self.data)


SITE_AT = {"bundle": 32, "pairing": 32, "reveal": 32, "ready": 32, "report header": 32, "confirm": 64, "unmask": 32}


class Replay:
    """One transcript, and everything that follows from what its sites drew."""

    def __init__(self, path: Path) -> None:
        self.vector = json.loads(path.read_text())
        self.charter = json.loads(self.vector["charter"])
        self.suite = {"A": SuiteA, "F": SuiteF}[self.charter["suite"]]
        self.coordinator = bytes.fromhex(self.charter["coordinator"])
        self.drawn = [self._drawn(site) for site in SITES]
        self.exchange_keys = [self.suite.public(drawn["exchange"]) for drawn in self.drawn]
        self.begin = digest("begin", self.alone(self.message("begin"), self.coordinator))
        self.transcript = digest("set-up", *(self.alone(self.message("bundle", i)) for i in SITES))
        self.pair_keys = {(i, j): self._pair_key(i, j) for j in SITES for i in range(j)}
        self.group_hash = digest("group key", self.transcript, self.drawn[0]["group"])
        self.setup = digest("run", self.transcript, self.group_hash, *(drawn["nonce"] for drawn in self.drawn))
        self.header = self._header()
        self.readys = [self.alone(self.message("ready", i)) for i in SITES]
        self.context = digest("context", self.header, *self.readys)
        self.words = len(self.vector["vectors"][0])
        self.survivors = digest("survivor set", self.context, *(self.report_header(site) for site in SITES))

    def message(self, name: str, at: int | None = None) -> bytes:
        return bytes.fromhex(self.vector[name] if at is None else self.vector[name][at])

    def fields(self, name: str, data: bytes, *, marked: bool = False) -> Fields:
        """Read a message; `marked` where it holds signatures or keys, so that its label names suite F."""
        return Fields(name, data, self, marked=marked)

    def key_of(self, body: bytes) -> bytes:
        """The identity key of the site that a body names."""
        version, name = body[1 : 1 + body[0]].decode().split(" ", 1)
        assert version in ("partsong/1", "partsong/1/F")
        at = 1 + body[0] + SITE_AT[name]
        return bytes.fromhex(self.charter["sites"][int.from_bytes(body[at : at + 8], "big")]["key"])

    def alone(self, data: bytes, key: bytes | None = None) -> bytes:
        fields = self.fields("signed", data, marked=True)
        body = fields.signed(key)
        fields.end()
        return body

    # Section 5: what each site drew, in order, with the site's place deciding what it draws after its nonce.

    def _drawn(self, site: int) -> dict[str, bytes]:
        sizes = self.suite.drawn_sizes | {"nonce": 32} | ({"group": 32} if site == 0 else {})
        sizes |= {f"r{peer}": 32 for peer in range(site + 1, 3)} | {"round": 32}
        data, drawn = hashlib.shake_256(b"site %d" % site).digest(1 << 16), {}
        for name, size in sizes.items():
            drawn[name], data = data[:size], data[size:]
        return drawn

    def _pair_key(self, i: int, j: int) -> bytes:
        shared = self.suite.exchange(self.drawn[i]["exchange"], self.exchange_keys[j])
        return extract(self.transcript, shared + self.drawn[i][f"r{j}"], "pair key", num(i), num(j))

    def kem_key(self, site: int) -> bytes:
        drawn = self.drawn[site]
        lattice = self.suite.lattice.from_seed_bytes(drawn["lattice"]).public_key().public_bytes_raw()
        return lattice + self.suite.public(drawn["curve"])

    # Section 6.

    def _header(self) -> bytes:
        opening = self.fields("open", self.message("open"), marked=True)
        body = opening.signed(self.coordinator)
        assert opening.text() == b""
        opening.end()
        return body

    # Section 7.

    def round_key(self, i: int, j: int) -> bytes:
        return derive(self.pair_keys[min(i, j), max(i, j)], "ratchet")

    def pair_seed(self, i: int, j: int) -> bytes:
        return derive(self.round_key(i, j), "mask", self.context)

    def fresh(self, site: int, size: int) -> bytes:
        keys = b"".join(self.round_key(site, peer) for peer in SITES if peer != site)
        return stream(extract(self.context, self.drawn[site]["round"] + keys, "round entropy"), size)

    def own_seed(self, site: int) -> bytes:
        return self.fresh(site, 32)

    def pad(self, site: int) -> int:
        key = derive(self.drawn[0]["group"], "tag pad", self.context, num(site))
        return int.from_bytes(key, "big") % TAG_FIELD

    def inner(self, words: list[int]) -> int:
        r = stream_words(derive(self.drawn[0]["group"], "tag", self.context), len(words))
        return sum(a * b for a, b in zip(r, words, strict=True)) % TAG_FIELD

    def masked(self, site: int) -> bytes:
        vector = self.vector["vectors"][site]
        tag = (self.inner(vector) + self.pad(site)) % TAG_FIELD
        words = vector + [tag >> 32 * part & 0xFFFFFFFF for part in range(3)]
        masks = [(1, derive(self.own_seed(site), "own mask", self.context))]
        masks += [(1 if peer > site else -1, self.pair_seed(site, peer)) for peer in SITES if peer != site]
        for sign, key in masks:
            words = [(w + sign * s) % 2**64 for w, s in zip(words, stream_words(key, self.words + 3), strict=True)]
        return b"".join(w.to_bytes(8, "little") for w in words)

    def shares(self, site: int) -> dict[int, bytes]:
        """For each holder its shares of this site's secrets."""
        peers = [peer for peer in SITES if peer != site]
        secrets = [self.own_seed(site), *(self.pair_seed(site, peer) for peer in peers)]
        limbs = [int.from_bytes(s, "big") >> 20 * i & 0xFFFFF for s in secrets for i in range(13)]
        data, slopes = self.fresh(site, 32 + 8 * len(limbs))[32:], []
        for at in range(0, len(data), 4):
            value = int.from_bytes(data[at : at + 4], "little") & 0x1FFFFF
            if value < FIELD and len(slopes) < len(limbs):
                slopes.append(value)
        lines = list(zip(limbs, slopes, strict=True))
        return {
            peer: b"".join(((a + b * (peer + 1)) % FIELD).to_bytes(3, "little") for a, b in lines) for peer in peers
        }

    def bundles(self, site: int) -> list[bytes]:
        def place(holder: int) -> tuple[bytes, ...]:
            return self.context, num(site), num(holder)

        return [
            AESGCM(derive(self.round_key(site, holder), "share", *place(holder))).encrypt(
                ZERO_NONCE, share, digest("share bundle", *place(holder))
            )
            for holder, share in sorted(self.shares(site).items())
        ]

    def report_header(self, site: int) -> bytes:
        return self.fields("report", self.message("report", site), marked=True).signed()

    def opened(self) -> list[int]:
        """Rebuild each own seed from the two other sites' shares by Lagrange, and take the masks off the sum."""
        texts = {}
        for site in SITES:
            fields = self.fields("unmask", self.alone(self.message("unmask", site)))
            fields.fixed(40)
            texts[site] = fields.texts()
        total = [0] * (self.words + 3)
        for owner in SITES:
            seed = self._rebuilt(owner, texts)
            words, mask = self.masked(owner), stream_words(derive(seed, "own mask", self.context), self.words + 3)
            for w in range(self.words + 3):
                total[w] = (total[w] + int.from_bytes(words[8 * w : 8 * w + 8], "little") - mask[w]) % 2**64
        return total

    def _rebuilt(self, owner: int, texts: dict[int, list[bytes]]) -> bytes:
        a, b = (i for i in SITES if i != owner)
        points = {i: texts[i][[j for j in SITES if j != i].index(owner)] for i in (a, b)}
        wa = (b + 1) * pow(b - a, -1, FIELD)
        wb = (a + 1) * pow(a - b, -1, FIELD)
        one, two = ([int.from_bytes(points[i][at : at + 3], "little") for at in range(0, 39, 3)] for i in (a, b))
        limbs = [(wa * y1 + wb * y2) % FIELD for y1, y2 in zip(one, two, strict=True)]
        seed = sum(limb << 20 * i for i, limb in enumerate(limbs)).to_bytes(32, "big")
        assert seed == self.own_seed(owner)
        return seed
