"""Sites come to their training one after the other, are trained together, and go on in the same order."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from partsong.client.dp.sampler import SystemRandomness
from partsong.client.encoders.encoder import LocalUpdate
from partsong.client.training.train import TrainingFailed
from partsong.common.plan import Plan
from partsong.server.daemon.canary import make_canary
from partsong.simulations.stacked.company import Company
from partsong.simulations.stacked.train import Job, Outcome

Train = Callable[[Sequence[Job]], list[Outcome]]


@pytest.fixture
def plan() -> Plan:
    """Any plan: nobody trains here."""
    return make_canary(run="r", size=4, rounds=2, max_sites=9, minimum_cohort=3, seed=0)


def job(plan: Plan, mark: float, *, number: int = 1, adapter: float = 0.0) -> Job:
    """What a site asks for; its mark stands where the records would."""
    return Job(
        plan=plan,
        number=number,
        frozen_F=np.full(1, mark, np.float32),
        adapter_P=np.full(4, adapter, np.float32),
        records=(),
        randomness=SystemRandomness(),
        on_step=lambda _: None,
    )


def update(mark: float) -> LocalUpdate:
    """An update that can be told from others."""
    return LocalUpdate(update_P=np.full(4, mark, np.float32), loss=mark, visits=0, tokens=0, nonfinite=0, events=())


def marked(seen: list[list[float]]) -> Train:
    """Train nothing, note who came together, and give each its mark."""

    def train(jobs: Sequence[Job]) -> list[Outcome]:
        seen.append([float(one.frozen_F[0]) for one in jobs])
        return [update(float(one.frozen_F[0])) for one in jobs]

    return train


def test_all_that_come_are_trained_together_and_each_gets_its_own(plan: Plan) -> None:
    """One that never trains does not hold the others up, and what each does follows in order."""
    seen, order = list[list[float]](), list[str]()
    company = Company(marked(seen), most=9)

    def site(mark: float) -> float:
        order.append(f"begin {mark:.0f}")
        found = company.join(job(plan, mark)).loss
        order.append(f"end {mark:.0f}")
        return found

    ends = company.run([lambda: site(1), lambda: -1.0, lambda: site(2), lambda: site(3)])

    assert [end.value for end in ends] == [1, -1, 2, 3]
    assert seen == [[1, 2, 3]]
    assert order == ["begin 1", "begin 2", "begin 3", "end 1", "end 2", "end 3"]


def test_sites_that_train_from_other_adapters_or_rounds_are_trained_apart(plan: Plan) -> None:
    """One adapter on the model serves one of them only."""
    seen = list[list[float]]()
    company = Company(marked(seen), most=9)
    jobs = [job(plan, 1), job(plan, 2, adapter=1.0), job(plan, 3, number=2), job(plan, 4)]
    jobs.append(dataclasses.replace(job(plan, 5), plan=dataclasses.replace(plan, run="other")))

    ends = company.run([lambda one=one: company.join(one).loss for one in jobs])

    assert [end.value for end in ends] == [1, 2, 3, 4, 5]
    assert seen == [[1, 4], [2], [3], [5]]


def test_one_that_failed_does_not_fail_the_others(plan: Plan) -> None:
    """Its error is raised where it asked; an error of all of them is raised at each."""

    def train(jobs: Sequence[Job]) -> list[Outcome]:
        if len(jobs) == 1:
            raise MemoryError
        return [TrainingFailed("one"), *[update(2)] * (len(jobs) - 1)]

    company = Company(train, most=9)

    first, second, third = company.run(
        [
            lambda: company.join(job(plan, 1)).loss,
            lambda: company.join(job(plan, 2)).loss,
            lambda: company.join(job(plan, 3, number=2)).loss,
        ]
    )

    assert isinstance(first.error, TrainingFailed)
    assert second.value == 2
    assert isinstance(third.error, MemoryError)


def test_a_task_may_train_twice(plan: Plan) -> None:
    """The second time with whoever comes then."""
    seen = list[list[float]]()
    company = Company(marked(seen), most=9)

    ends = company.run(
        [lambda: (company.join(job(plan, 1)).loss, company.join(job(plan, 2)).loss), lambda: company.join(job(plan, 3))]
    )

    assert ends[0].value == (1, 2)
    assert seen == [[1, 3], [2]]


def test_outside_of_a_run_a_site_is_trained_alone(plan: Plan) -> None:
    """At once."""
    seen = list[list[float]]()

    assert Company(marked(seen), most=2).join(job(plan, 4)).loss == 4
    assert seen == [[4]]
