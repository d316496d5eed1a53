"""Sites that poison: each attack works where its one defence is taken away.

Five sites, of which one poisons, follow real plans: what they give is sealed, added up, read and moved by the code of
the product. A record is a point, a model's loss on it is its distance.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from partsong.client.seal import seal
from partsong.common import wire
from partsong.common.adapters.methods import ServerState, advance
from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.questions.counting import count
from partsong.common.questions.vote import Vote
from partsong.common.secure_sum.fixed_point import SumOutOfRange
from partsong.server.aggregate import Accumulator

MakePlan = Callable[..., Plan]
SITES, RECORDS, SIZE = 5, 20, 8
TARGET_RP = np.random.default_rng(0).normal(1.0, 0.2, (SITES * RECORDS, SIZE))
"""What the sites' test records ask for."""
VOTE = Vote(most_votes=RECORDS, margin=0.01, scale=0.1, noise_multiplier=None)
Gives = Callable[[Plan, int, np.ndarray], np.ndarray]
"""Plan, round and honest answer to what a poisoner gives."""


def loss(adapter_P: np.ndarray) -> float:
    """Over all test records."""
    return float(np.linalg.norm(TARGET_RP - adapter_P, axis=1).mean())


def turned(plan: Plan, number: int, honest: np.ndarray) -> np.ndarray:
    """Turn an update round and make it as long as the seal lets through; vote honestly."""
    return honest if plan.is_vote(number) else -1e6 * honest


def forging(plan: Plan, number: int, honest: np.ndarray) -> np.ndarray:
    """The same, and vote for it with all that the seal lets through."""
    assert plan.vote is not None
    return np.array([plan.vote.reach]) if plan.is_vote(number) else turned(plan, number, honest)


def honest(site: int, plan: Plan, number: int, state: ServerState) -> np.ndarray:
    """Half the way to the site's own records, or its votes on the last round."""
    own_RP = TARGET_RP[site * RECORDS : (site + 1) * RECORDS]
    if not plan.is_vote(number):
        return 0.5 * (own_RP.mean(axis=0) - state.adapter_P)
    assert plan.vote is not None
    assert state.candidate is not None
    before_R, after_R = (np.linalg.norm(own_RP - a, axis=1) for a in (state.adapter_P, state.candidate.adapter_P))
    return np.array([count(plan.vote, before_R, after_R)])


def summed(plan: Plan, number: int, values: Mapping[int, np.ndarray]) -> np.ndarray:
    """Seal what each site gives, add it up and read the mean."""
    total = Accumulator(plan=plan, number=number)
    for site, value in values.items():
        blocks = {UPDATE: value.astype(np.float32), LOSS: np.zeros(1, np.float32)}
        words = seal(blocks, plan, number=number, rng=np.random.default_rng(site))
        total.add(wire.vector_bytes(words))
    return total.open().mean_P


def played(plan: Plan, poison: Gives | None, *, rounds: int | None = None) -> ServerState:
    """Run a plan; the last site gives what `poison` says."""
    state = ServerState(adapter_P=np.zeros(SIZE))
    for number in range(1, (rounds or plan.rounds) + 1):
        values = {site: honest(site, plan, number, state) for site in range(SITES)}
        if poison is not None:
            values[SITES - 1] = poison(plan, number, values[SITES - 1])
        state = advance(state, summed(plan, number, values), plan, number=number)
    return state


@pytest.fixture
def of_rounds(make_plan: MakePlan) -> Callable[..., Plan]:
    """A plan whose updates have this clip, with or without votes."""

    def make(rounds: int, *, clip: float, vote: Vote | None) -> Plan:
        plan = make_plan()
        blocks = tuple(dataclasses.replace(b, clip=clip) if b.name == UPDATE else b for b in plan.encoding.blocks)
        encoding = dataclasses.replace(plan.encoding, blocks=blocks)
        return make_plan(rounds=rounds if vote is None else 2 * rounds, encoding=encoding, vote=vote)

    return make


def test_an_update_turned_round_destroys_the_adapter_without_the_clip_and_is_outweighed_with_it(
    of_rounds: Callable[..., Plan],
) -> None:
    """Clip: one of five can take a fifth of the way back, and no more."""
    bounded, wide = (of_rounds(4, clip=clip, vote=None) for clip in (1.5, 1e4))
    clean = loss(played(bounded, None).adapter_P)

    behind_clip, without = (loss(played(plan, turned).adapter_P) for plan in (bounded, wide))

    assert behind_clip < 2 * clean < loss(np.zeros(SIZE))
    assert without > 100 * loss(np.zeros(SIZE))


def test_a_poisoned_round_stays_without_the_vote_and_is_undone_with_it(of_rounds: Callable[..., Plan]) -> None:
    """Vote: the adapter is never worse than before, and once the poisoner stops, training goes on from there."""
    voted, bare = (of_rounds(2, clip=1e4, vote=vote) for vote in (VOTE, None))

    def late(plan: Plan, number: int, own: np.ndarray) -> np.ndarray:
        return turned(plan, number, own) if plan.training_number(number) == 2 else own

    first = played(voted, late, rounds=2).adapter_P
    with_vote, without = (played(plan, late).adapter_P for plan in (voted, bare))

    assert (with_vote == first).all()
    assert loss(with_vote) < loss(np.zeros(SIZE)) < loss(without) / 100


def test_a_forged_vote_decides_where_a_site_has_more_votes_than_the_others_have_records(
    of_rounds: Callable[..., Plan],
) -> None:
    """The most votes of a site: with as many as each site has records, four that object outvote one that forges."""
    lavish = dataclasses.replace(VOTE, most_votes=10 * SITES * RECORDS)

    equal, unequal = (played(of_rounds(1, clip=1e4, vote=vote), forging).adapter_P for vote in (VOTE, lavish))

    assert not equal.any()
    assert loss(unequal) > 100 * loss(np.zeros(SIZE))


def test_votes_past_all_seals_together_end_the_vote_and_with_it_the_round(of_rounds: Callable[..., Plan]) -> None:
    """Range of a sum: who breaks its seal and goes too far is found out. Who knows the others' votes need not.

    That is the limit of votes that nobody sees: up to the votes of all, one broken seal decides.
    """
    plan = of_rounds(1, clip=1e4, vote=VOTE)
    encoding = plan.encoding_of(2)
    against = np.array([-float(RECORDS)])

    def opened(factor: int) -> float:
        total = Accumulator(plan=plan, number=2)
        for site in range(SITES - 1):
            total.add(wire.vector_bytes(_sealed(plan, against, site)))
        words = _sealed(plan, np.zeros(1), SITES)
        words[0] += np.uint64(factor * encoding.top)
        total.add(wire.vector_bytes(words))
        return float(total.open().mean_P[0])

    assert opened(0) == pytest.approx(-RECORDS * (SITES - 1) / SITES, abs=1e-3)
    assert opened(SITES) > 0
    with pytest.raises(SumOutOfRange):
        opened(2 * SITES)


def _sealed(plan: Plan, votes: np.ndarray, site: int) -> np.ndarray:
    blocks = {UPDATE: votes.astype(np.float32), LOSS: np.zeros(1, np.float32)}
    return seal(blocks, plan, number=2, rng=np.random.default_rng(site))
