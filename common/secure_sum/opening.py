"""From shares to seeds, and from a masked sum to the sum: what the coordinator does, and what a check repeats.

Specification: PROTOCOL.md section 7, "Opening".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, combinations, islice

from partsong.common.derive import derive
from partsong.common.errors import RoundAborted, WireError
from partsong.common.secure_sum.fixed_point import WordVec
from partsong.common.secure_sum.masks import apply_masks
from partsong.common.secure_sum.messages import Signed, Unmask
from partsong.common.secure_sum.shamir import SHARE_BYTES, BadShares, agree, in_field, repair
from partsong.common.secure_sum.tag import TAG_WORDS, may_be_tags
from partsong.common.secure_sum.transcript import RunFacts, read_from_sites

# One holder left out of 64, and then pairs: more would take longer than another round.
_MOST_CHOICES = 256


class SeedsDoNotFit(RoundAborted):
    """What the shares open is no sum of tagged vectors; nothing was opened."""


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


def fitting_seeds(
    unmasks: Sequence[Unmask],
    *,
    roster: Sequence[int],
    survivors: Sequence[int],
    threshold: int,
    fits: Callable[[Seeds], bool],
) -> Seeds:
    """Rebuild all seeds, if need be without one holder or two, until what they open looks like a sum.

    Where shares are too few to show which of them is wrong, the sum shows it.

    Args:
        unmasks: of holders, all that came.
        roster: of the round.
        survivors: whose vectors are in the sum.
        threshold: of the shares.
        fits: whether the words that some seeds open can be a sum; false for uniform words but for a small chance.
    Raises:
        BadShares: too few shares of a seed, or too many that contradict each other, and no holders without which it
            would fit; nothing was opened.
        SeedsDoNotFit: the shares agree with each other, and what they open is no sum; nothing was opened.
    """
    failure: RoundAborted
    try:
        seeds = seeds_of(unmasks, roster=roster, survivors=survivors, threshold=threshold)
    except BadShares as err:
        failure = err
    else:
        if fits(seeds):
            return seeds
        failure = SeedsDoNotFit("sum: found words that are none, by a wrong share or report; nothing was opened")
    holders = [unmask.site for unmask in unmasks]
    choices = chain.from_iterable(combinations(holders, count) for count in (1, 2))
    for left_out in islice(choices, _MOST_CHOICES):
        rest = [unmask for unmask in unmasks if unmask.site not in left_out]
        with suppress(BadShares):
            seeds = seeds_of(rest, roster=roster, survivors=survivors, threshold=threshold)
            if fits(seeds):
                return _with_disputes(seeds, unmasks, left_out, survivors=survivors, threshold=threshold)
    raise failure


def seeds_of(unmasks: Sequence[Unmask], *, roster: Sequence[int], survivors: Sequence[int], threshold: int) -> Seeds:
    """Rebuild all seeds, using every share that there is.

    Guarantees:
        - of the H shares of a seed up to (H - threshold) // 2 may be wrong: the seed is right, and they are named.
    Raises:
        BadShares: too few shares of a seed, or too many that contradict each other; no seed was rebuilt. It names the
            seed's owner.
    """
    dropped = [site for site in roster if site not in survivors]
    own, orphaned, disputed = {}, {}, {}
    for owner, shares in _shares_by_owner(unmasks, survivors).items():
        try:
            (own[owner], *of_pairs), wrong = repair(shares, threshold=threshold)
        except BadShares as err:
            raise BadShares(f"seeds of site {owner}: {err}") from err
        orphaned.update({(owner, site): seed for site, seed in zip(dropped, of_pairs, strict=True)})
        if wrong:
            disputed[owner] = tuple(point - 1 for point in wrong)
    return Seeds(own=own, orphaned=orphaned, disputed=disputed)


def _shares_by_owner(unmasks: Sequence[Unmask], survivors: Sequence[int]) -> dict[int, dict[int, bytes]]:
    """Sort the shares by the owner of the seeds, each under the point at which its holder's are read."""
    place = {site: index for index, site in enumerate(survivors)}
    return {
        # In a holder's list its own place is left out.
        owner: {
            unmask.site + 1: unmask.shares[place[owner] - (place[owner] > place[unmask.site])]
            for unmask in unmasks
            if unmask.site != owner
        }
        for owner in survivors
    }


def _with_disputes(
    seeds: Seeds, unmasks: Sequence[Unmask], left_out: Sequence[int], *, survivors: Sequence[int], threshold: int
) -> Seeds:
    """Add the disputes of holders that were left out: those whose shares do not fit the ones that were used."""
    disputed = {owner: set(holders) for owner, holders in seeds.disputed.items()}
    for owner, shares in _shares_by_owner(unmasks, survivors).items():
        unused = {holder + 1 for holder in (*left_out, *disputed.get(owner, ()))}
        used = {point: share for point, share in shares.items() if point not in unused}
        for holder in left_out:
            if holder != owner and not agree(used | {holder + 1: shares[holder + 1]}, threshold=threshold):
                disputed.setdefault(owner, set()).add(holder)
    return replace(seeds, disputed={owner: tuple(sorted(holders)) for owner, holders in disputed.items()})


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


def opens_to_tags(total_W: WordVec, seeds: Seeds, *, context: bytes) -> bool:
    """Say whether the last words of a sum can be tags once these masks are off; the sum stays as it is."""
    first = (total_W.size - TAG_WORDS) // 2 * 2
    end_W = total_W[first:].copy()
    take_masks_off(end_W, seeds, context=context, first_word=first)
    return may_be_tags(end_W[-TAG_WORDS:], sites=len(seeds.own))


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
