"""What a check of a run's files has found: each file right, wrong or not checked, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from partsong.common.errors import PartsongError

T = TypeVar("T")
Verdict = Literal["right", "wrong", "not checked"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the table."""

    verdict: Verdict
    place: str
    """File or folder, from the run directory."""
    round: int | None
    """Training round that it is about; None where it is about no single one."""
    detail: str
    """What was compared, what differs, or why nothing was compared."""


@dataclass(slots=True)
class Findings:
    """A list that grows."""

    lines: list[Finding] = field(default_factory=list)

    def right(self, place: str, detail: str, *, number: int | None = None) -> None:
        """Note what holds."""
        self._add("right", place, detail, number)

    def wrong(self, place: str, detail: str, *, number: int | None = None) -> None:
        """Note what differs."""
        self._add("wrong", place, detail, number)

    def not_checked(self, place: str, detail: str, *, number: int | None = None) -> None:
        """Note what nothing can be said about."""
        self._add("not checked", place, detail, number)

    def attempt(self, place: str, step: Callable[[], T], *, number: int | None = None) -> T | None:
        """Do a step of the check; an error of it is what differs, and gives None."""
        try:
            return step()
        except PartsongError as err:
            self.wrong(place, str(err), number=number)
        except (OSError, RecursionError) as err:
            self.wrong(place, f"cannot be read ({type(err).__name__})", number=number)
        return None

    def require(self, place: str, step: Callable[[], object], detail: str, *, number: int | None = None) -> bool:
        """Do a step of the check and note its outcome; say whether it holds."""

        def done() -> bool:
            step()
            return True

        if self.attempt(place, done, number=number) is None:
            return False
        self.right(place, detail, number=number)
        return True

    def _add(self, verdict: Verdict, place: str, detail: str, number: int | None) -> None:
        self.lines.append(Finding(verdict=verdict, place=place, round=number, detail=detail))


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """The outcome for one directory."""

    masked: bool | None
    """None: the plan cannot be read. False: nothing in this run is signed."""
    charter_sha256: str | None
    plan_sha256: str | None
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """Everything that differs."""
        return tuple(finding for finding in self.findings if finding.verdict == "wrong")
