"""The sites of this package give the messages of the frozen transcript, and refuse its bad ones."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partsong.client.secure_sum.key_setup import KeySetup
from partsong.client.secure_sum.protocol import SecureSumSite
from partsong.client.secure_sum.vault import MemoryVault
from partsong.common.build import build
from partsong.common.errors import PartsongError, Refused
from partsong.common.identity.charter import Charter
from partsong.common.identity.keys import make_identity
from partsong.common.identity.suite import SUITES, SuiteName

VECTORS = Path(__file__).parents[2] / "vectors"
FILES = {"A": "transcript.json", "F": "transcript_f.json"}
DOORS = ["open", "enter", "confirm", "unmask"]


def tape(name: str) -> Callable[[int], bytes]:
    data, at = hashlib.shake_256(name.encode()).digest(1 << 16), [0]

    def take(size: int) -> bytes:
        at[0] += size
        return data[at[0] - size : at[0]]

    return take


class Transcript:
    """One frozen run, and sites that take part in it again."""

    def __init__(self, suite: SuiteName) -> None:
        self.vector = json.loads((VECTORS / FILES[suite]).read_text())
        self.charter = build(Charter, json.loads(self.vector["charter"]))
        assert self.charter.suite == suite
        source = tape("identities")
        self.identities = [make_identity(suite, source) for _ in range(4)]

    def message(self, name: str, site: int | None = None) -> bytes:
        return bytes.fromhex(self.vector[name] if site is None else self.vector[name][site])

    def set_up_site(self, site: int) -> SecureSumSite:
        """Replay set-up at one site, comparing what it sends where it is determined."""
        vault, source, key, charter = MemoryVault(), tape(f"site {site}"), self.identities[site + 1], self.charter
        site_id = charter.sites[site].id
        setup = KeySetup(charter=charter, site_id=site_id, signer=key, floors=charter.floors, vault=vault)
        assert setup.begin(self.message("begin"), entropy=source) == self.message("bundle", site)
        setup.pair(self.message("bundles"))
        assert setup.reveal(self.message("pairings", site)) == self.message("reveal", site)
        assert setup.finish(self.message("reveals")).setup.hex() == self.vector["setup"]
        return SecureSumSite(
            charter=charter, signer=key, floors=charter.floors, vault=vault, entropy=source, clock=lambda: 0.0
        )

    def walk(self, site: SecureSumSite, number: int, *, until: str) -> None:
        """Take the right messages up to a door, comparing every answer."""
        for door in DOORS[: DOORS.index(until)]:
            if door == "open":
                site.open(self.message("open"))
                assert site.ready(verdict=True, ledger=bytes([number]) * 32) == self.message("ready", number)
            elif door == "enter":
                entered = site.enter(self.message("roster"))
                assert entered.context.hex() == self.vector["context"]
                words = np.array(self.vector["vectors"][number], np.uint64)
                assert site.report(words) == self.message("report", number)
            else:
                assert site.confirm(self.message("confirm_request", number)) == self.message("confirm", number)


FROZEN = {suite: Transcript(suite) for suite in SUITES}
BAD = [(suite, case) for suite in SUITES for case in FROZEN[suite].vector["bad"]]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("number", range(3))
def test_every_message_of_a_site_is_the_frozen_one(suite: SuiteName, number: int) -> None:
    """From BUNDLE to UNMASK, and the result is found right."""
    frozen = FROZEN[suite]
    site = frozen.set_up_site(number)
    frozen.walk(site, number, until="unmask")

    assert site.unmask(frozen.message("quorum")) == frozen.message("unmask", number)
    assert site.close(frozen.message("result"), verdict=lambda opened: opened.words.tolist() == frozen.vector["sum"])
    assert site._state.verdict == 1


@pytest.mark.parametrize(("suite", "case"), BAD, ids=[f"{suite}-{case['name']}" for suite, case in BAD])
def test_every_bad_message_is_refused_as_expected(suite: SuiteName, case: dict[str, str]) -> None:
    """With the error that the vector names, and the right message still works after it."""
    frozen = FROZEN[suite]
    site = frozen.set_up_site(0)
    frozen.walk(site, 0, until=case["door"])

    with pytest.raises(PartsongError) as caught:
        getattr(site, case["door"])(bytes.fromhex(case["message"]))

    found = caught.value.rule if isinstance(caught.value, Refused) else type(caught.value).__name__
    assert found == case["expect"]
    walk_on = {"open": "open", "enter": "roster", "unmask": "quorum"}.get(case["door"])
    getattr(site, case["door"])(frozen.message(walk_on) if walk_on else frozen.message("confirm_request", 0))


def test_the_transcripts_are_those_that_were_frozen() -> None:
    """A change to one would be another protocol, whatever the tests that read it say."""
    digests = {suite: hashlib.sha256((VECTORS / name).read_bytes()).hexdigest() for suite, name in FILES.items()}

    assert digests == {
        "A": "14407d01a0defd25d8af179b8dde6518def75a38a6471c597571766223d64cd1",
        "F": "a239fc063404e98c34cab0e2f4d4bbbb20fc0366abc5ea8b3becb2a428840319",
    }
