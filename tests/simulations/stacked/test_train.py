"""Sites that are trained together end as each ends alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.data.encode import Encoded, EncodingReport, Record
from partsong.client.dp.sampler import SeededRandomness
from partsong.client.encoders.encoder import LocalRound, LocalUpdate, Progress
from partsong.client.encoders.lora import LoraTraining
from partsong.client.training.train import TrainingFailed
from partsong.common.config import SimulationConfig
from partsong.common.errors import Refused
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.simulations.federation import draft, fresh_adapter
from partsong.simulations.prepare import Prepared, prepare
from partsong.simulations.stacked.train import Job, train_together

Configure = Callable[..., SimulationConfig]
CLASSES = 4
SGD = ("training.optim=sgd", "training.learning_rate=0.05")
NEAR = 1e-4


def task(configured: Configure, *overrides: str) -> tuple[Prepared, Plan]:
    """Model and plan; the records are the test's own."""
    prepared = prepare(configured("training.steps_per_round=3", "privacy.sampling_rate=0.4", *overrides))
    return prepared, draft(prepared, tuple(sorted(prepared.sites)), run="stacked")[0]


def records(lengths: Sequence[int], *, seed: int) -> tuple[Record, ...]:
    """Records of random tokens."""
    rng = np.random.default_rng(seed)
    found = []
    for i, length in enumerate(lengths):
        ids_T = rng.integers(3, 1000, length).astype(np.int32)
        labels_T = ids_T.copy()
        labels_T[: length // 2] = -100
        found.append(Record(input_ids=ids_T, labels=labels_T, label=i % CLASSES, unit=None))
    return tuple(found)


def jobs_of(
    prepared: Prepared, plan: Plan, sites: Sequence[Sequence[int]], *, seed: int, number: int = 1, told: list[str]
) -> list[Job]:
    """Ask sites with records of these lengths to train from a stirred adapter."""
    start_P, frozen_F = fresh_adapter(prepared)
    stir_P = 0.1 * np.random.default_rng(seed).standard_normal(start_P.size)
    adapter_P = (start_P + stir_P).astype(np.float32)

    def on_step(site: int) -> Callable[[Progress], None]:
        return lambda progress: told.append(f"{site} {progress.step}/{progress.steps} {progress.local_loss:.3f}")

    return [
        Job(
            plan=plan,
            number=number,
            frozen_F=frozen_F,
            adapter_P=adapter_P,
            records=records(lengths, seed=seed + site),
            randomness=SeededRandomness(b"%d %d" % (seed, site)),
            on_step=on_step(site),
        )
        for site, lengths in enumerate(sites)
    ]


def alone(prepared: Prepared, job: Job) -> LocalUpdate:
    """Train one of them as its own encoder does."""
    report = EncodingReport(
        records=len(job.records), truncated=0, tokens=0, tokens_cut=0, without_loss=0, longest=0, max_length=48
    )
    encoder = LoraTraining(host=prepared.host, encoded=Encoded(records=job.records, report=report), labels=())
    return encoder.encode(
        LocalRound(
            plan=job.plan,
            number=job.number,
            frozen_F=job.frozen_F,
            adapter_P=job.adapter_P,
            randomness=job.randomness,
            on_step=job.on_step,
        )
    )


def assert_same(found: object, expected: LocalUpdate) -> None:
    """Equal but for rounding."""
    assert isinstance(found, LocalUpdate)
    assert np.linalg.norm(found.update_P - expected.update_P) <= NEAR * np.linalg.norm(expected.update_P)
    assert found.loss == pytest.approx(expected.loss, rel=1e-4, abs=1e-6)
    assert (found.visits, found.tokens, found.nonfinite) == (expected.visits, expected.tokens, expected.nonfinite)
    assert found.events == ()


def test_any_sites_end_as_each_does_alone(configured: Configure) -> None:
    """Whatever their sizes and lengths: some have an empty sample now and then, some more passes than others."""
    prepared, plan = task(configured, *SGD, "training.per_device_train_batch_size=2")

    @settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        sites=st.lists(st.lists(st.integers(2, 30), min_size=1, max_size=12), min_size=1, max_size=5),
        seed=st.integers(0, 10**6),
    )
    def check(sites: list[list[int]], seed: int) -> None:
        told, lonely = list[str](), list[str]()

        found = train_together(prepared.host, jobs_of(prepared, plan, sites, seed=seed, told=told))

        for update, job in zip(found, jobs_of(prepared, plan, sites, seed=seed, told=lonely), strict=True):
            assert_same(update, alone(prepared, job))
        assert len(told) == 3 * len(sites)

    check()


WAYS = {
    "both factors, adamw": ("adapter.method=fedit",),
    "in turn": ("adapter.method=rolora",),
    "cores": ("adapter.method=fedsb",),
    "turned": ("adapter.method=fedrot", *SGD),
    "stretches": ("adapter.refresh=2", "rounds=4"),
    "near the start, at a falling rate": ("training.prox_mu=0.3", "training.lr_scheduler_type=linear", *SGD),
    "checkpointing": ("model.gradient_checkpointing=true", *SGD),
}


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("name", WAYS)
def test_each_way_to_train_has_a_stacked_form(configured: Configure, name: str) -> None:
    """Rounds of one run differ in what they train."""
    prepared, plan = task(configured, *WAYS[name])
    sites = [[9, 4, 12, 7] * 2, [3, 3], [20] * 4]
    for number in (1, 2) if name in {"in turn", "turned"} else (2,):
        told, lonely = list[str](), list[str]()

        found = train_together(prepared.host, jobs_of(prepared, plan, sites, seed=5, number=number, told=told))

        again = jobs_of(prepared, plan, sites, seed=5, number=number, told=lonely)
        for update, job in zip(found, again, strict=True):
            assert_same(update, alone(prepared, job))
        assert sorted(told) == sorted(lonely)


def classifying(configured: Configure, classes: Path, *overrides: str) -> tuple[Prepared, Plan]:
    """A classifier, whose head is trained."""
    base = configured().model.source.replace("tiny-llama", "tiny-bert")
    return task(
        configured, "model.task=classification", f"model.source={base}", f"data.path={classes}",
        "data.labels=[injury,skin,ear,spine]", "adapter.target_modules=[query,value]", *SGD, *overrides,
    )  # fmt: skip


def test_a_classifier_with_its_head_is_stacked(configured: Configure, classes: Path) -> None:
    """The head sees one row for each record, and has a bias for each site."""
    prepared, plan = classifying(configured, classes)
    sites = [[9, 4, 12, 7] * 3, [3, 3], [20] * 7]

    found = train_together(prepared.host, jobs_of(prepared, plan, sites, seed=5, told=[]))

    for update, job in zip(found, jobs_of(prepared, plan, sites, seed=5, told=[]), strict=True):
        assert_same(update, alone(prepared, job))


def test_a_site_in_another_ones_place_is_noticed(configured: Configure) -> None:
    """Control: the comparison fails where two slices are swapped."""
    prepared, plan = task(configured, *SGD)
    sites = [[9, 4, 12, 7] * 3, [3, 8] * 5]

    first, second = train_together(prepared.host, jobs_of(prepared, plan, sites, seed=5, told=[]))

    mine = alone(prepared, jobs_of(prepared, plan, sites, seed=5, told=[])[0])
    assert_same(first, mine)
    with pytest.raises(AssertionError):
        assert_same(second, mine)


def test_a_pass_that_is_cut_for_memory_changes_nothing(configured: Configure) -> None:
    """Between sites while there are several, then within one."""
    prepared, plan = task(configured, *SGD)
    sites = [[9, 4, 12], [3, 8] * 2]
    whole = train_together(prepared.host, jobs_of(prepared, plan, sites, seed=5, told=[]))
    prepared.host.largest_pass = 1

    cut = train_together(prepared.host, jobs_of(prepared, plan, sites, seed=5, told=[]))

    for update, expected in zip(cut, whole, strict=True):
        assert isinstance(expected, LocalUpdate)
        assert_same(update, expected)


def test_a_site_that_diverges_takes_no_other_with_it(configured: Configure, classes: Path) -> None:
    """A record whose loss is not finite poisons its own slice alone."""
    prepared, plan = classifying(configured, classes, "privacy.sampling_rate=0.999", "adapter.method=fedit")
    good, bad = jobs_of(prepared, plan, [[9, 4, 12], [7, 8, 9]], seed=5, told=[])
    with torch.no_grad():  # one token that no record of the other site has
        prepared.host.model.get_input_embeddings().weight[bad.records[0].input_ids[0]] = float("nan")
    assert bad.records[0].input_ids[0] not in np.concatenate([r.input_ids for r in good.records])

    first, second = train_together(prepared.host, [good, bad])

    assert isinstance(second, TrainingFailed)
    assert_same(first, alone(prepared, jobs_of(prepared, plan, [[9, 4, 12]], seed=5, told=[])[0]))


def test_a_plan_with_privacy_terms_is_refused(configured: Configure) -> None:
    """Before a record is read, with the remedy."""
    prepared, plan = task(configured)
    terms = DpPlan(
        unit="record", contribution_bound=None, epsilon=8.0, delta=1e-5, sampling_rate=plan.sampling_rate,
        clip_norm=1.0, clipping="abadi", noise_multiplier=1.0, loss_clip=8.0, loss_noise_multiplier=4.0,
        engine="flat", noise="gaussian",
    )  # fmt: skip
    jobs = jobs_of(prepared, replace(plan, dp=terms, seed=None), [[3, 4]], seed=5, told=[])

    with pytest.raises(Refused, match=r"stacked_under_dp.*engine\.stacked=1"):
        train_together(prepared.host, jobs)
