"""Nothing of a record is in what a training daemon tells: metrics, spans, its log, its socket."""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partsong.client.daemon.control import DaemonControl, Link
from partsong.client.rules.policy import (
    AdapterLimits,
    DataFloor,
    HoldingPolicy,
    Policy,
    PrivacyFloor,
    PurposePolicy,
)
from partsong.common import config
from partsong.common.build import to_tree
from partsong.common.control.client import SiteClient
from partsong.common.control.hosting import hosted
from partsong.common.control.metrics import measuring
from partsong.common.control.server import site_server
from partsong.common.control.spans import sending

pytest.importorskip("prometheus_client")
pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

BASE = Path(__file__).parents[1] / "fixtures" / "tiny-llama"
MARKERS = ("Zwoelfender-7f3a9c", "Quittenmus-b81e44", "Xylander-5dd0")
RECORDS = 47
"""Unlike any other number here."""
COUNT = re.compile(rf'(?:[ "]|":){RECORDS}(?:\.0)?(?![\w.:-])')
"""As a value, and not as a part of a time or of a digest."""


def plant(fleet: Any) -> None:
    """Give every site records that would be recognised."""
    prompt, answer, patient = MARKERS
    for site in fleet.sites.values():
        rows = [
            {"prompt": f"{prompt} {i}", "completion": f" {answer}", "patient": f"{patient}-{i}"} for i in range(RECORDS)
        ]
        Path(site.config.data.path).write_text("".join(json.dumps(row) + "\n" for row in rows))
        site.start()


def test_a_daemon_that_trains_tells_nothing_of_its_records(
    fleet: Any, make_host: Callable[..., Any], make_site_plan: Callable[..., Any], tmp_path: Path
) -> None:
    """One private round; the number of records is in nothing either. The control: all of it tells of the round."""
    host = make_host()
    fleet.policy = Policy(
        holdings={"records": HoldingPolicy(epsilon=20.0, delta=1e-3)},
        purposes={"train": PurposePolicy(approval="auto")},
        privacy=PrivacyFloor(max_epsilon=8.0, max_delta=1e-3),
        data=DataFloor(minimum_cohort=3, minimum_records=20, minimum_patients=5),
        adapter=AdapterLimits(bases=(host.files.sha256,), target_modules=("q_proj", "v_proj"), max_r=2),
    )
    fleet.let_train(fleet, base=BASE)
    plant(fleet)
    privacy = {"mode": "dp", "epsilon": 8.0, "delta": 1e-3, "sampling_rate": 0.2, "noise_multiplier": 1.5}
    plan = make_site_plan(
        host, privacy=privacy, sites=5, rounds=1, data=config.DataConfig(max_length=64, unit_field="patient"),
        training=config.TrainingConfig(steps_per_round=1), secure_sum=config.SecureSumConfig(field_bits=32),
    )  # fmt: skip
    site, exporter = fleet.sites["a"], InMemorySpanExporter()
    control = DaemonControl(
        site.daemon, home=site.home, ledger=site.ledger, feed=site.feed, link=Link(site.feed)
    )  # fmt: skip
    socket = tmp_path / "control" / "daemon.sock"
    with contextlib.ExitStack() as stack:
        written = stack.enter_context(measuring(control))
        stack.enter_context(sending(site.feed, exporter, service="partsong"))
        server = site_server(socket, control)
        log = tmp_path / "log"
        stack.enter_context(hosted(server, control, log_folder=log, level="debug", health_port=None, environment={}))
        fleet.run(plan, host.take(trained=False), host.take()).play()
        with SiteClient(socket) as client:
            asked = [to_tree(client.status()), to_tree(client.plans()), to_tree(client.ledger())]
    spans = " ".join(span.to_json() for span in exporter.get_finished_spans())
    told = {
        "metrics": written().decode(),
        "spans": spans,
        "log": (log / "daemon.jsonl").read_text(),
        "socket": json.dumps(asked, ensure_ascii=False),
    }

    assert 'partsong_events_total{event="step"} 1.0' in told["metrics"]
    assert '"name": "training"' in told["spans"]
    assert '"event":"step"' in told["log"]
    assert plan.sha256 in told["socket"]
    leaked = {where: [marker for marker in MARKERS if marker in text] for where, text in told.items()}
    assert {where: found for where, found in leaked.items() if found} == {}
    paths = {where for where, text in told.items() if str(site.home.path) in text}
    assert paths == set()
    assert {where for where, text in told.items() if COUNT.search(text)} == set()
    assert COUNT.search(f'{{"records":{RECORDS}}}')
