"""Unfinished work as bytes and back."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from partsong.client.encoders.encoder import LocalUpdate
from partsong.client.encoders.halfway import Halfway, SoFar
from partsong.client.training.unfinished_format import from_bytes, to_bytes
from partsong.common.errors import WireError
from partsong.common.privacy.accounting import StepEvents

SIZE = 5
COUNTS = st.integers(0, 2**40)
VECTORS = arrays.arrays(np.float32, SIZE, elements=st.floats(width=32))
EVENTS = st.builds(
    StepEvents,
    sampling_rate=st.floats(1e-9, 1.0),
    noise_multiplier=st.floats(1e-3, 1e3),
    steps=st.integers(1, 999),
    unit=st.sampled_from(["record", "patient"]),
)
UPDATES = st.builds(
    LocalUpdate,
    update_P=VECTORS, loss=st.floats(), visits=COUNTS, tokens=COUNTS, nonfinite=COUNTS,
    events=st.lists(EVENTS, max_size=2).map(tuple),
)  # fmt: skip


@st.composite
def rounds(draw: st.DrawFn) -> Halfway:
    """Rounds after a step, whose events are of as many steps."""
    event = draw(st.none() | EVENTS)
    sums = SoFar(
        step=event.steps if event else draw(st.integers(1, 999)), loss_sum=draw(st.floats()),
        weight_sum=draw(COUNTS), visits=draw(COUNTS), tokens=draw(COUNTS), nonfinite=draw(COUNTS),
    )  # fmt: skip
    slots = tuple((name, draw(VECTORS)) for name in draw(st.sampled_from([(), ("exp_avg", "exp_avg_sq")])))
    return Halfway(so_far=sums, adapter_P=draw(VECTORS), slots=slots, events=(event,) if event else ())


HALFWAY = Halfway(
    so_far=SoFar(step=2, loss_sum=1.5, weight_sum=2, visits=3, tokens=4, nonfinite=0),
    adapter_P=np.arange(SIZE, dtype=np.float32),
    slots=(("exp_avg", np.ones(SIZE, np.float32)),),
    events=(StepEvents(sampling_rate=0.5, noise_multiplier=1.0, steps=2),),
)


@settings(deadline=None, max_examples=60)
@given(work=rounds() | UPDATES)
def test_what_is_written_is_read_again(work: Halfway | LocalUpdate) -> None:
    """Bit by bit, infinities and all; and it is of the kind that it was."""
    data = to_bytes(work)

    back = from_bytes(data, size=SIZE)

    assert type(back) is type(work)
    assert back.events == work.events
    assert to_bytes(back) == data


def test_a_round_is_read_field_by_field() -> None:
    """A case by hand, so that two wrongs of writing and reading cannot agree."""
    back = from_bytes(to_bytes(HALFWAY), size=SIZE)

    assert isinstance(back, Halfway)
    assert back.so_far == HALFWAY.so_far
    assert (back.adapter_P == HALFWAY.adapter_P).all()
    assert [name for name, _ in back.slots] == ["exp_avg"]
    assert (back.slots[0][1] == 1).all()


@settings(deadline=None, max_examples=40)
@given(cut=st.integers(0, 10_000), tail=st.binary(min_size=1, max_size=4))
def test_no_byte_may_be_missing_or_too_many(cut: int, tail: bytes) -> None:
    """Whatever the place; the whole is read, so the test can fail."""
    data = to_bytes(HALFWAY)

    for wrong in (data[: cut % len(data)], data + tail):
        with pytest.raises(WireError):
            from_bytes(wrong, size=SIZE)
    assert isinstance(from_bytes(data, size=SIZE), Halfway)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 0])
def test_another_size_of_adapter_is_refused(size: int) -> None:
    """One more and one less."""
    update = LocalUpdate(update_P=np.zeros(SIZE, np.float32), loss=math.pi, visits=1, tokens=1, nonfinite=0, events=())

    for work in (HALFWAY, update):
        with pytest.raises(WireError):
            from_bytes(to_bytes(work), size=size)


@pytest.mark.parametrize(
    "wrong",
    [
        dataclasses.replace(HALFWAY, so_far=SoFar(step=3)),
        dataclasses.replace(HALFWAY, so_far=SoFar(step=0)),
        dataclasses.replace(HALFWAY, slots=(("ä", np.ones(SIZE, np.float32)),)),
        dataclasses.replace(HALFWAY, slots=(("exp_avg", np.ones(SIZE + 1, np.float32)),)),
    ],
    ids=["events of other steps", "results of no step", "a name", "a slot of another size"],
)
def test_work_that_cannot_be_is_refused(wrong: Halfway) -> None:
    """Each by its own."""
    with pytest.raises(WireError):
        from_bytes(to_bytes(wrong), size=SIZE)
