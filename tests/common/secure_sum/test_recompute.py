"""A round recomputed from its masked vectors, in whole and block by block."""

from dataclasses import replace

import numpy as np
import pytest

from partsong.common.codec import pack, unpack
from partsong.common.errors import RoundAborted, WireError
from partsong.common.identity.suite import SUITES, SuiteName
from partsong.common.secure_sum.merkle import LEAF_BYTES, root_of
from partsong.common.secure_sum.messages import Report, Result, Signed, Statement, Unmask, sign
from partsong.common.secure_sum.recompute import BlockProof, SumDisagrees, check_block, prove_block, recompute
from partsong.common.secure_sum.result import words_from_bytes, words_to_bytes
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.secure_sum import Federation, found, next_header, set_up

# Two full blocks and a short one, with the tag in the last.
WORDS = 2 * LEAF_BYTES // 8 + 100


class Kept:
    """A round of five sites, site 2 dropped before it reported, and what the coordinator keeps for the check."""

    def __init__(self, suite: SuiteName) -> None:
        self.made: Federation = set_up(found([f"site{i}" for i in range(5)], suite=suite), run=bytes(32))
        signer = self.made.consortium.coordinator
        desk = SumRound(run=self.made.run, signer=signer, header=next_header(self.made, words=WORDS))
        for site in self.made.sites.values():
            site.open(desk.open(result=b""))
            desk.add_ready(site.ready(verdict=True))
        roster = desk.close_roster()
        self.vectors: dict[int, bytes] = {}
        for number in (0, 1, 3, 4):
            self.made.sites[number].enter(roster)
            report = self.made.sites[number].report(np.full(WORDS, 1 + number, np.uint64))
            desk.add_report(report)
            self.vectors[number] = unpack(Report, report).words
        requests = desk.close_reports()
        for number in self.vectors:
            desk.add_confirm(self.made.sites[number].confirm(requests[number]))
        quorum = desk.close_confirms()
        answers = [self.made.sites[number].unmask(quorum) for number in self.vectors]
        for answer in answers:
            desk.add_unmask(answer)
        self.unmasks = [unpack(Signed, answer) for answer in answers]
        self.result, self.opened = desk.open_sum()

    def forged(self, place: int) -> bytes:
        """The result with one word changed, which the coordinator signs."""
        result = unpack(Result, self.result)
        words = words_from_bytes(result.words, words=WORDS + 3)
        words[place] += np.uint64(1)
        data = words_to_bytes(words)
        statement = replace(unpack(Statement, result.statement.body), sum=root_of(data))
        return pack(replace(result, statement=sign(statement, self.made.consortium.coordinator), words=data))

    def block(self, leaf: int) -> bytes:
        return prove_block(context=self.opened.context, leaf=leaf, vectors=self.vectors, unmasks=self.unmasks)


@pytest.fixture(scope="module", params=SUITES)
def kept(request: pytest.FixtureRequest) -> Kept:
    return Kept(request.param)


def test_the_whole_round_is_recomputed(kept: Kept) -> None:
    """From the result, the masked vectors and the opened shares alone."""
    opened = recompute(result=kept.result, vectors=kept.vectors, unmasks=kept.unmasks, run=kept.made.run)

    assert opened.sites == (0, 1, 3, 4)
    assert (opened.words == 1 + 2 + 4 + 5).all()


@pytest.mark.parametrize("leaf", [0, 1, 2])
def test_every_block_is_recomputed(kept: Kept, leaf: int) -> None:
    """Full blocks and the short last one."""
    check_block(kept.block(leaf), result=kept.result, leaf=leaf, run=kept.made.run)


@pytest.mark.parametrize("place", [0, LEAF_BYTES // 8, WORDS, WORDS + 2])
def test_a_changed_sum_is_found_in_its_block_and_in_no_other(kept: Kept, place: int) -> None:
    """One word off by one, in the data or in the tag, under a fresh signature of the coordinator."""
    forged, bad = kept.forged(place), place * 8 // LEAF_BYTES

    with pytest.raises(SumDisagrees, match="another sum"):
        recompute(result=forged, vectors=kept.vectors, unmasks=kept.unmasks, run=kept.made.run)
    for leaf in range(3):
        if leaf == bad:
            with pytest.raises(SumDisagrees, match=f"block {leaf} adds up"):
                check_block(kept.block(leaf), result=forged, leaf=leaf, run=kept.made.run)
        else:
            check_block(kept.block(leaf), result=forged, leaf=leaf, run=kept.made.run)


def test_a_vector_that_its_site_did_not_sign_is_found(kept: Kept) -> None:
    """To make a forged sum add up, a vector would have to change, and with it its root."""
    forged = kept.forged(0)
    words = words_from_bytes(kept.vectors[3], words=WORDS + 3)
    words[0] += np.uint64(1)
    vectors = kept.vectors | {3: words_to_bytes(words)}
    proof = prove_block(context=kept.opened.context, leaf=0, vectors=vectors, unmasks=kept.unmasks)

    with pytest.raises(SumDisagrees, match="site 3 did not sign"):
        recompute(result=forged, vectors=vectors, unmasks=kept.unmasks, run=kept.made.run)
    with pytest.raises(SumDisagrees, match="site 3 did not sign"):
        check_block(proof, result=forged, leaf=0, run=kept.made.run)


def test_seeds_that_the_survivors_did_not_open_are_refused(kept: Kept) -> None:
    """Other shares lack their sites' signatures; too few of them open nothing."""
    first = unpack(Unmask, kept.unmasks[0].body)
    other = replace(first, shares=tuple(bytes(len(share)) for share in first.shares))
    forged = sign(other, kept.made.consortium.coordinator)

    with pytest.raises(WireError, match="no valid signature"):
        recompute(result=kept.result, vectors=kept.vectors, unmasks=[forged, *kept.unmasks[1:]], run=kept.made.run)
    with pytest.raises(RoundAborted, match="expected 3"):
        recompute(result=kept.result, vectors=kept.vectors, unmasks=kept.unmasks[:2], run=kept.made.run)


def test_a_proof_of_another_block_or_with_other_sites_is_dropped(kept: Kept) -> None:
    """The site decides which block it sees, and sees all survivors'."""
    proof = unpack(BlockProof, kept.block(1))

    with pytest.raises(WireError, match="another block"):
        check_block(pack(proof), result=kept.result, leaf=0, run=kept.made.run)
    with pytest.raises(WireError, match="another block"):
        check_block(pack(replace(proof, parts=proof.parts[:3])), result=kept.result, leaf=1, run=kept.made.run)
    with pytest.raises(WireError, match="another block"):
        check_block(pack(replace(proof, context=bytes(32))), result=kept.result, leaf=1, run=kept.made.run)
    with pytest.raises(WireError, match="others than those of the survivors"):
        recompute(
            result=kept.result,
            vectors={i: v for i, v in kept.vectors.items() if i != 0},
            unmasks=kept.unmasks,
            run=kept.made.run,
        )
