"""Write one message of each kind, and one signed question with its answer, as wire version 1 has them.

    python -P tests/vectors/make_wire.py 1

The file of a version is written once. A later version keeps reading it, or refuses it by name.
"""

import json
import sys
from pathlib import Path
from typing import Any

from partsong.common import wire
from partsong.common.build import canonical_json
from partsong.common.config import ServerOptimizerConfig, TrainingConfig
from partsong.common.identity.envelope import CoordinatorEnvelope, Letter, SiteEnvelope
from partsong.common.identity.keys import Identity
from partsong.server.daemon.canary import make_canary

PLAN_SHA256, ADAPTER_SHA256 = "ab" * 32, "cd" * 32
COORDINATOR, SITE = Identity(b"\x01" * 32), Identity(b"\x02" * 32)


def messages() -> list[Any]:
    """One of each kind."""
    plan = make_canary(run="run 1 \u00f8", size=4, rounds=2, max_sites=5, minimum_cohort=3, seed=7)
    assert (plan.training, plan.optimizer) == (TrainingConfig(steps_per_round=1), ServerOptimizerConfig())
    files = (wire.PublishedFile(name=wire.WEIGHTS, size=16, sha256="ef" * 32),)
    place: dict[str, Any] = {"plan_sha256": PLAN_SHA256, "round": 1, "attempt": 2}
    here: dict[str, Any] = {"site": "nord-\u00f8", "round": 1, "attempt": 2}
    return [
        wire.Propose(plan=plan),
        wire.Accept(site="north", plan_sha256=PLAN_SHA256),
        wire.Refuse(site="north", code="policy"),
        wire.Keys(plan_sha256=PLAN_SHA256, step="begin"),
        wire.Keyed(site="north", step="reveal"),
        wire.Open(**place, adapter_sha256=ADAPTER_SHA256, summed=0),
        wire.Ready(**here, block=-1),
        wire.Roster(**place, sites=("east", "north", "west")),
        wire.Report(**here),
        wire.Confirm(**place),
        wire.Unmask(**place),
        wire.Step(**here),
        wire.Result(plan_sha256=PLAN_SHA256, summed=1, adapter_sha256=ADAPTER_SHA256),
        wire.Checked(site="north"),
        wire.Offer(adapters=(wire.Offered(run="run 1", plan_sha256=PLAN_SHA256, adapter_sha256=ADAPTER_SHA256),)),
        wire.Want(site="north", plans=(PLAN_SHA256,)),
        wire.Publish(plan=plan, adapter_sha256=ADAPTER_SHA256, files=files),
        wire.Stored(site="north", plan_sha256=PLAN_SHA256),
    ]


def letters() -> dict[str, dict[str, object]]:
    """A question to a site and the answer to it."""
    office = CoordinatorEnvelope(run="run 1", signer=COORDINATOR, identity_keys={"north": SITE.public_key})
    question, asked = office.seal(kind="open", site="north", header=b"question", vector=bytes(8), note=b"note")
    ward = SiteEnvelope(site="north", signer=SITE, coordinator=COORDINATOR.public_key)
    answer = ward.seal(run="run 1", kind="open", question=asked, header=b"answer", vector=b"", note=b"note back")
    return {"question": as_tree(question), "answer": as_tree(answer)}


def as_tree(letter: Letter) -> dict[str, object]:
    """Bytes as hex."""
    fields: dict[str, object] = {**letter.fields(), "kind": letter.kind, "vector": letter.vector, "note": letter.note}
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()}


if __name__ == "__main__":
    version = int(sys.argv[1])
    assert version == wire.WIRE_VERSION
    tree = {
        "wire": version,
        "keys": {"coordinator": COORDINATOR.public_key.hex(), "site": SITE.public_key.hex()},
        "messages": {message.kind: wire.encode(message).decode() for message in messages()},
        "letters": letters(),
    }
    file = Path(__file__).with_name(f"wire_v{version}.json")
    file.write_bytes(canonical_json(json.loads(json.dumps(tree))) + b"\n")
