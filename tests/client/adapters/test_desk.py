"""A published adapter is stored once it is what the site computed itself, and under no name from outside."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from partsong.client.adapters import desk as adapter_desk
from partsong.client.adapters.desk import AdapterDesk
from partsong.client.adapters.store import AdapterStore
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.rules.consent import NotAgreed
from partsong.client.secure_sum.follow import Follower
from partsong.common import wire
from partsong.common.adapters.adapter import digest, unflatten
from partsong.common.adapters.methods import ServerState
from partsong.common.build import to_tree
from partsong.common.errors import DataError, InputError, PartsongError, WireError
from partsong.common.plan import Plan

START_P, FROZEN_F = np.zeros(8, np.float32), np.zeros(6, np.float32)
VECTOR = wire.vector_bytes(FROZEN_F) + wire.vector_bytes(START_P)
MakePlan = Callable[..., Plan]


class Bench:
    """A site that accepted plans whose runs had no sum yet: what follows is their start."""

    def __init__(self, folder: Path) -> None:
        self.plans, self.store = folder / "plans", AdapterStore(folder / "adapters")
        self.desk = AdapterDesk(self.store, plans=self.plans, site="north", clock=lambda: 5.0)

    def accept(self, plan: Plan) -> None:
        header = wire.encode(wire.Propose(plan=plan))
        PlanFolder(self.plans, plan.sha256).keep(header, VECTOR, run=plan.run, study=plan.study, now_ms=0)

    def publish(
        self, plan: Plan, *, trained_P: Any = START_P, options: dict[str, Any] | None = None, spoil: str = ""
    ) -> wire.Stored:
        tensors = unflatten(FROZEN_F, plan.layout.frozen) | unflatten(trained_P, plan.layout.trained)
        files = {
            "README.md": b"card",
            "adapter_config.json": json.dumps({**to_tree(plan.lora), "peft_type": "LORA"} | (options or {})).encode(),
            "adapter_model.safetensors": save(tensors, metadata={"format": "pt"}),
        }
        listed: Any = tuple(
            wire.PublishedFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())  # type: ignore[arg-type]
            for name, data in files.items()
        )
        header = wire.encode(wire.Publish(plan=plan, adapter_sha256=digest(trained_P), files=listed))
        note = b"".join(data for name, data in files.items() if name != wire.WEIGHTS)
        if spoil:
            note = {"short": note[:-1], "long": note + b"x", "changed": b"d" + note[1:]}[spoil]
        vector = wire.vector_bytes(FROZEN_F) + wire.vector_bytes(trained_P)
        return wire.decode(self.desk.published(header, vector=vector, note=note).header, wire.Stored)

    def offer(self, *plans: Plan) -> tuple[str, ...]:
        adapters = tuple(wire.Offered(run=p.run, plan_sha256=p.sha256, adapter_sha256=digest(START_P)) for p in plans)
        answer = self.desk.offered(wire.encode(wire.Offer(adapters=adapters)))
        return wire.decode(answer.header, wire.Want).plans


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_an_adapter_that_follows_from_the_sums_is_stored_and_current(bench: Bench, make_masked_plan: MakePlan) -> None:
    """As PEFT reads it, beside what was stored; then it is wanted no more."""
    plan = make_masked_plan(run="../../out of here")
    bench.accept(plan)
    assert bench.offer(plan, make_masked_plan(run="of others")) == (plan.sha256,)

    stored = bench.publish(plan)

    assert stored == wire.Stored(site="north", plan_sha256=plan.sha256)
    current = bench.store.current()
    assert current is not None
    assert (current.plan, current.adapter, current.stored_ms) == (plan.sha256, digest(START_P), 5000)
    assert bench.store.path(current).name == plan.sha256
    weights = load_file(bench.store.path(current) / "adapter_model.safetensors")
    assert set(weights) == {t.name for t in plan.layout.tensors}
    assert "sums that were checked" in adapter_desk.verify(bench.store, current, plans=bench.plans)
    assert bench.offer(plan) == ()


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"trained_P": np.ones(8, np.float32)}, NotAgreed),
        ({"options": {"lora_alpha": 400.0}}, NotAgreed),
        ({"options": {"use_dora": True}}, NotAgreed),
        ({"spoil": "short"}, WireError),
        ({"spoil": "long"}, WireError),
        ({"spoil": "changed"}, WireError),
    ],
    ids=["weights", "scale", "dora", "short", "long", "changed"],
)
def test_anything_else_is_refused_and_nothing_is_stored(
    bench: Bench, make_masked_plan: MakePlan, how: dict[str, Any], error: type[PartsongError]
) -> None:
    """Other weights, options that change what they do, other files."""
    plan = make_masked_plan()
    bench.accept(plan)

    with pytest.raises(error):
        bench.publish(plan, **how)

    assert bench.store.all() == ()
    assert bench.store.current() is None


def test_an_adapter_of_a_plan_that_was_not_accepted_is_refused(bench: Bench, make_masked_plan: MakePlan) -> None:
    """Nor of one that differs in a byte, nor of one that was purged."""
    plan, purged = make_masked_plan(), make_masked_plan(run="purged")
    bench.accept(purged)
    PlanFolder(bench.plans, purged.sha256).purged(now_ms=1)

    for odd in (plan, purged):
        with pytest.raises(NotAgreed, match=r"adapter\.plan"):
            bench.publish(odd)


def test_current_goes_back_one_by_one_and_forward_with_the_next(bench: Bench, make_masked_plan: MakePlan) -> None:
    """An adapter that comes a second time moves nothing."""
    plans = [make_masked_plan(run=f"run {n}") for n in range(4)]
    for plan in plans:
        bench.accept(plan)
    for plan in plans[:3]:
        bench.publish(plan)

    back = [bench.store.rollback().run, bench.store.rollback().run]
    with pytest.raises(InputError, match="no adapter before it"):
        bench.store.rollback()
    bench.publish(plans[2])
    again = bench.store.find("")
    bench.publish(plans[3])

    assert back == ["run 1", "run 0"]
    assert again.run == "run 0"
    assert bench.store.find("").run == "run 3"
    assert [one.number for one in bench.store.all()] == [1, 2, 3, 4]


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "README.md", "pickle.bin"])
def test_a_file_that_was_changed_since_is_found_and_fetched_again(
    bench: Bench, make_masked_plan: MakePlan, file: str
) -> None:
    """Also one that was added; the next publish puts it right."""
    plan = make_masked_plan()
    bench.accept(plan)
    bench.publish(plan)
    found = bench.store.find("")
    (bench.store.path(found) / file).write_bytes(b"other")

    with pytest.raises(DataError, match=file):
        adapter_desk.verify(bench.store, found, plans=bench.plans)
    bench.store.want(plan.sha256)
    assert bench.offer(plan) == (plan.sha256,)
    bench.publish(plan)

    assert bench.store.damaged(bench.store.find("")) == ()
    assert bench.store.wanted() == frozenset()


def test_a_copy_that_has_moved_on_is_noticed(bench: Bench, make_masked_plan: MakePlan) -> None:
    """The stored adapter is compared with the sums of today, and after a purge with its own files alone."""
    plan = make_masked_plan()
    bench.accept(plan)
    bench.publish(plan)
    found = dataclasses.replace(bench.store.find(""), adapter="0" * 64)

    with pytest.raises(DataError, match="another adapter"):
        adapter_desk.verify(bench.store, found, plans=bench.plans)
    (PlanFolder(bench.plans, plan.sha256).path / "proposal.json").unlink()

    assert "purged" in adapter_desk.verify(bench.store, bench.store.find(""), plans=bench.plans)


def test_an_earlier_adapter_of_the_sums_is_taken_and_told_from_the_last(
    bench: Bench, make_masked_plan: MakePlan
) -> None:
    """After a rollback: the site computed it when it checked that round; one that it never computed is refused."""
    plan = make_masked_plan()
    bench.accept(plan)
    last_P = np.full(8, 2.0, np.float32)
    follower = Follower(PlanFolder(bench.plans, plan.sha256).copy)
    follower.start(plan, START_P)
    state = ServerState(adapter_P=last_P.astype(np.float64), steps=1)
    follower._save(state, plan, round_=1, past={0: digest(START_P), 1: digest(last_P)})

    bench.publish(plan, trained_P=last_P)
    as_last = adapter_desk.verify(bench.store, bench.store.find(""), plans=bench.plans)
    bench.publish(plan, trained_P=START_P)
    rolled_back = adapter_desk.verify(bench.store, bench.store.find(""), plans=bench.plans)

    assert bench.store.find("").adapter == digest(START_P)
    assert "rolled back" not in as_last
    assert rolled_back.endswith("up to round 0 of 1: it was rolled back")
    with pytest.raises(NotAgreed, match="does not follow"):
        bench.publish(plan, trained_P=np.full(8, 1.0, np.float32))
