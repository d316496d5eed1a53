"""Settings of a real deployment: of a site, of a coordinator, and of a job that a coordinator asks for.

As in `partsong.common.config`, a default lives here and nowhere else. `site.yaml` and `coordinator.yaml` lie in the
directories of their owners; a job is composed by Hydra.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from partsong.common.config import (
    AdapterConfig,
    CohortConfig,
    DataConfig,
    ModelConfig,
    PrivacyConfig,
    SecureSumConfig,
    ServerOptimizerConfig,
    TrainingConfig,
)
from partsong.common.questions.settings import EvaluationConfig, Purpose, SurveyConfig, VoteConfig

_WINDOW = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
_HOST_PORT = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:]{2,45}\]):([0-9]{1,5})")
_LOCAL_TRACES = re.compile(r"http://(?:127\.0\.0\.1|\[::1\]|localhost):[0-9]{1,5}/[A-Za-z0-9/._-]*")
PUBLIC_PORT = 7443
MOST_CANARY_NUMBERS = 1 << 25
"""Largest vector of a canary: 90 MB sealed, more than an adapter of rank 64 on a model of 8 billion parameters."""


def check_address(name: str, value: str) -> None:
    """Refuse what is not `host:port`."""
    found = _HOST_PORT.fullmatch(value)
    if found is None or not 0 < int(found[1]) < 1 << 16:
        raise ValueError(f"{name} as host:port, not {value!r}")


def _check_watching(*, health_port: int | None, metrics: bool, trace_endpoint: str | None) -> None:
    if metrics and health_port is None:
        raise ValueError("metrics only with a health_port to answer them on")
    if trace_endpoint is not None and not _LOCAL_TRACES.fullmatch(trace_endpoint):
        raise ValueError("trace_endpoint as http://127.0.0.1:PORT/PATH: a collector on this machine")


def _check_dashboard(port: int | None) -> None:
    if port is not None and not 0 <= port < 1 << 16:
        raise ValueError(f"dashboard_port between 0 and 65535, not {port}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteConfig:
    """One site's daemon: `site.yaml`."""

    name: str
    """Id of the site in the charter."""
    coordinator: str
    """host:port of the coordinator's public port."""
    model: ModelConfig
    data: DataConfig
    holding: str = "records"
    """Name of these records in policy and ledger. It stays the same when records are added or removed."""
    training_windows: tuple[str, ...] = ()
    """Times of day (local) when the GPU is free, such as `22:00-06:00`; outside of them a query waits. Empty: always.
    A coordinator's deadline may pass meanwhile; the site then misses that round."""
    proxy: str | None = None
    """`http://host:port` of a proxy that lets CONNECT through; None: HTTPS_PROXY of the environment, if it is set."""
    ca_bundle: str | None = None
    """PEM file of authorities to trust for the coordinator's certificate instead of the one that enrolment brought,
    for networks that intercept TLS."""
    release_capsules: bool = False
    """Whether the scrubbed cause of a failure may be told to the coordinator; see docs/operations.md."""
    health_port: int | None = None
    """Loopback port of /healthz and /readyz; None: no port is opened."""
    metrics: bool = False
    """Answer /metrics on `health_port`, for Prometheus; see docs/integrations.md. Needs the extra `metrics`."""
    trace_endpoint: str | None = None
    """Where OpenTelemetry spans go, a collector on this machine: `http://127.0.0.1:4318/v1/traces`. None: there are
    none. Needs the extra `tracing`."""
    dashboard_port: int | None = None
    """Loopback port of the dashboard (docs/dashboard.md); 0: any that is free; None: there is no dashboard."""

    def __post_init__(self) -> None:
        check_address("coordinator", self.coordinator)
        _check_watching(health_port=self.health_port, metrics=self.metrics, trace_endpoint=self.trace_endpoint)
        if bad := [w for w in self.training_windows if not _WINDOW.fullmatch(w)]:
            raise ValueError(f"training_windows as HH:MM-HH:MM, not {bad[0]!r}")
        _check_dashboard(self.dashboard_port)


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinatorConfig:
    """The coordinator's daemon: `coordinator.yaml`."""

    consortium: str
    """Name of the consortium in the charter."""
    host: str = "0.0.0.0"  # noqa: S104 - the one port that sites reach; every other listens on loopback
    """Address that the public port listens on."""
    port: int = PUBLIC_PORT
    """The public port: mutual TLS, and nothing but the sites' messages."""
    names: tuple[str, ...] = ("localhost",)
    """Host names and IP addresses that sites use; they stand in the certificate."""
    max_message_mb: int = 512
    """Largest message that is taken from a site."""
    max_waiting_mb: int = 2048
    """Memory that the answers of all sites may take together while they arrive. A site that finds no room is told to
    come again in a few seconds; have room for the updates of a round, or its sites bring them one after the other."""
    health_port: int | None = None
    """Loopback port of /healthz and /readyz; None: no port is opened."""
    metrics: bool = False
    """Answer /metrics on `health_port`, for Prometheus; see docs/integrations.md. Needs the extra `metrics`."""
    trace_endpoint: str | None = None
    """Where OpenTelemetry spans go, a collector on this machine: `http://127.0.0.1:4318/v1/traces`. None: there are
    none. Needs the extra `tracing`."""
    dashboard_port: int | None = None
    """Loopback port of the dashboard (docs/dashboard.md); 0: any that is free; None: there is no dashboard."""

    def __post_init__(self) -> None:
        _check_watching(health_port=self.health_port, metrics=self.metrics, trace_endpoint=self.trace_endpoint)
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port between 0 and 65535, not {self.port}")
        if not self.names:
            raise ValueError("names with at least one host name or address")
        if self.max_message_mb <= 0:
            raise ValueError(f"max_message_mb above 0, not {self.max_message_mb}")
        if self.max_waiting_mb < self.max_message_mb:
            raise ValueError(f"max_waiting_mb of at least max_message_mb, not {self.max_waiting_mb}")
        _check_dashboard(self.dashboard_port)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    """What a coordinator asks its sites for. Holds no path to records: those are the sites' business."""

    model: ModelConfig
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: ServerOptimizerConfig = field(default_factory=ServerOptimizerConfig)
    cohort: CohortConfig = field(default_factory=CohortConfig)
    secure_sum: SecureSumConfig = field(default_factory=SecureSumConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    survey: SurveyConfig = field(default_factory=SurveyConfig)
    vote: VoteConfig = field(default_factory=VoteConfig)
    purpose: Purpose = "train"
    """train an adapter, evaluate one on the sites' test records, or survey their records beforehand."""
    study: str = "study"
    """Name of the study; the run's name is this with the time appended."""
    labels: tuple[str, ...] = ()
    """Classification: the closed, public list of classes."""
    max_length: int = 512
    """Longest sequence in tokens."""
    rounds: int = 5
    """Queries to ask; under differential privacy the budget is spread over all of them."""
    start_timeout_s: float = 604800.0
    """How long the run waits for its sites to connect and to accept the plan, which a person at a site may have to
    approve; then it fails, naming those that are missing."""
    expected_sites: tuple[str, ...] = ()
    """Sites that must take part: the run does not start without them, and a round without one of them is reported as
    failed. Empty: whoever accepts, from `cohort.minimum` up."""

    def __post_init__(self) -> None:
        if self.rounds <= 0:
            raise ValueError(f"rounds above 0, not {self.rounds}")
        if self.start_timeout_s <= 0:
            raise ValueError(f"start_timeout_s above 0, not {self.start_timeout_s}")
        if len(set(self.expected_sites)) != len(self.expected_sites):
            raise ValueError("expected_sites without repeats")
        if not 2 <= self.max_length <= 1_000_000:
            raise ValueError(f"max_length between 2 and 1000000, not {self.max_length}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryConfig:
    """A canary, `partsong coordinator run --canary`: one masked round of numbers that anyone can compute."""

    numbers: int = 1000
    """Length of the vector. As many as a training run's adapter has show how long its updates take on the way."""
    start_timeout_s: float = 300.0
    """How long the canary waits for its sites to connect and to accept it; then it fails, naming those that are
    missing."""
    report_timeout_s: float = 60.0
    """How long each phase waits for its sites."""
    expected_sites: tuple[str, ...] = ()
    """Sites that must be in the sum. Empty: as many as the charter asks for."""

    def __post_init__(self) -> None:
        if not 1 <= self.numbers <= MOST_CANARY_NUMBERS:
            raise ValueError(f"numbers between 1 and {MOST_CANARY_NUMBERS}, not {self.numbers}")
        if self.start_timeout_s <= 0:
            raise ValueError(f"start_timeout_s above 0, not {self.start_timeout_s}")
        if self.report_timeout_s <= 0:
            raise ValueError(f"report_timeout_s above 0, not {self.report_timeout_s}")
        if len(set(self.expected_sites)) != len(self.expected_sites):
            raise ValueError("expected_sites without repeats")
