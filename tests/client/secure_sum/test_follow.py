"""The site's own copy of the adapter: along checked sums, in order, whole or damaged by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partsong.client.seal import seal
from partsong.client.secure_sum.follow import Follower
from partsong.common.adapters.adapter import digest
from partsong.common.adapters.methods import ServerState, server_step
from partsong.common.config import ServerOptimizerConfig
from partsong.common.errors import DataError, Refused, TryAgain
from partsong.common.files import write_bytes
from partsong.common.identity.charter import Charter, Member
from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.secure_sum.fixed_point import SumOutOfRange
from partsong.common.secure_sum.messages import Header
from partsong.common.secure_sum.opened import query_hash, read_sum
from partsong.common.secure_sum.result import OpenedSum

MakePlan = Callable[..., Plan]
CHARTER = Charter(
    consortium="c", version=1, previous=None, suite="A", coordinator="ff" * 32, minimum_cohort=3, corrupt_tolerance=0,
    sites=tuple(Member(id=f"s{i}", key=f"{i:064x}") for i in range(3)),
)  # fmt: skip
START_P = np.linspace(-1, 1, 8, dtype=np.float32)


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    """With an optimizer that remembers, so that order and memory count."""
    return make_plan(masked=True, optimizer=ServerOptimizerConfig(name="fedadam"), start_sha256=digest(START_P))


def summed(plan: Plan, *, round_: int, previous: int, number: int | None = None, words: object = None) -> OpenedSum:
    """A checked sum of three sites, whose updates are the round's number."""
    number = round_ if number is None else number
    one_W = seal(
        {UPDATE: np.full(8, 0.1 * round_, np.float32), LOSS: np.array([1.0], np.float32)},
        plan, number=number, rng=np.random.default_rng(round_),
    )  # fmt: skip
    header = Header(
        setup=bytes(32), round=round_, model=bytes(32), query=query_hash(plan, number=number), encoding=bytes(32),
        words=len(one_W), minimum_sum=0, noised=0, deadline=0, previous_round=previous, previous=bytes(32),
    )  # fmt: skip
    return OpenedSum(
        header=header, context=bytes(32), sites=(0, 1, 2), words=3 * one_W if words is None else words,
        tag=np.zeros(3, np.uint64), hash=bytes([round_]) * 32, survivors=bytes(32),
    )  # fmt: skip


def by_hand(plan: Plan, *rounds: int) -> str:
    """The adapter after these sums, by the coordinator's own arithmetic."""
    state = ServerState(adapter_P=START_P.astype(np.float64))
    for round_ in rounds:
        words_W = summed(plan, round_=round_, previous=0).words
        state = server_step(state, read_sum(words_W, plan, number=round_, sites=3).mean_P, plan.optimizer)
    return digest(state.adapter_P.astype(np.float32))


def following(plan: Plan, file: Path) -> Follower:
    follower = Follower(file)
    follower.start(plan, START_P)
    return follower


def test_the_copy_is_what_the_coordinator_computes(plan: Plan, tmp_path: Path) -> None:
    """Start, one sum, two sums; the control is another order."""
    follower = following(plan, tmp_path / "copy")
    found = [follower.adapter_sha256]
    for round_ in (1, 2):
        follower.take(summed(plan, round_=round_, previous=round_ - 1), number=round_, charter=CHARTER)
        found.append(follower.adapter_sha256)

    assert found == [digest(START_P), by_hand(plan, 1), by_hand(plan, 1, 2)]
    assert by_hand(plan, 2, 1) != by_hand(plan, 1, 2)


def test_a_restart_goes_on_with_the_optimizer_s_memory(plan: Plan, tmp_path: Path) -> None:
    """The file holds all of it."""
    following(plan, tmp_path / "copy").take(summed(plan, round_=1, previous=0), number=1, charter=CHARTER)
    again = following(plan, tmp_path / "copy")
    assert again.adapter_sha256 == by_hand(plan, 1)

    again.take(summed(plan, round_=2, previous=1), number=2, charter=CHARTER)

    assert again.adapter_sha256 == by_hand(plan, 1, 2)


def test_a_sum_that_was_taken_changes_nothing(plan: Plan, tmp_path: Path) -> None:
    """Also an older one, and also after a restart."""
    follower = following(plan, tmp_path / "copy")
    for round_ in (1, 2):
        follower.take(summed(plan, round_=round_, previous=round_ - 1), number=round_, charter=CHARTER)
    whole = (tmp_path / "copy").read_bytes()
    for one in (follower, following(plan, tmp_path / "copy")):
        one.take(summed(plan, round_=1, previous=0), number=1, charter=CHARTER)
        one.take(summed(plan, round_=2, previous=1), number=2, charter=CHARTER)

    assert (tmp_path / "copy").read_bytes() == whole


def test_a_sum_out_of_order_is_refused_and_can_be_taken_later(plan: Plan, tmp_path: Path) -> None:
    """Rounds without a sum leave gaps in the numbers; what counts is which sum came before."""
    follower = following(plan, tmp_path / "copy")
    late = summed(plan, round_=7, previous=4, number=2)
    with pytest.raises(Refused, match="missing_result"):
        follower.take(late, number=2, charter=CHARTER)
    assert follower.adapter_sha256 == digest(START_P)

    follower.take(summed(plan, round_=4, previous=0, number=1), number=1, charter=CHARTER)
    follower.take(late, number=2, charter=CHARTER)

    assert follower.adapter_sha256 != digest(START_P)


def test_a_sum_is_decoded_for_its_own_round_only(plan: Plan, tmp_path: Path) -> None:
    """Another number would rotate the words another way."""
    follower = following(plan, tmp_path / "copy")

    with pytest.raises(Refused, match="other_query"):
        follower.take(summed(plan, round_=1, previous=0), number=2, charter=CHARTER)
    with pytest.raises(Refused, match="other_query"):
        follower.take(summed(plan, round_=1, previous=0, number=2), number=1, charter=CHARTER)
    assert follower.adapter_sha256 == digest(START_P)


def test_words_that_are_no_sum_leave_the_copy_as_it_was(plan: Plan, tmp_path: Path) -> None:
    """And the right ones can be taken afterwards."""
    follower = following(plan, tmp_path / "copy")
    bad_W = np.full(plan.encoding.words(), 2**64 - 1, np.uint64)

    with pytest.raises(SumOutOfRange):
        follower.take(summed(plan, round_=1, previous=0, words=bad_W), number=1, charter=CHARTER)
    follower.take(summed(plan, round_=1, previous=0), number=1, charter=CHARTER)

    assert follower.adapter_sha256 == by_hand(plan, 1)


def test_a_full_disk_leaves_copy_and_number_together(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number ahead of its copy would add the next sum to the wrong adapter."""
    follower = following(plan, tmp_path / "copy")
    follower.take(summed(plan, round_=1, previous=0), number=1, charter=CHARTER)

    def full(_file: Path, _data: bytes) -> None:
        raise TryAgain("no space left")

    monkeypatch.setattr("partsong.client.secure_sum.follow.write_bytes", full)
    with pytest.raises(TryAgain):
        follower.take(summed(plan, round_=2, previous=1), number=2, charter=CHARTER)
    assert follower.adapter_sha256 == by_hand(plan, 1)
    monkeypatch.setattr("partsong.client.secure_sum.follow.write_bytes", write_bytes)

    for round_ in (2, 3):
        follower.take(summed(plan, round_=round_, previous=round_ - 1), number=round_, charter=CHARTER)

    assert follower.adapter_sha256 == by_hand(plan, 1, 2, 3)


def test_another_plan_takes_the_file_with_its_first_sum(plan: Plan, make_plan: MakePlan, tmp_path: Path) -> None:
    """Until then the copy of the plan before stands."""
    other = make_plan(run="another", masked=True)
    following(plan, tmp_path / "copy").take(summed(plan, round_=1, previous=0), number=1, charter=CHARTER)
    follower = following(other, tmp_path / "copy")
    assert follower.adapter_sha256 == digest(START_P)
    assert following(plan, tmp_path / "copy").adapter_sha256 == by_hand(plan, 1)

    follower.take(summed(other, round_=1, previous=0), number=1, charter=CHARTER)

    assert following(plan, tmp_path / "copy").adapter_sha256 == digest(START_P)


def test_any_changed_byte_is_a_damaged_file(plan: Plan, tmp_path: Path) -> None:
    """At every place, and cut at every place: never a copy that is silently another."""
    file = tmp_path / "copy"
    following(plan, file).take(summed(plan, round_=1, previous=0), number=1, charter=CHARTER)
    good = file.read_bytes()
    changed = [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(0, len(good), 5)]
    for bad in (*changed, *(good[:at] for at in range(0, len(good), 25))):
        file.write_bytes(bad)
        with pytest.raises(DataError, match="this site's copy of the adapter"):
            following(plan, file)
    file.write_bytes(good)

    assert following(plan, file).adapter_sha256 == by_hand(plan, 1)
