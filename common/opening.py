"""From shares to seeds, and from a masked sum to the sum: what the coordinator does, and what a check repeats.

Specification: PROTOCOL.md section 7, "Opening".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from partsong.common.derive import derive
from partsong.common.errors import WireError
from partsong.common.fixed_point import WordVec
from partsong.common.masks import apply_masks
from partsong.common.messages import Signed, Unmask
from partsong.common.shamir import SHARE_BYTES, combine
from partsong.common.transcript import RunFacts, read_from_sites


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Seeds:
    """Everything that has to come off one masked sum. Public once the sum is."""

    own: Mapping[int, bytes]
    """Own-mask seed of each survivor."""
    orphaned: Mapping[tuple[int, int], bytes]
    """Seed of each pair of a survivor and a dropped site."""


def read_unmasks(
    signed: Sequence[Signed], *, context: bytes, roster: Sequence[int], survivors: Sequence[int], run: RunFacts
) -> tuple[Unmask, ...]:
    """Read UNMASKs of survivors with as many shares as the survivor set asks for.

    Raises:
        WireError: of another context, not signed by a survivor, out of order, or with other shares; dropped.
    """
    read = read_from_sites(Unmask, signed, run)
    size = SHARE_BYTES * (1 + len(roster) - len(survivors))
    for unmask in read:
        right = unmask.context == context and unmask.site in survivors
        if not right or [len(share) for share in unmask.shares] != [size] * (len(survivors) - 1):
            raise WireError("message unmask: found other shares than asked for; it was dropped")
    return read


def seeds_of(unmasks: Sequence[Unmask], *, roster: Sequence[int], survivors: Sequence[int], threshold: int) -> Seeds:
    """Rebuild all seeds, using every share that there is.

    Raises:
        BadShares: too few shares of a seed, or shares that contradict each other; no seed was rebuilt.
    """
    dropped = [site for site in roster if site not in survivors]
    own, orphaned = {}, {}
    for owner in survivors:
        shares = {
            unmask.site + 1: unmask.shares[[site for site in survivors if site != unmask.site].index(owner)]
            for unmask in unmasks
            if unmask.site != owner
        }
        own[owner], *of_pairs = combine(shares, threshold=threshold)
        orphaned.update({(owner, site): seed for site, seed in zip(dropped, of_pairs, strict=True)})
    return Seeds(own=own, orphaned=orphaned)


def take_masks_off(total_W: WordVec, seeds: Seeds, *, context: bytes, first_word: int = 0, threads: int = 1) -> None:
    """Turn the sum of masked vectors into the sum, in place.

    Args:
        total_W: (W,) words of the sum of the survivors' masked vectors; changed in place.
        seeds: of all survivors.
        context: of the round.
        first_word: place of `total_W[0]` in the whole vector, even.
        threads: workers for the key streams.
    """
    apply_masks(
        total_W,
        plus=[seed for (owner, site), seed in seeds.orphaned.items() if site < owner],
        minus=[
            *(derive(seed, "own mask", context) for seed in seeds.own.values()),
            *(seed for (owner, site), seed in seeds.orphaned.items() if site > owner),
        ],
        first_word=first_word,
        threads=threads,
    )
