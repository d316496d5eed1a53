from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DaemonState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DAEMON_STATE_UNSPECIFIED: _ClassVar[DaemonState]
    DAEMON_STATE_STARTING: _ClassVar[DaemonState]
    DAEMON_STATE_RUNNING: _ClassVar[DaemonState]
    DAEMON_STATE_PAUSED: _ClassVar[DaemonState]
    DAEMON_STATE_STOPPING: _ClassVar[DaemonState]

class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_UNSPECIFIED: _ClassVar[Decision]
    DECISION_PENDING: _ClassVar[Decision]
    DECISION_APPROVED: _ClassVar[Decision]
    DECISION_REFUSED: _ClassVar[Decision]

class Decider(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECIDER_UNSPECIFIED: _ClassVar[Decider]
    DECIDER_POLICY: _ClassVar[Decider]
    DECIDER_PERSON: _ClassVar[Decider]

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_WAITING: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_STOPPED: _ClassVar[RunState]
    RUN_STATE_FINISHED: _ClassVar[RunState]
    RUN_STATE_FAILED: _ClassVar[RunState]
DAEMON_STATE_UNSPECIFIED: DaemonState
DAEMON_STATE_STARTING: DaemonState
DAEMON_STATE_RUNNING: DaemonState
DAEMON_STATE_PAUSED: DaemonState
DAEMON_STATE_STOPPING: DaemonState
DECISION_UNSPECIFIED: Decision
DECISION_PENDING: Decision
DECISION_APPROVED: Decision
DECISION_REFUSED: Decision
DECIDER_UNSPECIFIED: Decider
DECIDER_POLICY: Decider
DECIDER_PERSON: Decider
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_WAITING: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_STOPPED: RunState
RUN_STATE_FINISHED: RunState
RUN_STATE_FAILED: RunState

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PlansRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LedgerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ApproveRequest(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: str
    def __init__(self, plan: _Optional[str] = ...) -> None: ...

class RefuseRequest(_message.Message):
    __slots__ = ("plan", "reason")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    plan: str
    reason: str
    def __init__(self, plan: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RunRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class StopRunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class ResumeRunRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("name", "ok", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    ok: bool
    reason: str
    def __init__(self, name: _Optional[str] = ..., ok: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class Charter(_message.Message):
    __slots__ = ("version", "sha256")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    version: int
    sha256: str
    def __init__(self, version: _Optional[int] = ..., sha256: _Optional[str] = ...) -> None: ...

class Standing(_message.Message):
    __slots__ = ("round", "rounds", "phase")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    round: int
    rounds: int
    phase: str
    def __init__(self, round: _Optional[int] = ..., rounds: _Optional[int] = ..., phase: _Optional[str] = ...) -> None: ...

class SiteStatus(_message.Message):
    __slots__ = ("site", "consortium", "coordinator", "version", "state", "connected", "since_ms", "charter", "checks", "plans_pending", "capsules")
    SITE_FIELD_NUMBER: _ClassVar[int]
    CONSORTIUM_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    CHARTER_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    PLANS_PENDING_FIELD_NUMBER: _ClassVar[int]
    CAPSULES_FIELD_NUMBER: _ClassVar[int]
    site: str
    consortium: str
    coordinator: str
    version: str
    state: DaemonState
    connected: bool
    since_ms: int
    charter: Charter
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    plans_pending: int
    capsules: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, site: _Optional[str] = ..., consortium: _Optional[str] = ..., coordinator: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[DaemonState, str]] = ..., connected: _Optional[bool] = ..., since_ms: _Optional[int] = ..., charter: _Optional[_Union[Charter, _Mapping]] = ..., checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ..., plans_pending: _Optional[int] = ..., capsules: _Optional[_Iterable[str]] = ...) -> None: ...

class PlanStatus(_message.Message):
    __slots__ = ("plan", "run", "purpose", "decision", "by", "rule", "standing")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    plan: str
    run: str
    purpose: str
    decision: Decision
    by: Decider
    rule: str
    standing: Standing
    def __init__(self, plan: _Optional[str] = ..., run: _Optional[str] = ..., purpose: _Optional[str] = ..., decision: _Optional[_Union[Decision, str]] = ..., by: _Optional[_Union[Decider, str]] = ..., rule: _Optional[str] = ..., standing: _Optional[_Union[Standing, _Mapping]] = ...) -> None: ...

class PlanList(_message.Message):
    __slots__ = ("plans",)
    PLANS_FIELD_NUMBER: _ClassVar[int]
    plans: _containers.RepeatedCompositeFieldContainer[PlanStatus]
    def __init__(self, plans: _Optional[_Iterable[_Union[PlanStatus, _Mapping]]] = ...) -> None: ...

class HoldingStatus(_message.Message):
    __slots__ = ("name", "epsilon", "delta", "ceiling", "queries")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    CEILING_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    name: str
    epsilon: float
    delta: float
    ceiling: float
    queries: int
    def __init__(self, name: _Optional[str] = ..., epsilon: _Optional[float] = ..., delta: _Optional[float] = ..., ceiling: _Optional[float] = ..., queries: _Optional[int] = ...) -> None: ...

class LedgerStatus(_message.Message):
    __slots__ = ("holdings", "outstanding", "head")
    HOLDINGS_FIELD_NUMBER: _ClassVar[int]
    OUTSTANDING_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    holdings: _containers.RepeatedCompositeFieldContainer[HoldingStatus]
    outstanding: int
    head: str
    def __init__(self, holdings: _Optional[_Iterable[_Union[HoldingStatus, _Mapping]]] = ..., outstanding: _Optional[int] = ..., head: _Optional[str] = ...) -> None: ...

class CoordinatorStatus(_message.Message):
    __slots__ = ("consortium", "version", "state", "port", "since_ms", "charter", "checks", "connected", "members")
    CONSORTIUM_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    CHARTER_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    consortium: str
    version: str
    state: DaemonState
    port: int
    since_ms: int
    charter: Charter
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    connected: _containers.RepeatedScalarFieldContainer[str]
    members: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, consortium: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[DaemonState, str]] = ..., port: _Optional[int] = ..., since_ms: _Optional[int] = ..., charter: _Optional[_Union[Charter, _Mapping]] = ..., checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ..., connected: _Optional[_Iterable[str]] = ..., members: _Optional[_Iterable[str]] = ...) -> None: ...

class SiteInRun(_message.Message):
    __slots__ = ("site", "state", "rounds", "code")
    SITE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    site: str
    state: str
    rounds: int
    code: str
    def __init__(self, site: _Optional[str] = ..., state: _Optional[str] = ..., rounds: _Optional[int] = ..., code: _Optional[str] = ...) -> None: ...

class RunStatus(_message.Message):
    __slots__ = ("run", "study", "state", "standing", "sites", "reason")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STANDING_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    run: str
    study: str
    state: RunState
    standing: Standing
    sites: _containers.RepeatedCompositeFieldContainer[SiteInRun]
    reason: str
    def __init__(self, run: _Optional[str] = ..., study: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., standing: _Optional[_Union[Standing, _Mapping]] = ..., sites: _Optional[_Iterable[_Union[SiteInRun, _Mapping]]] = ..., reason: _Optional[str] = ...) -> None: ...

class RunList(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunStatus]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunStatus, _Mapping]]] = ...) -> None: ...

class Fact(_message.Message):
    __slots__ = ("name", "text", "integer", "number", "flag")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FLAG_FIELD_NUMBER: _ClassVar[int]
    name: str
    text: str
    integer: int
    number: float
    flag: bool
    def __init__(self, name: _Optional[str] = ..., text: _Optional[str] = ..., integer: _Optional[int] = ..., number: _Optional[float] = ..., flag: _Optional[bool] = ...) -> None: ...

class ProgressEvent(_message.Message):
    __slots__ = ("event", "time_ms", "facts")
    EVENT_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    event: str
    time_ms: int
    facts: _containers.RepeatedCompositeFieldContainer[Fact]
    def __init__(self, event: _Optional[str] = ..., time_ms: _Optional[int] = ..., facts: _Optional[_Iterable[_Union[Fact, _Mapping]]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("kind", "place", "found", "expected", "remedy", "rule", "reason", "text")
    KIND_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    place: str
    found: str
    expected: str
    remedy: str
    rule: str
    reason: str
    text: str
    def __init__(self, kind: _Optional[str] = ..., place: _Optional[str] = ..., found: _Optional[str] = ..., expected: _Optional[str] = ..., remedy: _Optional[str] = ..., rule: _Optional[str] = ..., reason: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...
