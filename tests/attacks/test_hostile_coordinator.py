"""A coordinator that lies over real connections: the site drops or refuses by a named rule, and goes on serving."""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import re
import sys
import types
import typing
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord
from hostile import Hospital, opened, without
from safetensors.numpy import save

from partsong.client import site as site_module
from partsong.client.adapters.desk import AdapterDesk
from partsong.client.daemon import plan_desk
from partsong.client.daemon.plan_desk import PlanDesk
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.rules import consent
from partsong.client.secure_sum import key_setup
from partsong.client.secure_sum.masked_door import MaskedDoor
from partsong.common import build as build_module
from partsong.common import wire
from partsong.common.adapters.adapter import digest, unflatten
from partsong.common.build import canonical_json, to_tree
from partsong.common.codec import pack
from partsong.common.identity.envelope import CoordinatorEnvelope, SiteEnvelope
from partsong.common.identity.keys import Identity
from partsong.common.plan import Plan
from partsong.common.secure_sum import result as sum_result
from partsong.common.secure_sum.messages import Begin, sign
from partsong.server import app as server_app
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss

MALLORY = Identity(b"\x66" * 32)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    with pytest.MonkeyPatch.context() as patch, opened(tmp_path_factory.mktemp("hospital")) as made:
        patch.setattr(plan_desk, "MOST_CANARIES", 500)
        made.played = (made.play(made.canary("first", seed=None)), made.play(made.canary("second")))
        assert made.played[1].is_exact()
        assert made.played[1].checked == ("a", "b", "c", "d", "e")
        yield made


Lie = Callable[[Hospital, Plan], Parcel | Loss | str]
"""One attack on site a, at whose daemon the plan was accepted; gives what came back."""


def header_of(message: Any, **changes: Any) -> bytes:
    """A message with other words around it."""
    tree = json.loads(wire.encode(message))
    return canonical_json(tree | changes)


def begin(hospital: Hospital, plan: Plan, *, charter: bytes) -> Parcel | Loss:
    message = Begin(charter=charter, run=bytes.fromhex(plan.sha256), attempt=1)
    header = wire.encode(wire.Keys(plan_sha256=plan.sha256, step="begin"))
    return hospital.say("a", header, kind="keys", note=pack(sign(message, hospital.fleet.trust.signer)))


def unsigned(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    return hospital.say("a", wire.encode(wire.Propose(plan=plan)), kind="propose", signer=MALLORY)


def to_another_site(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    """A letter to b, put into a's box."""
    port = hospital.port
    exchange = port.exchange()
    nodes = port.nodes(exchange)
    keys = {site: key.public_key for site, key in port.identities.items()}
    sealing = CoordinatorEnvelope(run="run-1", signer=port.coordinator, identity_keys=keys)
    lying = server_app.GridExchange(exchange._grid, site_at=lambda _node: "b", envelope=sealing)
    ((_, answer),) = lying.ask(
        {nodes["a"]: Parcel(header=wire.encode(wire.Propose(plan=plan)))}, phase="propose", timeout_s=20.0
    )
    return answer


def another_charter(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    """One that has lower floors, and that the coordinator alone has signed."""
    lower = dataclasses.replace(hospital.fleet.charter, minimum_honest=2)
    return begin(hospital, plan, charter=lower.hash)


def next_charter(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    """The one that follows, which no site has signed."""
    now = hospital.fleet.charter
    return begin(hospital, plan, charter=dataclasses.replace(now, version=2, previous=now.hash.hex()).hash)


def lowered_cohort(hospital: Hospital, plan: Plan) -> str:
    return hospital.propose("a", dataclasses.replace(plan, run="lowered", minimum_cohort=2))


def unmasked(hospital: Hospital, plan: Plan) -> str:
    return hospital.propose("a", dataclasses.replace(plan, run="unmasked", masked=False))


def other_base(hospital: Hospital, plan: Plan) -> str:
    return hospital.propose("a", dataclasses.replace(plan, run="base", base_sha256="0" * 64))


def query(hospital: Hospital, plan: Plan, **changes: Any) -> Parcel | Loss:
    values = {"round": 1, "attempt": 1, "adapter_sha256": "0" * 64, "summed": 0}
    message = wire.Open(plan_sha256=plan.sha256, **values | changes)
    return hospital.say("a", wire.encode(message), kind="open", vector=bytes(160))


def round_of_a_dearer_plan(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    """The accepted plan's round under the hash of one with more rounds."""
    return query(hospital, dataclasses.replace(plan, rounds=9))


def round_past_the_last(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    return query(hospital, plan, round=2)


def older_wire(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    return hospital.say("a", header_of(wire.Propose(plan=plan), wire=0), kind="propose")


def newer_wire(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    return hospital.say("a", header_of(wire.Propose(plan=plan), wire=2), kind="propose")


def path_as_a_file(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    files = [{"name": name, "size": 1, "sha256": "0" * 64} for name in ("../../up.sh", wire.WEIGHTS)]
    body = {"plan": json.loads(canonical_json(plan)), "adapter_sha256": "0" * 64, "files": files}
    return hospital.say("a", canonical_json({"wire": 1, "kind": "publish", "body": body}), kind="publish")


def path_as_a_plan(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    return query(hospital, types.SimpleNamespace(sha256="../../../etc"))  # type: ignore[arg-type]


def unknown_adapter(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    """An adapter that nobody here took part in, whole and with the right hashes."""
    weights = np.zeros(40, np.float32)
    files = (wire.PublishedFile(name=wire.WEIGHTS, size=0, sha256="0" * 64),)
    message = wire.Publish(plan=plan, adapter_sha256=digest(weights), files=files)
    return hospital.say("a", wire.encode(message), kind="publish", vector=wire.vector_bytes(weights))


def forged_adapter(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    """Of a plan that this site took part in, other weights than the sums give."""
    return published(hospital, a_training_plan(hospital), np.ones(8, np.float32))


def a_training_plan(hospital: Hospital) -> Plan:
    """A plan that site a accepted, and whose adapter is still where it began: zeros."""
    zeros = {"frozen_sha256": digest(np.zeros(6, np.float32)), "start_sha256": digest(np.zeros(8, np.float32))}
    assert hospital.make_plan is not None
    plan = hospital.make_plan(masked=True, **zeros)
    folder = PlanFolder(hospital.fleet.sites["a"].home.plans, plan.sha256)
    folder.keep(wire.encode(wire.Propose(plan=plan)), bytes(56), run=plan.run, study=plan.study, now_ms=0)
    return plan


def published(hospital: Hospital, plan: Plan, weights_P: Any) -> Parcel | Loss:
    """Offer an adapter with all that belongs to it."""
    tensors = unflatten(np.zeros(6, np.float32), plan.layout.frozen) | unflatten(weights_P, plan.layout.trained)
    files = {
        "adapter_config.json": json.dumps({**to_tree(plan.lora), "peft_type": "LORA"}).encode(),
        wire.WEIGHTS: save(tensors, metadata={"format": "pt"}),
    }
    listed: Any = tuple(
        wire.PublishedFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())  # type: ignore[arg-type]
        for name, data in files.items()
    )
    header = wire.encode(wire.Publish(plan=plan, adapter_sha256=digest(weights_P), files=listed))
    vector = bytes(24) + wire.vector_bytes(weights_P)
    return hospital.say("a", header, kind="publish", vector=vector, note=files["adapter_config.json"])


def replayed_query(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    """The bytes of a round that was answered, a second time."""
    again = hospital.played[0].sent("a", "open")
    return hospital.say("a", again.header, kind="open", vector=again.vector, note=again.note)


def result_of_another_run(hospital: Hospital, plan: Plan) -> Parcel | Loss:
    """A sum that is right, but not this plan's."""
    first, second = hospital.played
    other = first.sent("a", "result")
    message = wire.decode(other.header, wire.Result)
    header = wire.encode(dataclasses.replace(message, plan_sha256=second.plan.sha256))
    return hospital.say("a", header, kind="result", note=other.note)


def without_path_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any name may stand where only five files may."""
    monkeypatch.setattr(wire, "AdapterFile", str)
    monkeypatch.setattr(build_module, "_hints", typing.get_type_hints)  # it remembers the types that it has seen


def removed(owner: Any, name: str, check: str, instead: str = "if False:") -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: without(monkeypatch, owner, name, check, instead)


WIRE = removed(wire, "_decoded", 'if tree["wire"] != version or type(tree["wire"]) is not int:')
CHARTER = removed(key_setup.KeySetup, "begin", "if begin.charter != self._charter.hash:")
LIES: list[tuple[Lie, str, Callable[[pytest.MonkeyPatch], None]]] = [
    (unsigned, "envelope.signature", removed(SiteEnvelope, "open", "if not _fits(", "if False and not _fits(")),
    (to_another_site, "envelope.site", removed(SiteEnvelope, "open", "if question.site != self._site:")),
    (another_charter, "other_charter", CHARTER),
    (next_charter, "other_charter", CHARTER),
    (lowered_cohort, "data.minimum_cohort",
     removed(consent, "check_limits", "if plan.minimum_cohort < rules.minimum_cohort:")),
    (unmasked, "privacy.allow_secure_sum_off",
     removed(consent, "_check_purpose", "if rules.masked_only and not plan.masked:")),
    (other_base, "canary", removed(consent, "_check_canary", "plan.base_sha256 != NO_MODEL or ", "")),
    (round_of_a_dearer_plan, "plan.accepted",
     removed(PlanDesk, "_ask", "PlanFolder(self._plans, message.plan_sha256)", "next(all_plans(self._plans))")),
    (round_past_the_last, "query.round",
     removed(site_module, "check_query", "if not 1 <= query.round <= plan.rounds or query.attempt < 1:")),
    (older_wire, "wire.version", WIRE),
    (newer_wire, "wire.version", WIRE),
    (path_as_a_file, "wire.form", without_path_check),
    (path_as_a_plan, "plan.name", removed(PlanFolder, "__init__", "if not _HASH.fullmatch(plan_sha256):")),
    (unknown_adapter, "adapter.plan", removed(AdapterDesk, "published", "if not self._took_part(plan_sha256):")),
    (forged_adapter, "adapter",
     removed(AdapterDesk, "published",
             "if message.adapter_sha256 not in followed(PlanFolder(self._plans, plan_sha256), plan).values():")),
    (replayed_query, "query.order",
     removed(site_module, "check_query", "if plan.seed is None and opened and", "if False and")),
    (result_of_another_run, "sum.run", removed(sum_result, "read_header", "if read.setup != run.setup:")),
]  # fmt: skip
NAMES = [lie.__name__ for lie, *_ in LIES]


@pytest.mark.parametrize(("lie", "rule", "_without"), LIES, ids=NAMES)
def test_a_lie_is_refused_by_name_and_the_site_goes_on(
    hospital: Hospital, make_plan: Any, lie: Lie, rule: str, _without: Any
) -> None:
    """Its log names the rule; the coordinator gets a short code or nothing; the next honest question is answered."""
    plan = prepared(hospital, lie, make_plan)

    came_back = lie(hospital, plan)

    if isinstance(came_back, Parcel):
        assert wire.kind_of(came_back.header) == "refuse"
    else:
        assert came_back in (Loss.FAILED, "policy", "plan", "model")
    assert hospital.wards["a"].rules() == [rule]
    assert hospital.goes_on("a")


@pytest.mark.parametrize(("lie", "rule", "without_it"), LIES, ids=NAMES)
def test_without_the_check_the_lie_gets_past_it(
    hospital: Hospital, make_plan: Any, lie: Lie, rule: str, without_it: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the rule that was named is what stopped it. Most lies then succeed; some meet a second lock."""
    plan = prepared(hospital, lie, make_plan)
    without_it(monkeypatch)

    lie(hospital, plan)

    assert hospital.wards["a"].rules() != [rule]


def prepared(hospital: Hospital, lie: Lie, make_plan: Callable[..., Plan]) -> Plan:
    """A plan that site a has accepted."""
    hospital.make_plan = make_plan
    hospital.asked += 1
    plan = hospital.canary(f"{lie.__name__} {hospital.asked}")
    assert hospital.propose("a", plan) == "accept"
    hospital.wards["a"].rules()
    return plan


def trimmed(site: str, phase: str, parcel: Parcel) -> Parcel:
    """Tell site a that it is in a sum of itself and one other."""
    if (site, phase) != ("a", "roster"):
        return parcel
    message = wire.decode(parcel.header, wire.Roster)
    return dataclasses.replace(parcel, header=wire.encode(dataclasses.replace(message, sites=("a", "b"))))


def test_a_roster_of_two_gets_nothing_from_the_site(hospital: Hospital) -> None:
    """The names beside the signed roster are compared with it; the round ends without site a, and right."""
    played = hospital.play(hospital.canary("trimmed"), trimmed)

    assert hospital.wards["a"].rules() == ["roster.names"]
    assert played.survivors == ("b", "c", "d", "e")
    assert played.is_exact()
    assert hospital.goes_on("a")


def test_without_the_comparison_the_site_seals_for_that_roster(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    without(
        monkeypatch, MaskedDoor, "_enter", "if names != set(roster.sites) or len(roster.sites) != len(names):", "if 0:"
    )

    played = hospital.play(hospital.canary("trimmed, unseen"), trimmed)

    assert "a" in played.survivors


def bundle(marker: Path) -> bytes:
    """An app of Flower whose import leaves a mark."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as made:
        made.writestr("bundled_by_mallory.py", f"open({str(marker)!r}, 'w').close()")
    return data.getvalue()


def contents(folder: Path) -> Iterator[bytes]:
    """Give every file; one that its daemon takes away meanwhile is left out."""
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            yield file.read_bytes()


def test_code_that_comes_along_is_neither_kept_nor_run(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that is honest otherwise is answered as if the bundle were not there. The control runs it."""
    fab, address = bundle(tmp_path / "ran"), "bundled_by_mallory"
    message_of = server_app.GridExchange._message

    def with_code(exchange: Any, fields: Any, *rest: Any, **more: Any) -> Any:
        message = message_of(exchange, fields, *rest, **more)
        message.content["fab"] = ConfigRecord({"hash_str": hashlib.sha256(fab).hexdigest(), "content": fab})
        return message

    monkeypatch.setattr(server_app.GridExchange, "_message", with_code)

    assert hospital.propose("a", hospital.canary("with code")) == "accept"

    home = hospital.fleet.sites["a"].home.path
    assert fab not in list(contents(home))
    assert (address in sys.modules, (tmp_path / "ran").exists()) == (False, False)
    (tmp_path / "fab.zip").write_bytes(fab)
    monkeypatch.syspath_prepend(str(tmp_path / "fab.zip"))
    importlib.import_module(address)
    monkeypatch.delitem(sys.modules, address)
    assert (tmp_path / "ran").exists()


def test_a_run_that_is_named_like_a_path_stays_in_its_folder(hospital: Hospital) -> None:
    """Names from outside are shown, never used: neither the plan's folder nor a capsule has one."""
    site = hospital.fleet.sites["a"]
    before = set(site.home.path.parent.iterdir())
    plan = hospital.canary("../../../tmp/out of here")

    assert hospital.propose("a", plan) == "accept"
    hospital.say("a", b"{}", kind="propose", run="../../../tmp/out of here")

    assert (site.home.plans / plan.sha256).is_dir()
    capsules = list(site.home.capsules.iterdir())
    assert capsules
    assert all(re.fullmatch(r"[0-9a-f-]+\.json", path.name) for path in capsules)
    assert set(site.home.path.parent.iterdir()) == before
