"""What goes wrong in a simulated run, as a file says it, and as it was drawn from that.

A file holds rules: some name one site, round and phase, others a rate. `draw` turns them into faults that each happen
once, at one moment; that script is what a run writes down, and what replays it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import yaml

from partsong.common.build import to_tree
from partsong.common.errors import ConfigError
from partsong.common.files import write_bytes
from partsong.common.strict_yaml import read_yaml

Kind = Literal[
    "drop", "lose", "cut", "delay", "duplicate", "reorder", "kill", "kill_coordinator", "corrupt", "lie", "skew"
]
"""drop: a question does not arrive. lose: its answer does not. cut: nothing passes from `phases[0]` of the first round
to the end of the last. delay: the question arrives later, or, after the phase's time limit, in a later phase.
duplicate: it arrives twice. reorder: it arrives after the site's next one. kill, kill_coordinator: a process dies and
starts again on its disk. corrupt: the site's answer is changed. lie: the coordinator's question is. skew: the site's
clock is wrong."""
Phase = Literal["propose", "begin", "pair", "reveal", "finish", "open", "roster", "confirm", "unmask", "result"]
"""Kind of a question; the second to the fifth are the steps of key set-up."""
Corruption = Literal["flip", "garbage", "foreign", "refuse"]
"""flip: one bit. garbage: random bytes of the same length. foreign: another site's answer. refuse: no."""
Lie = Literal["other_adapter", "other_vector", "other_result", "replay", "begin_again", "short_roster"]
"""other_adapter: OPEN with an adapter that no sum gave, signed. other_vector: with one that its header does not name.
other_result: with a bit of the last result changed. replay: the OPEN before instead of this one. begin_again: a second
set-up instead of OPEN. short_roster: a ROSTER that leaves one name out."""

BEFORE_ROUNDS: tuple[Phase, ...] = ("propose", "begin", "pair", "reveal", "finish")
IN_ROUND: tuple[Phase, ...] = ("open", "roster", "confirm", "unmask")
_SHORT: dict[str, Phase] = {"train": "open", "report": "roster", "confirm": "confirm", "unmask": "unmask"}
_LIE_AT: dict[str, Phase] = {"short_roster": "roster"}
FILE = "faults.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A rule, or, drawn, one thing that happens once."""

    kind: Kind
    sites: tuple[str, ...] = ()
    """Empty: every site."""
    rounds: tuple[int, ...] = ()
    """Empty: every round. The phases before the first round count as round 0, whatever stands here."""
    phases: tuple[Phase, ...] = ()
    """Empty: every phase of a round in which the fault has a meaning."""
    rate: float = 1.0
    """Probability, for each site, round and phase by itself."""
    seconds: float = 0.0
    """delay: its length, the median where `spread` is given. skew: how far the site's clock goes ahead."""
    spread: float = 0.0
    """delay: standard deviation of its logarithm; 0: always the same."""
    trace: tuple[float, ...] = ()
    """delay: drawn from these instead [s]."""
    moment: Literal["before", "after"] = "before"
    """kill: before a site handles the question or before its answer leaves; of the coordinator, before the questions
    leave or after the answers have come."""
    how: Corruption = "flip"
    """corrupt: how."""
    lie: Lie = "other_adapter"
    """lie: which."""

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate between 0 and 1, not {self.rate}")
        if self.spread < 0 or any(s < 0 for s in self.trace) or (self.kind == "delay" and self.seconds < 0):
            raise ValueError("delays and their spread of 0 or more")
        if self.kind == "cut" and not self.rounds:
            raise ValueError("rounds with a cut: the first and the last in which nothing passes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """Faults, and what their chances are drawn from."""

    faults: tuple[Fault, ...] = ()
    seed: int = 0
    """Public: the same seed, sites and rounds give the same faults."""


def read_script(path: Path) -> Script:
    """Read a file of rules, or of faults that were drawn.

    Raises:
        ConfigError: no such file, or a rule that cannot be.
    """
    return read_yaml(Script, path, what="script of faults")


def write_script(script: Script, folder: Path) -> None:
    """Write what was drawn; fields that say nothing are left out."""
    tree = {"seed": script.seed, "faults": [_short(fault) for fault in script.faults]}
    write_bytes(folder / FILE, yaml.safe_dump(tree, sort_keys=False, default_flow_style=None).encode())


def parse_drop(text: str, *, sites: tuple[str, ...], rounds: int) -> Fault:
    """Read `SITE@ROUND` or `SITE@ROUND:WHEN`, with WHEN one of train, report, confirm and unmask.

    Raises:
        ConfigError: not of that form, or a site, round or phase that does not exist.
    """
    site, _, rest = text.rpartition("@")
    number, _, when = rest.partition(":")
    if site not in sites:
        raise ConfigError("drop", found=f"site {site!r}", expected=f"one of {', '.join(sites)}")
    if not number.isdecimal() or not 1 <= int(number) <= rounds:
        raise ConfigError("drop", found=text, expected=f"SITE@ROUND with a round from 1 to {rounds}")
    if (when or "report") not in _SHORT:
        raise ConfigError("drop", found=text, expected=f"SITE@ROUND:WHEN with WHEN one of {', '.join(_SHORT)}")
    return Fault(kind="drop", sites=(site,), rounds=(int(number),), phases=(_SHORT[when or "report"],))


def draw(script: Script, *, sites: tuple[str, ...], rounds: int) -> Script:
    """Turn rules into faults at one site, round and phase each.

    Guarantees: drawing what was drawn changes nothing.
    Raises:
        ConfigError: a site or a round that does not exist.
    """
    rng = np.random.default_rng(script.seed)
    drawn: list[Fault] = []
    for fault in script.faults:
        _require_known(fault, sites=sites, rounds=rounds)
        drawn += _drawn(fault, sites=sites, rounds=rounds, rng=rng)
    return Script(faults=tuple(drawn), seed=script.seed)


def _drawn(fault: Fault, *, sites: tuple[str, ...], rounds: int, rng: np.random.Generator) -> Iterator[Fault]:
    if fault.kind == "skew":
        for site in fault.sites or sites:
            if rng.random() < fault.rate:
                yield dataclasses.replace(fault, sites=(site,), rate=1.0)
        return
    nobody: tuple[str, ...] = ()
    who = [nobody] if fault.kind == "kill_coordinator" else [(site,) for site in fault.sites or sites]
    for number, phase in _moments(fault, rounds=rounds):
        for at in who:
            if rng.random() < fault.rate:
                kind: Kind = "drop" if fault.kind == "cut" else fault.kind
                yield dataclasses.replace(
                    fault,
                    kind=kind,
                    sites=at,
                    rounds=(number,),
                    phases=(phase,),
                    rate=1.0,
                    seconds=_seconds(fault, rng),
                    spread=0.0,
                    trace=(),
                )


def _moments(fault: Fault, *, rounds: int) -> Iterator[tuple[int, Phase]]:
    """Round and phase of every chance that a rule has."""
    if fault.kind == "cut":
        first, last = min(fault.rounds), max(fault.rounds)
        begin = IN_ROUND.index(fault.phases[0]) if fault.phases and fault.phases[0] in IN_ROUND else 0
        for number in range(first, last + 1):
            yield from ((number, phase) for phase in (*IN_ROUND[begin if number == first else 0 :], "result"))
        return
    meant = (_LIE_AT.get(fault.lie, "open"),) if fault.kind == "lie" else IN_ROUND
    phases = fault.phases or meant
    yield from ((0, phase) for phase in phases if phase in BEFORE_ROUNDS)
    for number in fault.rounds or range(1, rounds + 1):
        yield from ((number, phase) for phase in phases if phase not in BEFORE_ROUNDS)


def _seconds(fault: Fault, rng: np.random.Generator) -> float:
    if fault.trace:
        return float(rng.choice(fault.trace))
    return float(fault.seconds * np.exp(fault.spread * rng.standard_normal())) if fault.spread else fault.seconds


def _require_known(fault: Fault, *, sites: tuple[str, ...], rounds: int) -> None:
    if strangers := sorted(set(fault.sites) - set(sites)):
        raise ConfigError("faults", found=f"site {strangers[0]!r}", expected=f"one of {', '.join(sites)}")
    if odd := [n for n in fault.rounds if not 0 <= n <= rounds]:
        raise ConfigError("faults", found=f"round {odd[0]}", expected=f"a round from 1 to {rounds}")


def _short(fault: Fault) -> dict[str, object]:
    usual = {f.name: f.default for f in dataclasses.fields(fault)}
    return {key: to_tree(value) for key in usual if (value := getattr(fault, key)) != usual[key]}


def phase_named(name: str) -> Phase | None:
    """Find a phase by its name; None for a kind of message that no fault can hit."""
    return next((phase for phase in get_args(Phase) if phase == name), None)
