"""What a dashboard is made of, before it is HTTP: views, and what each of them answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from partsong.common.control.feed import Feed
from partsong.common.errors import InputError, PartsongError, Refused, TryAgain
from partsong.common.plain_text import without_paths


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a browser asked a view."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Parts of the path, as the view names them."""
    form: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A page."""

    template: str
    title: str
    values: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A file to keep."""

    name: str
    """That the browser saves it under."""
    media_type: str
    body: bytes | Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """Look there instead; after a form was taken."""

    to: str
    """Relative to the dashboard's first page."""


Answer = Shown | Sent | Moved


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One address below the first page."""

    path: str
    """Such as `plans/{plan}`; empty for the first page."""
    answer: Callable[[Asked], Answer]
    """Called in any thread."""
    method: Literal["GET", "POST"] = "GET"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dashboard:
    """All that is shown, by whom."""

    who: str
    """Name of the site or the consortium."""
    side: Literal["site", "coordinator"]
    links: tuple[tuple[str, str], ...]
    """Path and words of the main pages."""
    views: tuple[View, ...]
    templates: tuple[Path, ...]
    """Folders; the first that has a template counts."""
    feed: Feed


class NotThere(InputError):
    """No page, file, plan or run of this name."""

    def __init__(self, what: str) -> None:
        """Say what is not there, in our own word."""
        super().__init__(what, found="none of this name", expected="one that a page links to")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """An error as a page may show it."""

    status: int
    words: str
    remedy: str = ""


def trouble_of(error: Exception) -> Trouble:
    """Bring an error into words for the browser.

    Guarantees: no path, and of an exception that is not ours nothing but that it happened.
    """
    if isinstance(error, NotThere):
        return Trouble(status=404, words=f"{error.place}: {error.found}")
    if isinstance(error, Refused):
        return Trouble(status=403, words=f"refused by rule {error.rule}: {error.reason}", remedy=error.remedy)
    if isinstance(error, InputError):
        words = f"{Path(error.place).name}: found {error.found}, expected {error.expected}"
        return Trouble(status=400, words=without_paths(words), remedy=without_paths(error.remedy or ""))
    if isinstance(error, TryAgain):
        return Trouble(status=503, words=without_paths(str(error)))
    if isinstance(error, PartsongError):
        return Trouble(status=500, words=without_paths(str(error)))
    return Trouble(status=500, words="this page failed", remedy="the daemon goes on; look at its log")
