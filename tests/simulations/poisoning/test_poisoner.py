"""A poisoner gives what its poison says, and nothing else of a site is changed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from partsong.client.data.encode import Encoded, EncodingReport, Record
from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.encoder import LocalRound, LocalUpdate
from partsong.common.plan import Plan
from partsong.common.questions.vote import Vote
from partsong.simulations.poisoning.poisoner import Poison, Poisoner, flipped

VOTE = Vote(most_votes=7, margin=0.0, scale=0.1, noise_multiplier=None)


class Own:
    """An encoder that always gives two, or two votes."""

    def facts(self, plan: Plan) -> Any:
        return "facts"

    def encode(self, asked: LocalRound) -> LocalUpdate:
        update_P = np.full(asked.plan.update_size(asked.number), 2.0, np.float32)
        return LocalUpdate(update_P=update_P, loss=1.0, visits=3, tokens=4, nonfinite=0, events=())


@pytest.mark.parametrize(
    ("poison", "update", "votes"),
    [
        (Poison(), 2.0, 2.0),
        (Poison(flips_labels=True), 2.0, 2.0),
        (Poison(factor=-30.0), -60.0, 2.0),
        (Poison(factor=-1.0, forges_votes=True), -2.0, 7.0),
    ],
)
def test_update_and_votes_are_what_the_poison_says(
    make_plan: Callable[..., Plan], poison: Poison, update: float, votes: float
) -> None:
    """The factor is of rounds that train, the forgery of rounds that vote."""
    plan = make_plan(rounds=4, vote=VOTE)
    poisoner = Poisoner(Own(), poison)
    nothing = np.zeros(0, np.float32)
    asked = {"frozen_F": nothing, "adapter_P": nothing, "randomness": SystemRandomness(), "on_step": lambda _: None}

    trained, voted = (poisoner.encode(LocalRound(plan=plan, number=number, **asked)) for number in (3, 4))

    assert (trained.update_P == update).all()
    assert (voted.update_P == votes).all()
    assert (trained.loss, trained.visits, poisoner.facts(plan)) == (1.0, 3, "facts")


def test_labels_are_each_the_next_one() -> None:
    """Round the closed list; texts stay."""
    tokens = np.arange(3, dtype=np.int64)
    records = tuple(Record(input_ids=tokens, labels=tokens, label=label, unit=None) for label in (0, 1, 2))
    report = EncodingReport(
        records=3, truncated=0, tokens=9, tokens_cut=0, without_loss=0, longest=3, max_length=8
    )  # fmt: skip

    found = flipped(Encoded(records=records, report=report), classes=3)

    assert [record.label for record in found.records] == [1, 2, 0]
    assert all((record.input_ids == tokens).all() for record in found.records)
