"""Prometheus reads what a daemon is and does, and nothing of its records."""

import http.client
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from quiet_daemons import SITE, QuietCoordinator, QuietSite

from partsong.common.build import build
from partsong.common.control.hosting import watched_from_outside
from partsong.common.control.http_health import LOOPBACK, serving_health
from partsong.common.control.metrics import measuring
from partsong.common.control.surfaces import Check
from partsong.common.deployment import CoordinatorConfig
from partsong.common.errors import ConfigError

parser = pytest.importorskip("prometheus_client.parser")
SECRET = "fracture of the left wrist"


def read(text: bytes) -> dict[str, float]:
    """Values by name and labels, by Prometheus' own reader."""
    return {
        ",".join([sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]): sample.value
        for family in parser.text_string_to_metric_families(text.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def test_a_site_tells_its_state_and_its_budget() -> None:
    """The ledger's holdings, with epsilon rounded up; a ceiling only where there is one."""
    site = QuietSite()
    site.spent = replace(site.spent, holdings=(site.spent.holdings[0], replace(site.spent.holdings[1], epsilon=1.2301)))

    with measuring(site) as written:
        found = read(written())

    assert found["partsong_ready"] == 1
    assert found["partsong_connected"] == 1
    assert found["partsong_plans_pending"] == 1
    assert found["partsong_info,state=running,version=0.1.0"] == 1
    assert found["partsong_start_time_seconds"] == 1.7e9
    assert found["partsong_epsilon_spent,holding=other"] == 1.24
    assert found["partsong_epsilon_ceiling,holding=other"] == 8
    assert "partsong_epsilon_ceiling,holding=records" not in found


def test_a_coordinator_tells_its_sites_and_runs() -> None:
    """Members, connected ones, the round of each run."""
    with measuring(QuietCoordinator()) as written:
        found = read(written())

    assert found["partsong_ready"] == 0
    assert found["partsong_check_ok,check=charter"] == 0
    assert found["partsong_sites_members"] == 2
    assert found["partsong_sites_connected"] == 0
    assert found["partsong_runs,state=failed"] == 1
    assert found["partsong_run_round,run=study-1"] == 2


def test_what_happens_is_counted() -> None:
    """Rounds by outcome and length, bytes by site, refusals by code; the last released loss."""
    coordinator, now_s = QuietCoordinator(), [100.0]
    coordinator.feed._clock = lambda: now_s[0]
    with measuring(coordinator) as written:
        coordinator.feed.tell("round_opened", run="study", round=1, sites=3)
        for site in ("north", "south"):
            coordinator.feed.tell("site_reported", run="study", round=1, site=site, bytes_out=1000)
        coordinator.feed.tell("site_lost", run="study", round=1, site="west", code="silent")
        now_s[0] = 107.5
        coordinator.feed.tell("round_summed", run="study", round=1, sites=2, loss=2.5, epsilon=1.5, update_norm=1.0)
        coordinator.feed.tell("round_opened", run="study", round=2, sites=3)
        coordinator.feed.tell("round_abandoned", run="study", round=2)
        coordinator.feed.tell("site_refused", run="study", site="west", code="budget")

    found = read(written())

    assert found["partsong_rounds_total,outcome=summed"] == 1
    assert found["partsong_rounds_total,outcome=abandoned"] == 1
    assert found["partsong_round_duration_seconds_sum"] == 7.5
    assert found["partsong_update_bytes_total,site=south"] == 1000
    assert found["partsong_sites_lost_total,site=west"] == 1
    assert found["partsong_refusals_total,code=budget"] == 1
    assert found["partsong_run_loss,run=study"] == 2.5
    assert found["partsong_run_epsilon,run=study"] == 1.5
    assert found["partsong_events_total,event=round_opened"] == 2


def test_every_metric_has_a_unit_or_is_a_count() -> None:
    """Times end in _seconds, sizes in _bytes, counters in _total; everything else is on the list of plain numbers."""
    plain = "ready|check_ok|info|charter_version|connected|plans_pending|failure_capsules|queries|queries_outstanding"
    plain += (
        "|epsilon_spent|epsilon_ceiling|sites_connected|sites_members|runs|run_round|run_rounds|run_loss|run_epsilon"
    )
    form = re.compile(rf"partsong_(?:{plain}|[a-z_]+_(?:seconds|total|seconds_(?:bucket|sum|count)))")
    site, coordinator = QuietSite(), QuietCoordinator()

    with measuring(site) as of_site, measuring(coordinator) as of_coordinator:
        names = {name.split(",")[0] for name in [*read(of_site()), *read(of_coordinator())]}

    assert len(names) > 15
    assert {name for name in names if not form.fullmatch(name)} == set()


def test_no_reason_and_no_failure_is_told() -> None:
    """Texts of conditions stay out, and so does what a failing daemon says."""
    site = QuietSite(now=replace(SITE, checks=(Check(name="data", ok=False, reason=SECRET),)))
    sick = QuietSite()
    sick.status = lambda: (_ for _ in ()).throw(ValueError(SECRET))  # type: ignore[method-assign]

    with measuring(site) as written, measuring(sick) as of_sick:
        texts = written(), of_sick()

    assert read(texts[0])["partsong_check_ok,check=data"] == 0
    assert read(texts[1])["partsong_ready"] == 0
    assert not any(SECRET.encode() in text for text in texts)


def _answer(port: int, path: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    try:
        connection.request("GET", path)
        found = connection.getresponse()
        return found.status, found.headers["content-type"], found.read()
    finally:
        connection.close()


def test_metrics_are_answered_where_they_are_asked_for() -> None:
    """In Prometheus' form; without the setting there is no such path."""
    site = QuietSite()

    with measuring(site) as written, serving_health(0, site.status, metrics=written) as port:
        status, kind, text = _answer(port, "/metrics")
    with serving_health(0, site.status) as port:
        without = _answer(port, "/metrics")[0]

    assert (status, kind, without) == (200, "text/plain; version=0.0.4; charset=utf-8", 404)
    assert read(text)["partsong_connected"] == 1


def test_a_daemon_stops_watching_its_own_feed_when_it_ends() -> None:
    """So nothing is counted for nobody, and the next start finds room."""
    site = QuietSite()

    with watched_from_outside(site, health_port=0, metrics=True, trace_endpoint=None):
        watched = site.feed.watched

    assert (watched, site.feed.watched) == (True, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"metrics": True},
        {"trace_endpoint": "http://collector.example:4318/v1/traces"},
        {"trace_endpoint": "https://127.0.0.1:4318/v1/traces"},
        {"trace_endpoint": "http://127.0.0.1.example:4318/"},
        {"trace_endpoint": "http://127.0.0.1:4318@collector.example/"},
    ],
)
def test_settings_that_would_tell_others_are_refused(wrong: dict[str, object]) -> None:
    """Metrics without a port of loopback, spans to another machine."""
    build(CoordinatorConfig, {"consortium": "wards", "trace_endpoint": "http://127.0.0.1:4318/v1/traces"})

    with pytest.raises(ConfigError):
        build(CoordinatorConfig, {"consortium": "wards", **wrong})


def test_the_example_board_shows_metrics_that_exist() -> None:
    """Every name in a query of the board is told by a daemon, and the board names no data source of anybody's."""
    board = json.loads((Path(__file__).parents[3] / "conf" / "deploy" / "grafana.json").read_text())
    coordinator = QuietCoordinator()
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    with measuring(QuietSite()) as of_site, measuring(coordinator) as of_coordinator:
        texts = of_site() + of_coordinator()
    told = {line.split()[2] for line in texts.decode().splitlines() if line.startswith("# TYPE")}
    told |= {f"{name}_bucket" for name in told}

    asked = {name for query in queries for name in re.findall(r"partsong_[a-z_]+", query)}

    assert len(asked) > 10
    assert asked - told == set()
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {"${datasource}"}
