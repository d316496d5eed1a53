"""Recomputing a published sum from the masked vectors, in whole or one block of it.

Covers: that the announced sum is what comes out of the vectors that the survivors signed, with the seeds that the
survivors opened, also when the coordinator works with a site and could forge the tag. A block that a site picks at
random after the result is signed cannot have been prepared for it.
Does not cover: what the vectors hold.

Masked vectors and UNMASKs are kept by the coordinator for the time of the check and deleted afterwards.

Specification: PROTOCOL.md section 8.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from partsong.common.codec import Hash, pack, unpack
from partsong.common.errors import RoundAborted, WireError
from partsong.common.secure_sum.fixed_point import add_into
from partsong.common.secure_sum.merkle import LEAF_BYTES, belongs, prove_all, root_of
from partsong.common.secure_sum.messages import Ready, ReportHeader, Result, Signed
from partsong.common.secure_sum.opening import (
    Seeds,
    SeedsDoNotFit,
    fitting_seeds,
    opens_to_tags,
    read_unmasks,
    take_masks_off,
)
from partsong.common.secure_sum.result import OpenedSum, read_result, words_in, words_to_bytes
from partsong.common.secure_sum.transcript import RunFacts


class SumDisagrees(RoundAborted):
    """The published sum is not what the signed messages add up to; it must not be built upon."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPart:
    """One survivor's bytes of a block, with their way to the root that it signed."""

    words: bytes
    path: tuple[Hash, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockProof:
    """Coordinator to a site that asked: one block of every survivor's masked vector, by ascending site."""

    LABEL: ClassVar[str] = "block proof"
    context: Hash
    leaf: int
    unmasks: tuple[Signed, ...]
    parts: tuple[BlockPart, ...]


def prove_block(*, context: bytes, leaf: int, vectors: Mapping[int, bytes], unmasks: Sequence[Signed]) -> bytes:
    """Answer a site that asks for block number `leaf`.

    Args:
        context: of the round.
        leaf: which run of 64 KiB.
        vectors: `words` of the REPORT of each survivor.
        unmasks: all UNMASKs of the round by ascending site.
    """
    return prove_blocks(context=context, leaves=[leaf], vectors=vectors, unmasks=unmasks)[leaf]


def prove_blocks(
    *, context: bytes, leaves: Collection[int], vectors: Mapping[int, bytes], unmasks: Sequence[Signed]
) -> dict[int, bytes]:
    """Answer sites that ask for some blocks, by number. As `prove_block`; each vector is read once, one at a time."""
    parts: dict[int, list[BlockPart]] = {leaf: [] for leaf in leaves}
    for site in sorted(vectors):
        vector = vectors[site]
        for leaf, path in prove_all(vector, leaves=parts).items():
            start = leaf * LEAF_BYTES
            parts[leaf].append(BlockPart(words=vector[start : start + LEAF_BYTES], path=path))
    return {
        leaf: pack(BlockProof(context=context, leaf=leaf, unmasks=tuple(unmasks), parts=tuple(of_leaf)))
        for leaf, of_leaf in parts.items()
    }


def check_block(proof: bytes, *, result: bytes, leaf: int, run: RunFacts) -> None:
    """Recompute one block of a published sum.

    Args:
        proof: a packed `BlockProof`.
        result: the packed result, whose statement was signed before the block was asked for.
        leaf: the block that this site picked.
        run: of the round.
    Raises:
        WireError: the proof is malformed or not about this block; nothing is known about the sum.
        SumDisagrees: bytes that a survivor did not sign, or a block that adds up to something else.
    """
    opened = read_result(result, run=run, floors=run.charter.floors)
    published = unpack(Result, result)
    given = unpack(BlockProof, proof)
    if (given.context, given.leaf, len(given.parts)) != (opened.context, leaf, len(opened.sites)):
        raise WireError("message block proof: found another block's; it was dropped")
    total = np.zeros(len(given.parts[0].words) // 8, np.uint64)
    for header, part in zip(_headers(published), given.parts, strict=True):
        size = len(published.words)
        if not belongs(part.words, leaf=leaf, size=size, path=part.path, root=header.vector):
            raise SumDisagrees(f"round {opened.header.round}: found a block that site {header.site} did not sign")
        add_into(total, words_in(part.words, words=total.size))
    start = leaf * LEAF_BYTES
    right = words_in(published.words[start : start + LEAF_BYTES], words=total.size)

    def fits(seeds: Seeds) -> bool:
        block = total.copy()
        take_masks_off(block, seeds, context=opened.context, first_word=start // 8)
        return bool((block == right).all())

    with _disagreeing(f"round {opened.header.round}: block {leaf} adds up to another sum than the published one"):
        _seeds(given.unmasks, published=published, opened=opened, run=run, fits=fits)


def recompute(*, result: bytes, vectors: Mapping[int, bytes], unmasks: Sequence[Signed], run: RunFacts) -> OpenedSum:
    """Recompute a whole round offline, from what the coordinator kept for the check.

    Args:
        result: the packed result.
        vectors: `words` of the REPORT of each survivor.
        unmasks: all UNMASKs of the round by ascending site.
        run: of the round.
    Returns:
        what the result says, now known to be the sum.
    Raises:
        WireError: a message is malformed or unsigned.
        SumDisagrees: a vector that its site did not sign, or another sum than the published one.
    """
    opened = read_result(result, run=run, floors=run.charter.floors)
    published = unpack(Result, result)
    if tuple(sorted(vectors)) != opened.sites:
        raise WireError("vectors: found others than those of the survivors; nothing was recomputed")
    total = np.zeros(len(published.words) // 8, np.uint64)
    for header in _headers(published):
        if root_of(vectors[header.site]) != header.vector:
            raise SumDisagrees(f"round {opened.header.round}: found a vector that site {header.site} did not sign")
        add_into(total, words_in(vectors[header.site], words=total.size))
    other = f"round {opened.header.round}: the vectors add up to another sum than the published one"
    with _disagreeing(other):
        fits = partial(opens_to_tags, total, context=opened.context)
        seeds = _seeds(unmasks, published=published, opened=opened, run=run, fits=fits)
    take_masks_off(total, seeds, context=opened.context)
    if words_to_bytes(total) != published.words:
        raise SumDisagrees(other)
    return opened


@contextmanager
def _disagreeing(reason: str) -> Iterator[None]:
    """Say so where the shares open something else."""
    try:
        yield
    except SeedsDoNotFit as err:
        raise SumDisagrees(reason) from err


def _headers(published: Result) -> list[ReportHeader]:
    return [unpack(ReportHeader, report.body) for report in published.reports]


def _seeds(
    signed: Sequence[Signed],
    *,
    published: Result,
    opened: OpenedSum,
    run: RunFacts,
    fits: Callable[[Seeds], bool],
) -> Seeds:
    roster = [unpack(Ready, ready.body).site for ready in published.readys]
    unmasks = read_unmasks(signed, context=opened.context, roster=roster, survivors=opened.sites, run=run)
    threshold = run.holders(roster).threshold
    return fitting_seeds(unmasks, roster=roster, survivors=opened.sites, threshold=threshold, fits=fits)
