"""Write a transcript: one set-up and one round of three sites, with every message and the secrets behind it.

    python -P tests/vectors/make_transcript.py A    # or F: one file for each suite

Randomness is a published tape, except inside HPKE; the sealed secrets are therefore other bytes in each file.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from partsong.client.secure_sum import site_state
from partsong.client.secure_sum.key_setup import KeySetup
from partsong.common.build import canonical_json
from partsong.common.codec import pack, unpack
from partsong.common.derive import derive
from partsong.common.identity.keys import Identity
from partsong.common.identity.p384 import ORDER
from partsong.common.identity.suite import SuiteName
from partsong.common.secure_sum.messages import Roster, Signed, sign
from partsong.server.secure_sum.key_setup import SetupRelay
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import found, next_header, wake

SITES, WORDS = 3, 12


def tape(name: str) -> Callable[[int], bytes]:
    """Give the bytes of SHAKE-256 of a name, one after the other."""
    stream, at = hashlib.shake_256(name.encode()).digest(1 << 16), [0]

    def take(size: int) -> bytes:
        at[0] += size
        return stream[at[0] - size : at[0]]

    return take


def vector(site: int) -> np.ndarray:
    """Words with all bits in use that do not wrap in a sum of three."""
    return np.frombuffer(hashlib.shake_256(b"vector %d" % site).digest(8 * WORDS), "<u8") >> np.uint64(2)


def transcript(suite: SuiteName) -> dict[str, object]:
    consortium = found(["ahus", "charite", "sanraffaele"], entropy=tape("identities"), suite=suite)
    charter = consortium.charter
    tapes = [tape(f"site {number}") for number in range(SITES)]
    out: dict[str, object] = {"charter": canonical_json(charter).decode(), "run": "07" * 32}
    relay = SetupRelay(charter=charter, signer=consortium.coordinator, run=b"\x07" * 32, attempt=1)
    sites = [
        KeySetup(charter=charter, site_id=m.id, signer=k, floors=charter.floors, vault=v)
        for m, k, v in zip(charter.sites, consortium.identities, consortium.vaults, strict=True)
    ]
    out["begin"] = relay.begin().hex()
    bundles = [site.begin(relay.begin(), entropy=t) for site, t in zip(sites, tapes, strict=True)]
    for bundle in bundles:
        relay.add_bundle(bundle)
    out["bundle"], out["bundles"] = [b.hex() for b in bundles], relay.bundles().hex()
    for site in sites:
        relay.add_pairings(site.pair(bytes.fromhex(str(out["bundles"]))))
    incoming = relay.pairings()
    out["pairings"] = [incoming[number].hex() for number in range(SITES)]
    reveals = [site.reveal(incoming[number]) for number, site in enumerate(sites)]
    for reveal in reveals:
        relay.add_reveal(reveal)
    out["reveal"], out["reveals"] = [r.hex() for r in reveals], relay.reveals().hex()
    runs = [site.finish(relay.reveals()) for site in sites]
    out["setup"] = runs[0].setup.hex()
    states = [site_state.load(v, charter=charter) for v in consortium.vaults]
    out["group_key"] = states[0].group_key.hex()
    out["pair_keys"] = {
        f"{i}-{j}": states[i].keys_by_peer()[j].hex() for i in range(SITES) for j in range(i + 1, SITES)
    }
    return out | round_of(consortium, runs[0], tapes)


def round_of(consortium, run, tapes) -> dict[str, object]:
    out: dict[str, object] = {}
    sites = [wake(consortium, n, entropy=tapes[n], clock=lambda: 0.0) for n in range(SITES)]
    federation = type("Run", (), {"run": run, "last": None, "rounds": 0})
    header = replace(next_header(federation, words=WORDS), model=b"\x01" * 32, query=b"\x02" * 32)
    desk = SumRound(run=run, signer=consortium.coordinator, header=header)
    out["open"] = desk.open(result=b"").hex()
    for site in sites:
        site.open(desk.open(result=b""))
    out["ready"] = [site.ready(verdict=True, ledger=bytes([n]) * 32).hex() for n, site in enumerate(sites)]
    for ready in out["ready"]:
        desk.add_ready(bytes.fromhex(ready))
    out["roster"] = (roster := desk.close_roster()).hex()
    out["context"] = desk.context.hex()
    sites[0].enter(roster)
    keys = sites[0]._state.keys_by_peer()
    out["mask_seeds_of_site_0"] = {str(j): derive(keys[j], "mask", desk.context).hex() for j in keys}
    for site in sites[1:]:
        site.enter(roster)
    out["vectors"] = [[int(word) for word in vector(n)] for n in range(SITES)]
    out["report"] = [site.report(vector(n)).hex() for n, site in enumerate(sites)]
    for report in out["report"]:
        desk.add_report(bytes.fromhex(report))
    requests = desk.close_reports()
    out["confirm_request"] = [requests[n].hex() for n in range(SITES)]
    out["confirm"] = [site.confirm(requests[n]).hex() for n, site in enumerate(sites)]
    for confirm in out["confirm"]:
        desk.add_confirm(bytes.fromhex(confirm))
    out["quorum"] = (quorum := desk.close_confirms()).hex()
    out["unmask"] = [site.unmask(quorum).hex() for site in sites]
    for unmask in out["unmask"]:
        desk.add_unmask(bytes.fromhex(unmask))
    result, opened = desk.open_sum()
    out["result"], out["sum"] = result.hex(), [int(word) for word in opened.words]
    return out | {"bad": bad(out, consortium.coordinator) + bad_signatures(out, consortium.coordinator)}


def bad(out: dict[str, object], coordinator) -> list[dict[str, str]]:
    """Messages that site 0 refuses in place of the right one, each with the error that it gives."""
    roster, request = bytes.fromhex(str(out["roster"])), bytes.fromhex(out["confirm_request"][0])
    opening, quorum = bytes.fromhex(str(out["open"])), bytes.fromhex(str(out["quorum"]))
    shorter = unpack(Roster, unpack(Signed, roster).body)
    two = pack(sign(replace(shorter, readys=shorter.readys[:2]), coordinator))
    return [
        {"name": "one byte too many", "door": "open", "message": (opening + b"\0").hex(), "expect": "WireError"},
        {"name": "one byte too few", "door": "open", "message": opening[:-1].hex(), "expect": "WireError"},
        {
            "name": "another version",
            "door": "open",
            "message": opening.replace(b"song/1", b"song/2", 1).hex(),
            "expect": "WireError",
        },
        {
            "name": "a flipped bit of the header",
            "door": "open",
            "message": flipped(opening, 100),
            "expect": "WireError",
        },
        {"name": "a flipped bit of a READY", "door": "enter", "message": flipped(roster, 150), "expect": "WireError"},
        {"name": "two of three sites", "door": "enter", "message": two.hex(), "expect": "cohort_floor"},
        {
            "name": "a flipped bit of a bundle",
            "door": "confirm",
            "message": flipped(request, len(request) - 30),
            "expect": "share_bundle",
        },
        {
            "name": "another site's request",
            "door": "confirm",
            "message": out["confirm_request"][1],
            "expect": "share_bundle",
        },
        {"name": "a quorum in place of survivors", "door": "confirm", "message": quorum.hex(), "expect": "WireError"},
        {
            "name": "a flipped bit of a confirmation",
            "door": "unmask",
            "message": flipped(quorum, 150),
            "expect": "WireError",
        },
        {"name": "survivors in place of a quorum", "door": "unmask", "message": request.hex(), "expect": "WireError"},
    ]


def bad_signatures(out: dict[str, object], coordinator) -> list[dict[str, str]]:
    """In suite F: the other signature that ECDSA allows, and the label of suite A; none in suite A."""
    if isinstance(coordinator, Identity):
        return []
    roster = unpack(Roster, unpack(Signed, bytes.fromhex(str(out["roster"]))).body)
    r, s = roster.readys[2].signature[:48], int.from_bytes(roster.readys[2].signature[48:], "big")
    mirrored = replace(roster.readys[2], signature=r + (ORDER - s).to_bytes(48, "big"))
    message = pack(sign(replace(roster, readys=(*roster.readys[:2], mirrored)), coordinator))
    opening = bytes.fromhex(str(out["open"]))
    relabelled = bytes([opening[0] - 2]) + opening[1:].replace(b"/F ", b" ", 1)
    return [
        {"name": "a mirrored signature", "door": "enter", "message": message.hex(), "expect": "WireError"},
        {"name": "the label of suite A", "door": "open", "message": relabelled.hex(), "expect": "WireError"},
    ]


def flipped(message: bytes, place: int) -> str:
    return (message[:place] + bytes([message[place] ^ 4]) + message[place + 1 :]).hex()


if __name__ == "__main__":
    name = {"A": "transcript.json", "F": "transcript_f.json"}[sys.argv[1]]
    Path(__file__).with_name(name).write_text(json.dumps(transcript(sys.argv[1]), indent=1) + "\n")
