"""What a site answers a vote with, against losses that are scored another way."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from partsong.client.data.encode import Encoded, Record
from partsong.client.dp.sampler import SeededRandomness, SystemRandomness
from partsong.client.encoders.encoder import LocalRound, LocalUpdate
from partsong.client.encoders.vote import Booth, cast_votes
from partsong.client.model.host import ModelHost
from partsong.client.rules.consent import NotAgreed
from partsong.client.training.train import score
from partsong.common.errors import Refused
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.questions.vote import Vote

VOTE = Vote(most_votes=100, margin=0.0, scale=0.05, noise_multiplier=None)


@pytest.fixture
def voted_plan(make_plan: Callable[..., Plan]) -> Callable[..., Plan]:
    """A plan with votes on its rounds; masses of units are no matter here."""

    def make(**changes: object) -> Plan:
        return make_plan(**({"rounds": 2, "vote": VOTE} | changes))

    return make


def cast(host: ModelHost, encoded: Encoded, plan: Plan, both_P: np.ndarray, *, seeded: bool = False) -> LocalUpdate:
    randomness = SeededRandomness(b"x" * 32) if seeded else SystemRandomness()
    return cast_votes(
        Booth(host=host, encoded=encoded),
        LocalRound(
            plan=plan, number=2, frozen_F=host.take(trained=False), adapter_P=both_P,
            randomness=randomness, on_step=lambda _: None,
        ),
    )  # fmt: skip


def adapters(host: ModelHost) -> np.ndarray:
    """The adapter as it is, and one far from it."""
    before_P = host.take()
    away_P = np.random.default_rng(1).standard_normal(before_P.size).astype(np.float32)
    return np.concatenate([before_P, before_P + 0.3 * away_P])


def test_the_votes_are_those_of_the_records_one_by_one(
    bert: ModelHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    voted_plan: Callable[..., Plan],
) -> None:
    """Without noise: each record scored by itself under both adapters, its fall in loss cut to one vote."""
    encoded, both_P = make_encoded(records := make_records((4, 9, 6, 3, 8, 5, 7, 4, 6))), adapters(bert)

    update = cast(bert, encoded, voted_plan(), both_P)

    expected = 0.0
    for record in records:
        losses = []
        for adapter_P in np.split(both_P, 2):
            bert.put(adapter_P)
            losses.append(float(score(bert, [record], batch_size=1).loss_N[0]))
        expected += min(1.0, max(-1.0, (losses[0] - losses[1]) / VOTE.scale))
    assert update.update_P.shape == (1,)
    assert float(update.update_P[0]) == pytest.approx(expected, abs=1e-2)
    assert 0 < abs(expected) < 9
    assert (update.loss, update.events) == (0.0, ())


def test_turned_round_the_votes_are_the_others(
    bert: ModelHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    voted_plan: Callable[..., Plan],
) -> None:
    """Control: with the adapters exchanged each record says the opposite."""
    encoded, both_P = make_encoded(make_records((4, 9, 6, 3, 8, 5, 7, 4, 6))), adapters(bert)
    before_P, after_P = np.split(both_P, 2)

    there = cast(bert, encoded, voted_plan(), both_P)
    back = cast(bert, encoded, voted_plan(), np.concatenate([after_P, before_P]))

    assert float(there.update_P[0]) == pytest.approx(-float(back.update_P[0]), abs=1e-3)


def test_under_differential_privacy_every_answer_is_noised_and_priced(
    bert: ModelHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    voted_plan: Callable[..., Plan],
    make_dp: Callable[..., DpPlan],
) -> None:
    """Two answers to the same vote differ, and each names the release that the ledger is charged with."""
    noised = dataclasses.replace(VOTE, noise_multiplier=4.0)
    plan = voted_plan(dp=make_dp(), vote=noised)
    encoded, both_P = make_encoded(make_records((4, 9, 6, 3))), adapters(bert)

    first, second = (cast(bert, encoded, plan, both_P) for _ in range(2))

    assert float(first.update_P[0]) != float(second.update_P[0])
    assert first.events == plan.releases(first=2, last=2)


def test_a_patient_has_one_vote_however_many_records(
    bert: ModelHost,
    make_records: Callable[..., tuple[Record, ...]],
    make_encoded: Callable[..., Encoded],
    voted_plan: Callable[..., Plan],
    make_dp: Callable[..., DpPlan],
) -> None:
    """Twelve records of three patients are three votes, though a step of training takes four of each."""
    records = tuple(dataclasses.replace(r, unit=f"p{i % 3}") for i, r in enumerate(make_records((5,) * 12)))
    patients = make_dp(unit="patient", contribution_bound=4)
    plan = voted_plan(dp=patients, vote=dataclasses.replace(VOTE, noise_multiplier=4.0))

    update = cast(bert, make_encoded(records), plan, adapters(bert))

    assert update.visits == 2 * 3
    with pytest.raises(Refused, match=r"unpredictable|repeatable|seed"):
        cast(bert, make_encoded(records), plan, adapters(bert), seeded=True)


def test_a_site_without_test_records_casts_no_vote(
    bert: ModelHost, make_encoded: Callable[..., Encoded], voted_plan: Callable[..., Plan]
) -> None:
    """It refuses by name instead of sealing a zero, which would be a vote."""
    with pytest.raises(NotAgreed, match=r"data\.held_out"):
        cast(bert, make_encoded(()), voted_plan(), adapters(bert))
