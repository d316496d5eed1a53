"""What a site's operator sees in a browser, and what can be decided there."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards import site_dashboard
from visitor import Visitor, Words

from partsong.client.adapters.store import AdapterStore
from partsong.client.budget.books import Claim
from partsong.client.link.outbox import Outbox, Outgoing, Sealed
from partsong.client.rules.policy import (
    AdapterLimits,
    DataFloor,
    HoldingPolicy,
    Policy,
    PrivacyFloor,
    PurposePolicy,
)
from partsong.common import config, wire
from partsong.common.build import to_tree
from partsong.common.plan import Plan

PAGES = ("", "plans", "ledger", "left", "adapters")
PRIVATE: dict[str, Any] = {
    "privacy": {"mode": "dp", "epsilon": 8.0, "delta": 1e-3, "sampling_rate": 0.2, "noise_multiplier": 1.5},
    "sites": 5,
    "rounds": 2,
    "data": config.DataConfig(max_length=64, unit_field="patient"),
    "training": config.TrainingConfig(steps_per_round=1),
    "secure_sum": config.SecureSumConfig(field_bits=32),
}
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"


@contextmanager
def looking(site: Any, **more: Any) -> Iterator[Visitor]:
    """A browser that has logged in."""
    with site_dashboard(site, **more) as key:
        yield Visitor(key).log_in()


def manual(fleet: Any, **changes: Any) -> Any:
    """The first site asks a person, for canaries too, and has a budget."""
    site = fleet.sites["a"]
    values: dict[str, Any] = {
        "purposes": {"canary": PurposePolicy(approval="manual")},
        "holdings": {"ward": HoldingPolicy(epsilon=8.0, delta=1e-5)},
    }
    site.policy = Policy(**values | changes)
    site.home.policy.write_text(yaml.safe_dump(to_tree(site.policy)))
    site.start()
    return site


def for_training(base_sha256: str) -> Policy:
    """A policy under which the plan of `PRIVATE` is accepted."""
    return Policy(
        holdings={"records": HoldingPolicy(epsilon=20.0, delta=1e-3)},
        purposes={"train": PurposePolicy(approval="auto")},
        privacy=PrivacyFloor(max_epsilon=8.0, max_delta=1e-3),
        data=DataFloor(minimum_cohort=3, minimum_records=20, minimum_patients=5),
        adapter=AdapterLimits(bases=(base_sha256,), target_modules=("q_proj", "v_proj"), max_r=2),
    )


def proposed(fleet: Any, site: Any, **changes: Any) -> Any:
    """A canary that was proposed to the site, and its answer."""
    run = fleet.canary(**changes)
    answer = site.daemon.answer(
        wire.encode(wire.Propose(plan=run.plan)),
        vector=wire.vector_bytes(run.frozen_F) + wire.vector_bytes(run.start_P),
    )
    return run, wire.kind_of(answer.header)


def words_of(visitor: Visitor, path: str = "") -> str:
    got = visitor.page(path)
    assert got.status == 200, got.text
    return Words(got.text).text


def test_a_plan_is_read_approved_and_then_accepted(fleet: Any) -> None:
    """From the first page to the plan, its differences, the button; the coordinator's next proposal finds it so."""
    site = manual(fleet)
    run, answer = proposed(fleet, site)
    path = f"plans/{run.plan.sha256}"
    with looking(site) as visitor:
        first, shown = visitor.page(), words_of(visitor, path)
        unread = visitor.act(f"{path}/approve")
        pending = site.daemon.approvals.get(run.plan.sha256).state
        done = visitor.act(f"{path}/approve", read="yes")
        after = words_of(visitor, path)

    assert answer == "refuse"
    assert f'href="{visitor.base}{path}"' in first.text
    assert "the first job of this purpose" in shown
    assert "2 rounds of 1 steps" in shown
    assert (unread.status, pending) == (400, "pending")
    assert (done.status, done.headers["location"]) == (303, visitor.base + path)
    assert "approved by person" in after
    assert proposed(fleet, site)[1] == "accept"


def test_the_differences_from_the_last_approved_job_are_shown(fleet: Any) -> None:
    """Those that `partsong site plans` prints, in its order."""
    site = manual(fleet)
    first, _ = proposed(fleet, site)
    site.daemon.approvals.decide(first.plan.sha256, "approved")
    second, _ = proposed(fleet, site, run="canary-2", rounds=7, size=90)
    decision = site.daemon.approvals.get(second.plan.sha256)

    with looking(site) as visitor:
        page = visitor.page(f"plans/{second.plan.sha256}").text

    lines = site.daemon.approvals.changes(decision)
    assert "rounds 2 -> 7" in lines
    items = " ".join(Words(page.partition('class="changes"')[2].partition("</ul>")[0]).words)
    assert [line for line in lines if line not in items] == []


def test_a_plan_is_refused_with_a_reason_that_stays_here_and_an_approval_is_taken_back(fleet: Any) -> None:
    """The next proposal is refused with a code alone."""
    site = manual(fleet)
    run, _ = proposed(fleet, site)
    path = f"plans/{run.plan.sha256}"
    with looking(site) as visitor:
        visitor.act(f"{path}/approve", read="yes")
        back = visitor.act(f"{path}/refuse", reason="not this week")
        after = words_of(visitor, path)
        long = visitor.act(f"{path}/refuse", reason="x" * 501)

    assert back.status == 303
    assert "refused by person" in after
    assert "not this week" in after
    assert long.status == 400
    assert proposed(fleet, site)[1] == "refuse"


def test_a_rule_of_the_policy_stands_whatever_is_clicked(fleet: Any) -> None:
    """There is no button, and a form that was made by hand is refused with rule and remedy."""
    site = manual(fleet, data=DataFloor(minimum_cohort=5))
    run, _ = proposed(fleet, site)
    path = f"plans/{run.plan.sha256}"
    with looking(site) as visitor:
        shown = visitor.page(path).text
        forced = visitor.act(f"{path}/approve", read="yes")

    assert "cohort" in shown
    assert "refused by policy" in Words(shown).text
    assert "/approve" not in shown
    assert forced.status == 403
    assert "rule_stands" in forced.text
    assert "change the policy" in forced.text
    assert site.daemon.approvals.get(run.plan.sha256).state == "refused"


@pytest.mark.parametrize("plan", ["none", "0" * 64, "..", "%2e%2e%2fledger", "{start}"])
def test_a_plan_is_named_by_the_whole_of_its_hash(fleet: Any, plan: str) -> None:
    """What was shown is what is decided: a beginning is no name here."""
    site = manual(fleet)
    run, _ = proposed(fleet, site)
    plan = plan.format(start=run.plan.sha256[:63])
    with looking(site) as visitor:
        got = [visitor.page(f"plans/{plan}"), visitor.act(f"plans/{plan}/approve", read="yes")]

    assert [one.status for one in got] == [404, 404]
    assert site.daemon.approvals.get(run.plan.sha256).state == "pending"


def test_the_site_pauses_and_takes_queries_again(fleet: Any) -> None:
    """Each page offers the other; the daemon refuses new work meanwhile."""
    site = fleet.sites["a"]
    with looking(site) as visitor:
        first = visitor.act("pause")
        paused, answer = words_of(visitor), proposed(fleet, site)[1]
        visitor.act("resume")
        resumed = words_of(visitor)

    assert (first.status, first.headers["location"]) == (303, visitor.base)
    assert "paused; NOT connected" in paused
    assert "Take queries again" in paused
    assert answer == "refuse"
    assert "Pause this site" in resumed
    assert proposed(fleet, site)[1] == "accept"


def test_a_query_without_privacy_fills_the_gauge_and_entries_show_no_body(fleet: Any) -> None:
    """The budget is gone, and said to be; an entry's body, where counts of records stand, is left to the ledger."""
    site = manual(fleet)
    claim = Claim(
        holding="ward", context="of 4321 records", purpose="train", run="r", coordinator="k", fingerprint="f",
        events=(), protected=False,
    )  # fmt: skip
    site.ledger.set_ceiling("ward", epsilon=None, delta=1e-5)
    site.ledger.reserve(claim)
    site.ledger.set_ceiling("ward", epsilon=8.0, delta=1e-5)

    with looking(site) as visitor:
        page, all_pages = visitor.page("ledger").text, [visitor.page(path).text for path in PAGES]

    meters = [found for tag, found in Words(page).tags if tag == "meter"]
    assert [(found["max"], found["value"]) for found in meters] == [("8.0", "8.0")]
    assert "whole life: epsilon inf of 8" in page
    assert "reserved" in page
    assert f"{site.ledger.head.number}:{site.ledger.head.digest}" in page
    assert "4321" in json.dumps([entry.body for entry in site.ledger.entries()])
    assert not any("4321" in one for one in all_pages)


def test_what_left_is_told_in_bytes_by_day_and_in_vectors_by_plan(fleet: Any) -> None:
    """From the record of the outbox and the journals of the plans."""
    site = fleet.sites["a"]
    clock = iter([1_700_000_000.0] * 2 + [1_700_100_000.0] * 20)
    box = Outbox(site.home.outbox, clock=lambda: next(clock))
    for number in range(3):
        question = bytes([number]) * 32
        part = Sealed(name=bytes(32), content=b"x" * 5000)
        box.keep(Outgoing(question=question, run=1, node=1, expires_ms=0, envelope=b"", tree=b"", parts=(part,)))
        box.sent(question)
    run = fleet.canary()
    run.play()

    with looking(site) as visitor:
        words = words_of(visitor, "left")

    lines = [json.loads(line) for line in (site.home.outbox / "answered.jsonl").read_text().splitlines()]
    total = sum(line["bytes"] for line in lines)
    assert total > 15_000
    assert "2023-11-14" in words
    assert f"canary-1 {run.plan.sha256[:12]} 2 {run.plan.sealed_bytes() // 2} bytes masked" in words
    assert "stay here" in words


def test_the_files_of_a_stored_adapter_come_to_keep(fleet: Any, make_plan: Callable[..., Plan]) -> None:
    """As they were stored; one that was changed since is not given, and there is nothing beside them."""
    site, plan = manual(fleet), make_plan()
    store = AdapterStore(site.home.adapters)
    files: dict[wire.AdapterFile, bytes] = {"README.md": b"# card", "adapter_model.safetensors": b"weights"}
    store.store(plan, files, adapter="a" * 64, now_ms=0)
    with looking(site) as visitor:
        page = visitor.page("adapters")
        got = {name: visitor.page(f"adapters/{plan.sha256}/{name}") for name in files}
        absent = [visitor.page(f"adapters/{path}").status for path in (
            f"{plan.sha256}/partsong.json", f"{plan.sha256}/..%2fcurrent", f"{'0' * 64}/README.md", "x/README.md",
        )]  # fmt: skip
        (site.home.adapters / plan.sha256 / "README.md").write_bytes(b"# another")
        changed = visitor.page(f"adapters/{plan.sha256}/README.md")

    links = [found["href"] or "" for tag, found in Words(page.text).tags if "download" in found]
    assert {link.rpartition("adapters/")[2] for link in links} == {f"{plan.sha256}/{name}" for name in files}
    assert {name: answer.body for name, answer in got.items()} == files
    assert all("attachment" in answer.headers["content-disposition"] for answer in got.values())
    assert absent == [404] * 4
    assert changed.status == 400
    assert b"another file than was stored" in changed.body


def test_hostile_names_are_text(fleet: Any) -> None:
    """Of the site, of a run, and in a reason."""
    site = manual(fleet)
    run, _ = proposed(fleet, site, run=HOSTILE)
    site.daemon.approvals.decide(run.plan.sha256, "refused", reason=HOSTILE)
    with looking(site, name=HOSTILE) as visitor:
        pages = [visitor.page(path).text for path in (*PAGES, f"plans/{run.plan.sha256}")]

    for text in pages:
        sources = [found.get("src") for tag, found in Words(text).tags if tag == "script"]
        assert all((source or "").startswith("/static/") for source in sources)
        assert HOSTILE in " ".join(Words(text).words)
    assert HOSTILE in Words(pages[-1]).text.partition("reason")[2]


def test_after_training_the_gauge_shows_what_was_spent_and_no_page_a_record_or_a_key(
    fleet: Any, make_host: Callable[..., Any], make_site_plan: Callable[..., Plan]
) -> None:
    """After a round of real training on records that are known, at a site whose keys are known."""
    base = Path(__file__).parents[2] / "fixtures" / "tiny-llama"
    host = make_host()
    fleet.policy = for_training(host.files.sha256)
    fleet.let_train(fleet, base=base)
    plan = make_site_plan(host, **PRIVATE)
    run = fleet.run(plan, host.take(trained=False), host.take())
    run.propose()
    run.round(1)
    site = fleet.sites["a"]
    records = (site.home.path / "records.jsonl").read_bytes()
    secrets = [site.key, site.signer.secret_bytes()]

    with looking(site) as visitor:
        pages = b"".join(visitor.page(path).body for path in (*PAGES, f"plans/{plan.sha256}"))

    assert b"round 1 of 2" in pages
    meters = [found for tag, found in Words(pages.decode()).tags if tag == "meter"]
    spent = site.ledger.spent("records").epsilon
    assert 0 < spent < 8
    assert [(found["max"], found["value"]) for found in meters] == [("20.0", str(spent))] * 2
    assert f"whole life: epsilon {spent:.3g} of 20".encode() in pages
    assert all(marker in records for marker in (b"case 7 of 0", b"zeta", b"kappa"))
    assert not any(marker in pages for marker in (b"case ", b"zeta", b"kappa", str(site.home.path).encode()))
    assert not any(secret[:12].hex().encode() in pages or secret[:12] in pages for secret in secrets)
