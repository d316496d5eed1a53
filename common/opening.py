"""From shares to seeds, and from a masked sum to the sum: what the coordinator does, and what a check repeats.

Specification: PROTOCOL.md section 7, "Opening".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from partsong.common.derive import derive
from partsong.common.errors import WireError
from partsong.common.fixed_point import WordVec
from partsong.common.masks import apply_masks
from partsong.common.messages import Signed, Unmask
from partsong.common.shamir import SHARE_BYTES, BadShares, in_field, repair
from partsong.common.transcript import RunFacts, read_from_sites


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Seeds:
    """Everything that has to come off one masked sum. Public once the sum is."""

    own: Mapping[int, bytes]
    """Own-mask seed of each survivor."""
    orphaned: Mapping[tuple[int, int], bytes]
    """Seed of each pair of a survivor and a dropped site."""
    disputed: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """For each owner of a seed the holders whose shares do not fit the others', where there are any."""


def read_unmasks(
    signed: Sequence[Signed], *, context: bytes, roster: Sequence[int], survivors: Sequence[int], run: RunFacts
) -> tuple[Unmask, ...]:
    """Read UNMASKs of survivors that hold shares, with as many as the survivor set asks for.

    Raises:
        WireError: of another context, not signed by such a survivor, out of order, with other shares or with values
            outside the field, which no site lets through from their dealer; dropped.
    """
    read = read_from_sites(Unmask, signed, run)
    size, holders = SHARE_BYTES * (1 + len(roster) - len(survivors)), run.holders(roster).sites
    for unmask in read:
        right = unmask.context == context and unmask.site in survivors and unmask.site in holders
        whole = [len(share) for share in unmask.shares] == [size] * (len(survivors) - 1)
        if not right or not whole or not in_field(b"".join(unmask.shares)):
            raise WireError("message unmask: found other shares than asked for; it was dropped")
    return read


def seeds_of(unmasks: Sequence[Unmask], *, roster: Sequence[int], survivors: Sequence[int], threshold: int) -> Seeds:
    """Rebuild all seeds, using every share that there is.

    Guarantees:
        - of the H shares of a seed up to (H - threshold) // 2 may be wrong: the seed is right, and they are named.
    Raises:
        BadShares: too few shares of a seed, or too many that contradict each other; no seed was rebuilt. It names the
            seed's owner.
    """
    dropped = [site for site in roster if site not in survivors]
    place = {site: index for index, site in enumerate(survivors)}
    own, orphaned, disputed = {}, {}, {}
    for owner in survivors:
        # In a holder's list its own place is left out.
        shares = {
            unmask.site + 1: unmask.shares[place[owner] - (place[owner] > place[unmask.site])]
            for unmask in unmasks
            if unmask.site != owner
        }
        try:
            (own[owner], *of_pairs), wrong = repair(shares, threshold=threshold)
        except BadShares as err:
            raise BadShares(f"seeds of site {owner}: {err}") from err
        orphaned.update({(owner, site): seed for site, seed in zip(dropped, of_pairs, strict=True)})
        if wrong:
            disputed[owner] = tuple(point - 1 for point in wrong)
    return Seeds(own=own, orphaned=orphaned, disputed=disputed)


def liars(disputed: Mapping[int, Sequence[int]], *, corrupt: int) -> tuple[int, ...]:
    """Name the sites that the disputed shares prove wrong.

    A share that does not fit was changed by its holder or made so by its dealer, the owner of the seed; one dispute
    does not tell which. A site in dispute with more others than can be corrupt is the corrupt one in all of them.

    Guarantees:
        - where at most `corrupt` sites, or a single one, are corrupt, no other site is named.
    Args:
        disputed: of `Seeds`.
        corrupt: tolerance of the charter.
    """
    pairs = {(owner, holder) for owner, holders in disputed.items() for holder in holders}
    against = {site: {a if b == site else b for a, b in pairs if site in (a, b)} for pair in pairs for site in pair}
    return tuple(sorted(site for site, others in against.items() if len(others) > max(1, corrupt)))


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
