"""A patient is clipped as a whole, however many records and passes they take."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.dp.clipping import clip_weights
from partsong.client.dp.engine import plain_stepper, private_stepper
from partsong.client.dp.units import Segments, spans_of
from partsong.common.errors import Refused
from partsong.common.privacy.accounting import StepEvents, joint_multiplier

CLIP, LOSS_CLIP, SLACK = 0.05, 2.0, 1 + 1e-5
ENGINES = ["flat", "books", "hooks"]
LENGTHS = (9, 3, 6, 2, 7, 4, 8)
OWNERS = (0, 0, 0, 1, 2, 2, 3)


def attach(kit, model, engine: str, *, unit: str = "patient", **changes):
    chosen = kit.settings(
        **{"clip_norm": CLIP, "loss_clip": LOSS_CLIP, "unit": unit, "engine": "hooks" if engine == "hooks" else "flat"}
        | changes
    )
    optimizer = torch.optim.SGD(kit.trainable(model), lr=0.1)
    return private_stepper(model, optimizer, chosen, buffer_limit_bytes=0 if engine == "books" else 1 << 30)


def shares(owners: tuple[int, ...]) -> torch.Tensor:
    """One over the number of records of each record's owner."""
    return torch.tensor([1 / owners.count(owner) for owner in owners])


def run(kit, model, stepper, batch, owners, cuts=(), losses=None) -> tuple[torch.Tensor, float]:
    """What a step would release before noise, the sample cut into passes at `cuts`."""
    share = shares(owners)
    for part in torch.arange(len(owners)).tensor_split(torch.tensor(cuts, dtype=torch.long)):
        loss_B = (losses or kit.losses)(model, batch.take(part)) * share[part]
        stepper.accumulate(loss_B, [owners[i] for i in part])
    stepper._count(stepper._optimizer.close_unit())
    result = stepper._optimizer.sum_P.double().clone(), stepper._optimizer.loss_sum
    stepper._optimizer.sum_P.zero_()
    stepper._optimizer.loss_sum = 0.0
    return result


def by_hand(kit, model, batch, owners, *, clip: float, clipping: str = "abadi") -> torch.Tensor:
    """One record at a time, mean over each patient's, clip, sum."""
    rows = kit.loop(model, batch)
    patients = torch.stack(
        [rows[[i for i, owner in enumerate(owners) if owner == patient]].mean(0) for patient in sorted(set(owners))]
    )
    return clip_weights(patients.norm(dim=1), clip_norm=clip, clipping=clipping) @ patients


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("clipping", ["abadi", "autos"])
@pytest.mark.parametrize("cuts", [(), (1, 2, 5), (1, 2, 3, 4, 5, 6)], ids=["one pass", "four", "seven"])
def test_the_clipped_sum_is_that_of_a_loop_over_patients(kit, engine: str, clipping: str, cuts: tuple) -> None:
    """Also where a patient is spread over several passes: the relative error stays below 1e-5."""
    model, batch = kit.tiny(), kit.unequal(LENGTHS)
    clip = 0.3
    expected = by_hand(kit, model, batch, OWNERS, clip=clip, clipping=clipping).double()
    stepper = attach(kit, model, engine, clipping=clipping, clip_norm=clip)

    total, loss = run(kit, model, stepper, batch, OWNERS, cuts)

    losses = kit.losses(model, batch).detach() * shares(OWNERS)
    means = torch.stack([losses[[i for i, o in enumerate(OWNERS) if o == u]].sum() for u in range(4)])
    assert (total - expected).norm() < 1e-5 * expected.norm()
    assert loss == pytest.approx(float(means.clamp(0, LOSS_CLIP).sum()), rel=1e-6)
    assert stepper.step().local.units == 4


@pytest.mark.parametrize("engine", ENGINES)
def test_clipping_records_would_give_another_sum(kit, engine: str) -> None:
    """The control of the test above: the mean of clipped records is not the clipped mean."""
    model, batch = kit.tiny(), kit.unequal(LENGTHS)
    expected = by_hand(kit, model, batch, OWNERS, clip=CLIP).double()
    stepper = attach(kit, model, engine, unit="record")
    stepper.accumulate(kit.losses(model, batch) * shares(OWNERS))

    records = stepper._optimizer.sum_P.double()

    assert (records - expected).norm() > 0.1 * expected.norm()


def leave_one_patient_out(kit, model, stepper, batch, owners, cuts, losses=None) -> tuple[list[float], list[float]]:
    whole, loss = run(kit, model, stepper, batch, owners, cuts, losses)
    moves, loss_moves = [], []
    for patient in sorted(set(owners)):
        rest = [i for i, owner in enumerate(owners) if owner != patient]
        kept = tuple(owners[i] for i in rest)
        without, loss_without = run(kit, model, stepper, batch.take(rest), kept, (), losses)
        moves.append(float((whole - without).norm()))
        loss_moves.append(abs(loss - loss_without))
    return moves, loss_moves


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cuts", [(), (1, 4)], ids=["one pass", "three"])
@pytest.mark.parametrize("poison", [1.0, 1e6, 1e25, float("inf"), float("nan"), -3.0])
def test_no_patient_moves_the_sums_by_more_than_one_clip(kit, engine: str, cuts: tuple, poison: float) -> None:
    """Leave one patient out: very unequal records, one patient with five, one of those huge or not a number."""
    owners = (0, 0, 0, 0, 0, 1, 2)
    model, batch = kit.tiny(), kit.unequal((24, 2, 2, 3, 2, 2, 5))
    stepper = attach(kit, model, engine)

    def losses(model, batch):
        return kit.losses(model, batch) * torch.where(batch.mask.sum(1) == 24, poison, 1.0)

    moves, loss_moves = leave_one_patient_out(kit, model, stepper, batch, owners, cuts, losses)

    assert max(moves) <= CLIP * SLACK
    assert max(loss_moves) <= LOSS_CLIP * SLACK
    assert max(moves) > 0.5 * CLIP


def test_clipping_records_lets_a_patient_of_many_through(kit) -> None:
    """The control: with records as the unit, the same patient of five moves the sum by several clips."""
    owners = (0, 0, 0, 0, 0, 1, 2)
    model, batch = kit.tiny(), kit.unequal((24, 24, 24, 24, 24, 2, 5))
    batch.tokens[:5], batch.labels[:5] = batch.tokens[0].clone(), batch.labels[0].clone()
    stepper = attach(kit, model, "flat", unit="record")

    def released(index: list[int]) -> torch.Tensor:
        stepper.accumulate(kit.losses(model, batch.take(index)))
        total = stepper._optimizer.sum_P.double().clone()
        stepper._optimizer.sum_P.zero_()
        return total

    whole, without = released(list(range(7))), released([5, 6])

    assert float((whole - without).norm()) == pytest.approx(5 * CLIP, rel=1e-4)
    assert owners.count(0) == 5


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    owners=st.lists(st.integers(0, 4), min_size=1, max_size=7).map(sorted),
    cuts=st.sets(st.integers(1, 6)).map(sorted),
    engine=st.sampled_from(["flat", "books"]),
)
def test_where_a_sample_is_cut_does_not_matter(kit, owners: list[int], cuts: list[int], engine: str) -> None:
    """Any owners, any cut: the sums are those of the sample in one pass."""
    model, batch = kit.tiny(), kit.unequal(LENGTHS[: len(owners)])
    stepper = attach(kit, model, engine)
    whole, loss = run(kit, model, stepper, batch, tuple(owners))

    cut, cut_loss = run(kit, model, stepper, batch, tuple(owners), tuple(c for c in cuts if c < len(owners)))

    assert (cut - whole).norm() <= 1e-5 * whole.norm()
    assert cut_loss == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_patient_who_comes_back_is_refused(kit, engine: str) -> None:
    """Clipped twice, they would count twice; nothing of that pass is added."""
    model, batch = kit.tiny(), kit.unequal((4, 4, 4))
    stepper = attach(kit, model, engine)
    stepper.accumulate(kit.losses(model, batch), [0, 1, 2])
    before = stepper._optimizer.sum_P.clone()

    with pytest.raises(Refused, match="unit_comes_back"):
        stepper.accumulate(kit.losses(model, batch), [1, 3, 4])
    with pytest.raises(Refused, match="unit_comes_back"):
        stepper.accumulate(kit.losses(model, batch), [2, 4, 3])

    assert torch.equal(stepper._optimizer.sum_P, before)


@pytest.mark.parametrize(("unit", "owners"), [("patient", None), ("record", [0, 1, 2]), ("patient", [0, 1])])
def test_a_pass_says_whose_records_it_holds_where_this_matters(kit, unit: str, owners: list[int] | None) -> None:
    """Neither a patient-level pass without patients nor patients that would be ignored."""
    model, batch = kit.tiny(), kit.unequal((4, 4, 4))
    stepper = attach(kit, model, "flat", unit=unit)

    with pytest.raises(Refused, match="units_unknown"):
        stepper.accumulate(kit.losses(model, batch), owners)

    assert not stepper._optimizer.sum_P.any()


def test_a_step_without_privacy_knows_no_patients(kit) -> None:
    """An argument that would be ignored is refused."""
    model, batch = kit.tiny(), kit.unequal((4,))
    stepper = plain_stepper(model, torch.optim.SGD(kit.trainable(model), lr=0.1), expected_batch=1.0)

    with pytest.raises(Refused, match="units_unknown"):
        stepper.accumulate(kit.losses(model, batch), [0])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_pass_that_failed_leaves_the_open_patient_as_it_was(kit, engine: str) -> None:
    """Memory running out in the middle of a patient: the halves then give the sum of the whole."""
    model, batch = kit.tiny(), kit.unequal((9, 3, 6, 2))
    owners = (0, 0, 0, 0)
    stepper = attach(kit, model, engine)
    whole, _ = run(kit, model, stepper, batch, owners)
    share = shares(owners)
    stepper.accumulate(kit.losses(model, batch.take([0])) * share[:1], [0])
    kit.losses(model, batch.take([1, 2, 3]))  # a forward pass whose backward pass never came
    stepper.discard_partial()

    for i in (1, 2, 3):
        stepper.accumulate(kit.losses(model, batch.take([i])) * share[i : i + 1], [0])
    stepper._optimizer.close_unit()

    assert (stepper._optimizer.sum_P.double() - whole).norm() < 1e-5 * whole.norm()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_patient_with_one_broken_record_counts_as_nothing_wherever_it_is(kit, engine: str) -> None:
    """NaN in the first of two passes: the patient is dropped whole, counted once, and the others stay."""
    model, batch = kit.tiny(), kit.unequal((9, 3, 6, 2))
    clean, _ = run(kit, model, attach_ := attach(kit, model, engine), batch.take([2, 3]), (1, 2))
    attach_.close()
    stepper = attach(kit, model, engine)
    scale = torch.tensor([float("nan"), 1.0, 1.0, 1.0])

    stepper.accumulate(kit.losses(model, batch.take([0])) * scale[:1], [0])
    stepper.accumulate(kit.losses(model, batch.take([1, 2, 3])) * scale[1:], [0, 1, 2])
    stepper._count(stepper._optimizer.close_unit())

    assert (stepper._optimizer.sum_P.double() - clean).norm() < 1e-5 * clean.norm()
    local = stepper.step().local
    assert (local.units, local.nonfinite_units) == (3, 1)


def test_events_say_that_patients_were_the_unit(kit) -> None:
    """So that nobody adds them to record-level ones."""
    stepper = attach(kit, kit.tiny(), "flat")

    stepper.step()
    stepper.step()

    joint = joint_multiplier(1.0, 4.0)
    assert stepper.events == (StepEvents(sampling_rate=0.1, noise_multiplier=joint, steps=2, unit="patient"),)


def test_the_open_patient_is_in_the_release_and_not_in_the_next(kit) -> None:
    """The last patient of a sample is closed by the step, with its own clip, and forgotten."""
    model, batch = kit.tiny(), kit.unequal((9,))
    stepper = attach(kit, model, "flat", noise_multiplier=1e-4, loss_noise_multiplier=1e-6, expected_batch=1.0)
    stepper._optimizer.original_optimizer.param_groups[0]["lr"] = 1.0

    def step_norm() -> float:
        before = torch.cat([p.detach().clone().flatten() for p in kit.trainable(model)])
        stepper.step()
        return float((torch.cat([p.detach().flatten() for p in kit.trainable(model)]) - before).norm())

    stepper.accumulate(kit.losses(model, batch), [7])

    assert step_norm() == pytest.approx(CLIP, rel=0.05)
    assert step_norm() < 0.1 * CLIP


def test_spans_are_cut_where_the_owner_changes() -> None:
    """By hand, with and without a unit before."""
    assert spans_of([0, 0, 1, 5, 5, 5], after=None) == ((0, 2), (2, 3), (3, 6))
    assert spans_of([3, 4], after=3) == ((0, 1), (1, 2))
    with pytest.raises(Refused, match="unit_comes_back"):
        spans_of([2], after=3)


def test_rows_collapse_in_place_and_take_the_carry() -> None:
    """Three rows of two units and what the first had before."""
    rows = torch.tensor([[1.0, 2.0], [10.0, 20.0], [5.0, 5.0]])
    segments = Segments(spans=((0, 2), (2, 3)), carry_P=torch.tensor([9.0, 100.0, 200.0]))

    collapsed = segments.collapse(rows, start=1)

    assert collapsed.tolist() == [[111.0, 222.0], [5.0, 5.0]]
    assert segments.spread(torch.tensor([0.5, 0.0])).tolist() == [0.5, 0.5, 0.0]
