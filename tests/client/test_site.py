"""A site's side of the protocol, message by message."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from site_bench import PRIVATE, MakeBench, code

from partsong.client.data.encode import Encoded, Record
from partsong.client.model.host import ModelHost
from partsong.client.rules.consent import Rules
from partsong.common import wire
from partsong.common.adapters.adapter import digest
from partsong.common.errors import Refused, WireError
from partsong.common.plan import LOSS, UPDATE, rotation_seed
from partsong.common.privacy.accounting import joint_multiplier
from partsong.common.secure_sum.fixed_point import decode_sum

KINDS = {
    "plain": {},
    "private": PRIVATE,
    "discrete": PRIVATE | {"noise": "discrete"},
    "patients": PRIVATE | {"unit": "patient", "contribution_bound": 2},
    "patients, discrete": PRIVATE | {"unit": "patient", "contribution_bound": 2, "noise": "discrete"},
}


@pytest.mark.parametrize("privacy", KINDS.values(), ids=KINDS)
def test_a_round_leaves_the_sealed_update_and_nothing_else(make_bench: MakeBench, privacy: dict[str, Any]) -> None:
    """Accept, ready, report; the words decode to the site's update and released loss."""
    bench = make_bench(privacy=privacy)

    accepted, ready = bench.propose(), bench.open()
    report = bench.roster()

    assert wire.decode(accepted.header, wire.Accept) == wire.Accept(site="north", plan_sha256=bench.plan.sha256)
    assert wire.decode(ready.header, wire.Ready) == wire.Ready(site="north", round=1, attempt=1)
    assert (accepted.vector, ready.vector) == (b"", b"")
    assert wire.decode(report.header, wire.Report) == wire.Report(site="north", round=1, attempt=1)
    ((number, update),) = bench.rounds
    words = wire.words(report.vector, size=bench.plan.encoding.words())
    seed = rotation_seed(bench.plan.sha256, number=1)
    opened = decode_sum(words, bench.plan.encoding, sites=1, rotation_seed=seed)
    assert number == 1
    assert opened[UPDATE] == pytest.approx(update.update_P, abs=1e-6)
    assert opened[LOSS] == pytest.approx([update.loss], abs=1e-6)
    assert np.abs(update.update_P).max() > 1e-4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain"])
def test_a_round_records_the_events_that_the_plan_announced(make_bench: MakeBench, kind: str) -> None:
    """Rate, accounted noise, steps and unit: what a ledger reserves is what sampler and optimizer then do."""
    bench = make_bench(privacy=KINDS[kind])
    bench.propose()
    bench.open()

    ((_, update),) = bench.rounds

    dp, training = bench.plan.dp, bench.plan.training
    assert dp is not None
    assert update.events == (dp.events(steps=training.steps_per_round, size=bench.plan.layout.size(trained=True)),)
    assert update.events[0].unit == ("patient" if "patients" in kind else "record")
    assert ("discrete" in kind) is (
        update.events[0].noise_multiplier < joint_multiplier(dp.noise_multiplier, dp.loss_noise_multiplier) * (1 - 1e-9)
    )


def test_a_plan_for_patients_is_refused_where_records_have_no_owner(
    make_bench: MakeBench, make_records: Callable[..., tuple[Record, ...]], make_encoded: Callable[..., Encoded]
) -> None:
    """Before a record is read."""
    bench = make_bench(privacy=KINDS["patients"])
    bench.encoded = make_encoded(make_records((5, 7, 4) * 4))
    bench.site = bench.new_site()

    assert code(bench.propose()) == "data"


def test_an_update_is_sealed_once(make_bench: MakeBench) -> None:
    """A second roster, of whatever sites, finds nothing: two rosters would open a difference."""
    bench = make_bench()
    bench.propose()
    bench.open()

    answers = [code(bench.roster()), code(bench.roster()), code(bench.roster(sites=("a", "b", "north")))]

    assert answers == ["report", "state", "state"]


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        (("east", "west", "south"), "state"),
        (("east", "north"), "policy"),
        (("north", "north", "north"), "policy"),
        (("east", "north", "north"), "policy"),
        (("east", "north", "west", "x"), "policy"),
        ((), "state"),
        (("east", "north", "west"), "report"),
    ],
)
def test_a_roster_without_this_site_or_below_the_floor_seals_nothing(
    make_bench: MakeBench, sites: tuple[str, ...], expected: str
) -> None:
    """Names count once, and a sum of more sites than the encoding has room for is no sum; the update stays unused."""
    bench = make_bench()
    bench.propose()
    bench.open()

    assert code(bench.roster(sites=sites)) == expected
    assert code(bench.roster()) == ("report" if expected != "report" else "state")


@pytest.mark.parametrize(("number", "attempt"), [(2, 1), (1, 2)])
def test_a_roster_of_another_round_seals_nothing(make_bench: MakeBench, number: int, attempt: int) -> None:
    """The update belongs to one round and attempt."""
    bench = make_bench()
    bench.propose()
    bench.open()

    assert code(bench.roster(number, attempt)) == "state"
    assert code(bench.roster()) == "report"


def test_nothing_is_done_without_a_plan(make_bench: MakeBench) -> None:
    """OPEN and ROSTER before an accepted plan are refused, also after a refused one."""
    bench = make_bench(rules=Rules())

    assert (code(bench.open()), code(bench.roster())) == ("state", "state")
    assert code(bench.propose()) in {"data", "policy"}
    assert code(bench.open()) == "state"
    assert not bench.journal.exists()


def test_a_new_query_drops_the_update_that_waits(make_bench: MakeBench) -> None:
    """Also when the new query is refused: at most one update waits, that of the last query."""
    bench = make_bench()
    bench.propose()
    bench.open()

    assert code(bench.open(plan_sha256="other")) == "plan"
    assert code(bench.roster()) == "state"


def test_a_replayed_query_is_refused_also_after_a_restart(make_bench: MakeBench) -> None:
    """The journal outlives the process."""
    bench = make_bench()
    bench.propose()
    assert code(bench.open(2)) == "ready"
    bench.site = bench.new_site()
    bench.propose()

    assert [code(bench.open(n, a)) for n, a in ((2, 1), (1, 1), (1, 9), (2, 2))] == ["state", "state", "state", "ready"]


def test_a_message_that_no_site_takes_is_refused(make_bench: MakeBench) -> None:
    """Answers of sites, and kinds that do not exist."""
    bench = make_bench()
    ready = wire.Ready(site="north", round=1, attempt=1)

    for header in (wire.encode(ready), b'{"body":{},"kind":"eval","wire":1}'):
        with pytest.raises(WireError, match="no site takes"):
            bench.site.handle(header)


def test_an_unmasked_site_knows_no_step_of_the_secure_sum(make_bench: MakeBench) -> None:
    """Each is refused by its code, and nothing is sealed by it."""
    bench = make_bench()
    bench.propose()
    bench.open()
    plan = bench.plan.sha256
    steps = [
        wire.Keys(plan_sha256=plan, step="begin"), wire.Confirm(plan_sha256=plan, round=1, attempt=1),
        wire.Unmask(plan_sha256=plan, round=1, attempt=1), wire.Result(plan_sha256=plan, summed=1, adapter_sha256=""),
    ]  # fmt: skip

    assert [code(bench.site.handle(wire.encode(step), note=b"x")) for step in steps] == ["plan"] * 4
    assert code(bench.roster()) == "report"


@pytest.mark.parametrize("masked", [True, False])
def test_a_site_takes_plans_of_its_own_kind_of_sum_only(make_bench: MakeBench, *, masked: bool) -> None:
    """A site without a charter refuses a masked plan, which it could not keep; the control is its own kind."""
    bench = make_bench()

    answer = bench.propose(dataclasses.replace(bench.plan, masked=masked))

    assert code(answer) == ("policy" if masked else "accept")


def test_a_frozen_part_other_than_the_plans_is_refused(make_bench: MakeBench) -> None:
    """A coordinator could otherwise give each site another A."""
    bench = make_bench()
    bench.frozen_F = bench.frozen_F + np.float32(1)

    with pytest.raises(WireError, match="frozen part"):
        bench.propose()
    assert code(bench.open()) == "state"


def test_refusals_of_a_plan_carry_a_code_only(make_bench: MakeBench) -> None:
    """Another base is `model`; neither rule nor number is sent."""
    bench = make_bench()
    odd = dataclasses.replace(bench.plan, base_sha256="0" * 64)

    answer = bench.propose(odd)

    assert code(answer) == "model"
    assert set(wire.decode(answer.header, wire.Refuse).__slots__) == {"site", "code"}


def test_options_survive_the_wire(make_bench: MakeBench, make_host: Callable[..., ModelHost]) -> None:
    """A plan with free LoRA options, as decoded, is the plan of the same model."""
    bench = make_bench()
    bench.host = make_host(peft={"rank_pattern": {"q_proj": 2}, "layers_pattern": None, "exclude_modules": ("k_proj",)})
    bench.frozen_F = bench.host.take(trained=False)
    bench.plan = dataclasses.replace(
        bench.plan, lora=bench.host.lora_options, layout=bench.host.layout, frozen_sha256=digest(bench.frozen_F)
    )
    bench.site = bench.new_site()

    assert code(bench.propose()) == "accept"


def test_seeded_samples_are_refused_under_privacy(make_bench: MakeBench) -> None:
    """Even if a site was wired with them."""
    bench = make_bench(privacy=PRIVATE)
    bench.site = bench.new_site(seeded=True)
    bench.propose()

    with pytest.raises(Refused, match="predictable_sample"):
        bench.open()
    assert code(bench.roster()) == "state"
