"""A round's result: reading it, and checking that it is the sum that was confirmed.

Covers: who was in the sum, that a quorum confirmed exactly them, and that the coordinator stands by these words.
The words themselves are checked with the group key, by `sum_fits`.

Specification: PROTOCOL.md section 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from partsong.common.codec import Payload, unpack
from partsong.common.derive import digest
from partsong.common.errors import WireError
from partsong.common.secure_sum.fixed_point import WordVec
from partsong.common.secure_sum.masks import STREAM_WORD
from partsong.common.secure_sum.merkle import root_of
from partsong.common.secure_sum.messages import Header, Result, Signed, Statement, open_signed
from partsong.common.secure_sum.tag import TAG_WORDS, tag_fits
from partsong.common.secure_sum.transcript import (
    RunFacts,
    context_of,
    read_header,
    read_roster,
    read_survivors,
    require_accepted_result,
    require_cohort,
    require_quorum,
    require_survivors,
    survivors_hash,
)
from partsong.common.thresholds import Floors


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedSum:
    """What a result says, all signatures checked."""

    header: Header
    context: bytes
    sites: tuple[int, ...]
    """Whose vectors were added."""
    words: WordVec
    """The sum, without the tag. It lies in the bytes that were read, and is not to be changed."""
    tag: WordVec
    hash: bytes
    """Names this result; the next header holds it."""
    survivors: bytes
    """Hash of the survivor set."""


def words_to_bytes(words_W: WordVec) -> memoryview:
    """Encode words for a message: 8 bytes each, little-endian. Not a copy where the machine's order is the same."""
    return words_W.astype(STREAM_WORD, copy=False).view(np.uint8).data


def words_in(data: Payload, *, words: int) -> WordVec:
    """Read words of a message where they lie. Not a copy where the machine's order is the same; not to be changed.

    Raises:
        WireError: not exactly that many words.
    """
    if len(data) != 8 * words:
        raise WireError(f"words: found {len(data)} bytes, expected {8 * words}; they were dropped")
    return np.frombuffer(data, STREAM_WORD).astype(np.uint64, copy=False)


def words_from_bytes(data: Payload, *, words: int) -> WordVec:
    """Decode words of a message into a new vector.

    Raises:
        WireError: not exactly that many words.
    """
    return words_in(data, words=words).copy()


def result_hash(statement: Signed) -> bytes:
    """Name a result."""
    return digest("result", statement.body)


def read_result(data: bytes, *, run: RunFacts, floors: Floors) -> OpenedSum:
    """Read a packed result and check everything that needs no secret.

    Raises:
        WireError: a part is malformed, unsigned or does not belong to the others; nothing was taken over.
        Refused: a floor or the quorum is missed; nothing was taken over.
    """
    result = unpack(Result, data)
    header = read_header(result.header, run)
    roster = read_roster(result.header, result.readys, run)
    require_cohort(roster, floors=floors)
    require_accepted_result(roster, floors=floors)
    context = context_of(result.header, result.readys)
    numbers = [ready.site for ready in roster]
    reports = read_survivors(result.reports, context=context, roster=numbers, run=run)
    sites = tuple(report.site for report in reports)
    require_survivors(len(sites), roster=len(roster), floors=floors, minimum_sum=header.minimum_sum)
    named = survivors_hash(context, result.reports)
    require_quorum(
        result.confirms,
        context=context,
        survivors=named,
        survivor_sites=sites,
        roster=len(roster),
        floors=floors,
        run=run,
    )
    statement = open_signed(Statement, result.statement, key=run.charter.coordinator_key)
    if (statement.context, statement.survivors, statement.sum) != (context, named, root_of(result.words)):
        raise WireError("message result: found a statement about something else; it was dropped")
    words = words_in(result.words, words=header.words + TAG_WORDS)
    return OpenedSum(
        header=header,
        context=context,
        sites=sites,
        words=words[: header.words],
        tag=words[header.words :],
        hash=result_hash(result.statement),
        survivors=named,
    )


def sum_fits(opened: OpenedSum, *, group_key: bytes) -> bool:
    """Say whether the words are the sum of what exactly these sites tagged."""
    return tag_fits(opened.words, opened.tag, group_key=group_key, context=opened.context, sites=opened.sites)
