"""A coordinator that can send anything it can sign, and sites that are what they are in production."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from partsong.client.secure_sum import masking, site_state
from partsong.client.secure_sum.protocol import SecureSumSite
from partsong.client.secure_sum.site_state import SiteState
from partsong.common.codec import pack, unpack
from partsong.common.derive import derive
from partsong.common.identity.charter import Charter
from partsong.common.identity.suite import SuiteName
from partsong.common.secure_sum.masks import apply_masks
from partsong.common.secure_sum.messages import (
    ConfirmRequest,
    Header,
    Message,
    Open,
    Quorum,
    Report,
    Roster,
    Signed,
    Survivors,
    sign,
)
from partsong.common.secure_sum.result import words_from_bytes
from partsong.common.secure_sum.shamir import SHARE_BYTES, combine
from partsong.common.secure_sum.tag import TAG_WORDS
from partsong.common.secure_sum.transcript import context_of, header_hash
from partsong.common.thresholds import Floors
from partsong.simulations.secure_sum import found, next_header, set_up, wake


class Lab:
    """One round of one federation, message by message, with everything the coordinator sees."""

    words = 50

    def __init__(self, sites: int, *, floors: Floors | None = None, suite: SuiteName = "A") -> None:
        consortium = found([f"site{i:02}" for i in range(sites)], floors=floors, suite=suite)
        self.federation = set_up(consortium, run=bytes(32))
        self.everyone = tuple(range(sites))
        rng = np.random.default_rng(sites)
        self.vectors = {i: rng.integers(0, 2**50, self.words, dtype=np.uint64) for i in self.everyone}
        self.header = next_header(self.federation, words=self.words)
        self.readys: dict[int, Signed] = {}
        self.reports: dict[int, Report] = {}

    def site(self, number: int) -> SecureSumSite:
        return self.federation.sites[number]

    def restart(self, number: int) -> SecureSumSite:
        self.federation.sites[number] = wake(self.federation.consortium, number)
        return self.site(number)

    @property
    def charter(self) -> Charter:
        return self.federation.consortium.charter

    def signed(self, message: Message) -> Signed:
        return sign(message, self.federation.consortium.coordinator)

    def opening(self, header: Header | None = None, *, result: bytes = b"") -> bytes:
        return pack(Open(header=self.signed(header or self.header), result=result))

    def ready(self, number: int, header: Header | None = None, *, result: bytes = b"") -> None:
        self.site(number).open(self.opening(header, result=result))
        self.readys[number] = unpack(Signed, self.site(number).ready(verdict=True))

    def roster(self, numbers: Iterable[int], header: Header | None = None) -> bytes:
        readys = tuple(self.readys[number] for number in numbers)
        return pack(self.signed(Roster(header=header_hash(self.signed(header or self.header)), readys=readys)))

    def report(self, number: int, roster: bytes) -> None:
        self.site(number).enter(roster)
        self.reports[number] = unpack(Report, self.site(number).report(self.vectors[number]))

    def up_to_reports(self, numbers: Iterable[int] | None = None) -> None:
        """All sites are ready and in the roster; those named report."""
        for number in self.everyone:
            self.ready(number)
        for number in numbers if numbers is not None else self.everyone:
            self.report(number, self.roster(self.everyone))

    @property
    def context(self) -> bytes:
        return context_of(self.signed(self.header), [self.readys[number] for number in self.everyone])

    def bundle(self, owner: int, holder: int) -> bytes:
        return self.reports[owner].bundles[[i for i in self.holders if i != owner].index(holder)]

    def survivors(self, numbers: Iterable[int]) -> Survivors:
        return Survivors(context=self.context, reports=tuple(self.reports[number].header for number in numbers))

    def request(self, holder: int, numbers: Iterable[int]) -> bytes:
        chosen = list(numbers)
        bundles = tuple(self.bundle(owner, holder) for owner in chosen if owner != holder and holder in self.holders)
        return pack(ConfirmRequest(survivors=self.signed(self.survivors(chosen)), bundles=bundles))

    def quorum(self, confirms: Iterable[bytes]) -> bytes:
        signed = tuple(unpack(Signed, confirm) for confirm in confirms)
        return pack(self.signed(Quorum(context=self.context, confirms=signed)))

    def state(self, number: int) -> SiteState:
        """What a site that works with the coordinator tells it."""
        return site_state.load(self.federation.consortium.vaults[number], charter=self.charter)

    def all_shares_of(self, holder: int) -> dict[int, list[bytes]]:
        """What a site that works with the coordinator can open: for each owner its seed and each of its pair seeds."""
        keys = self.state(holder).keys_by_peer()
        opened = {}
        for owner in self.everyone:
            if owner != holder:
                data = masking.open_bundle(
                    self.bundle(owner, holder),
                    context=self.context,
                    owner=owner,
                    holder=holder,
                    pair_key=keys[owner],
                    roster=len(self.everyone),
                )
                opened[owner] = [data[i : i + SHARE_BYTES] for i in range(0, len(data), SHARE_BYTES)]
        return opened

    @property
    def holders(self) -> tuple[int, ...]:
        return self.federation.run.holders(self.everyone).sites

    @property
    def threshold(self) -> int:
        return self.federation.run.holders(self.everyone).threshold

    def unmask_by_hand(self, victim: int, own_seed: bytes, pair_seeds: dict[int, bytes]) -> np.ndarray:
        """Take the masks off one vector, given its secrets."""
        words = words_from_bytes(self.reports[victim].words, words=self.words + TAG_WORDS)
        apply_masks(
            words,
            plus=[seed for peer, seed in pair_seeds.items() if peer < victim],
            minus=[
                derive(own_seed, "own mask", self.context),
                *(seed for peer, seed in pair_seeds.items() if peer > victim),
            ],
        )
        return words[: self.words]

    def combine(self, shares: dict[int, bytes]) -> bytes:
        """Rebuild one seed from exactly as many shares as it takes, under the holders' numbers."""
        chosen = dict(sorted((holder + 1, share) for holder, share in shares.items())[: self.threshold])
        (seed,) = combine(chosen, threshold=self.threshold)
        return seed


@pytest.fixture
def lab() -> Callable[..., Lab]:
    """Make a federation of some size at the start of its first round."""
    return Lab
