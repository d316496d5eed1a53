"""The sites of this package give the messages of the frozen transcript, and refuse its bad ones."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partsong.client.key_setup import KeySetup
from partsong.client.secure_sum import SecureSumSite
from partsong.client.vault import MemoryVault
from partsong.common.build import build
from partsong.common.charter import Charter
from partsong.common.errors import PartsongError, Refused
from partsong.common.keys import Identity

VECTOR = json.loads((Path(__file__).parents[1] / "vectors" / "transcript.json").read_text())
CHARTER = build(Charter, json.loads(VECTOR["charter"]))
DOORS = ["open", "enter", "confirm", "unmask"]


def tape(name: str) -> Callable[[int], bytes]:
    data, at = hashlib.shake_256(name.encode()).digest(1 << 16), [0]

    def take(size: int) -> bytes:
        at[0] += size
        return data[at[0] - size : at[0]]

    return take


def message(name: str, site: int | None = None) -> bytes:
    return bytes.fromhex(VECTOR[name] if site is None else VECTOR[name][site])


def identities() -> list[Identity]:
    source = tape("identities")
    return [Identity.generate(source) for _ in range(4)]


def set_up_site(site: int) -> SecureSumSite:
    """Replay set-up at one site, comparing what it sends where it is determined."""
    vault, source, key = MemoryVault(), tape(f"site {site}"), identities()[site + 1]
    site_id = CHARTER.sites[site].id
    setup = KeySetup(charter=CHARTER, site_id=site_id, signer=key, floors=CHARTER.floors, vault=vault)
    assert setup.begin(message("begin"), entropy=source) == message("bundle", site)
    setup.pair(message("bundles"))
    assert setup.reveal(message("pairings", site)) == message("reveal", site)
    assert setup.finish(message("reveals")).setup.hex() == VECTOR["setup"]
    return SecureSumSite(
        charter=CHARTER, signer=key, floors=CHARTER.floors, vault=vault, entropy=source, clock=lambda: 0.0
    )


def walk(site: SecureSumSite, number: int, *, until: str) -> None:
    """Take the right messages up to a door, comparing every answer."""
    for door in DOORS[: DOORS.index(until)]:
        if door == "open":
            site.open(message("open"))
            assert site.ready(verdict=True) == message("ready", number)
        elif door == "enter":
            entered = site.enter(message("roster"))
            assert entered.context.hex() == VECTOR["context"]
            assert entered.rotation_seed.hex() == VECTOR["rotation_seed"]
            words = np.array(VECTOR["vectors"][number], np.uint64)
            assert site.report(words) == message("report", number)
        else:
            assert site.confirm(message("confirm_request", number)) == message("confirm", number)


@pytest.mark.parametrize("number", range(3))
def test_every_message_of_a_site_is_the_frozen_one(number: int) -> None:
    """From BUNDLE to UNMASK, and the result is found right."""
    site = set_up_site(number)
    walk(site, number, until="unmask")

    assert site.unmask(message("quorum")) == message("unmask", number)
    assert site.close(message("result"), verdict=lambda opened: opened.words.tolist() == VECTOR["sum"])
    assert site._state.verdict == 1


@pytest.mark.parametrize("case", VECTOR["bad"], ids=lambda case: case["name"])
def test_every_bad_message_is_refused_as_expected(case: dict[str, str]) -> None:
    """With the error that the vector names, and the right message still works after it."""
    site = set_up_site(0)
    walk(site, 0, until=case["door"])

    with pytest.raises(PartsongError) as caught:
        getattr(site, case["door"])(bytes.fromhex(case["message"]))

    found = caught.value.rule if isinstance(caught.value, Refused) else type(caught.value).__name__
    assert found == case["expect"]
    walk_on = {"open": "open", "enter": "roster", "unmask": "quorum"}.get(case["door"])
    getattr(site, case["door"])(message(walk_on) if walk_on else message("confirm_request", 0))
