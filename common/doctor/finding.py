"""What a check saw, and a runner that asks one check after the other and never stops at the first failure.

Covers: a finding holds no key, no passphrase, no proxy password and no text of a record. An exception that is not this
package's own is reported by its type alone, because its text may quote what was being read.
Does not cover: counts. The finding about a site's data says how many records there are, for the site's own eyes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from partsong.common.errors import InputError, PartsongError, Refused

State = Literal["ok", "warn", "fail", "skipped"]

USUAL_LIMIT_S = 20.0
"""Longest time of a check that does not say otherwise: twice the time limit of one connection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What one check saw. `ok`, `warn`, `fail` and `skipped` make it."""

    state: State
    found: str
    cause: str | None = None
    """Why that is so, or what it leads to."""
    remedy: str | None = None

    def __post_init__(self) -> None:
        if self.state in ("warn", "fail") and not (self.cause and self.remedy):
            raise ValueError("a cause and a remedy with whatever is not in order")


def ok(found: str) -> Seen:
    """Everything is as it should be."""
    return Seen(state="ok", found=found)


def warn(found: str, *, cause: str, remedy: str) -> Seen:
    """A run would work, for now or more slowly."""
    return Seen(state="warn", found=found, cause=cause, remedy=remedy)


def fail(found: str, *, cause: str, remedy: str) -> Seen:
    """A run would fail."""
    return Seen(state="fail", found=found, cause=cause, remedy=remedy)


def skipped(why: str) -> Seen:
    """Nothing was looked at."""
    return Seen(state="skipped", found=why)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing to look at."""

    name: str
    look: Callable[[], Seen]
    needs: tuple[str, ...] = ()
    """Checks that must not have failed or been skipped: after a closed port there is no certificate to judge."""
    limit_s: float = USUAL_LIMIT_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What the check called `name` saw."""

    name: str
    seen: Seen
    took_s: float

    def to_tree(self) -> dict[str, Any]:
        """Give what `--json` prints."""
        return {
            "name": self.name,
            "state": self.seen.state,
            "found": self.seen.found,
            "cause": self.seen.cause,
            "remedy": self.seen.remedy,
            "took_s": round(self.took_s, 3),
        }


def run(checks: Iterable[Check], *, clock: Callable[[], float] = time.monotonic) -> Iterator[Finding]:
    """Run checks in order and yield each finding as it comes.

    Guarantees:
        - every check gives exactly one finding, also one that raises or does not come back in time;
        - a check whose `needs` did not all go well is skipped, with the name of the first that did not.
    Args:
        checks: names are unique; `needs` name earlier ones.
        clock: seconds that only grow.
    """
    good: set[str] = set()
    for check in checks:
        start = clock()
        lacking = [name for name in check.needs if name not in good]
        seen = skipped(f"needs '{lacking[0]}'") if lacking else _within(check)
        if seen.state in ("ok", "warn"):
            good.add(check.name)
        yield Finding(name=check.name, seen=seen, took_s=clock() - start)


def exit_code(findings: Iterable[Finding]) -> int:
    """Give 1 where anything failed, else 0: a warning is none."""
    return int(any(finding.seen.state == "fail" for finding in findings))


def _within(check: Check) -> Seen:
    """Look in a thread of its own: one that hangs in the operating system is left behind and ends with the process."""
    seen: list[Seen] = []
    thread = threading.Thread(target=lambda: seen.append(guarded(check.look)), name=check.name, daemon=True)
    thread.start()
    thread.join(check.limit_s)
    if seen:
        return seen[0]
    return fail(
        f"no answer within {check.limit_s:g} s",
        cause="something it asked hangs: a filter that drops packets, a dead network disk, a driver",
        remedy="look at what this check names with the operating system's own tools, then run doctor again",
    )


def guarded(look: Callable[[], Seen]) -> Seen:
    """Look, and make a finding of whatever is raised."""
    try:
        return look()
    except InputError as err:
        return fail(f"{err.place}: {err.found}", cause=f"expected {err.expected}", remedy=err.remedy or "correct it")
    except Refused as err:
        return fail(f"refused by rule {err.rule}", cause=err.reason, remedy=err.remedy)
    except PartsongError as err:
        return fail(str(err), cause="the check could not be done", remedy="remove what the text names and try again")
    except Exception as err:  # noqa: BLE001 - one broken check must not hide the others
        return fail(
            f"the check broke off with {type(err).__name__}",
            cause="something that doctor does not know; the text is left out, as it may quote what was being read",
            remedy="report it with the version of partsong and the name of this check",
        )
