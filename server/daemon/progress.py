"""A run's events as facts for those who watch the daemon: of the fields that `event_log` writes, what is a number or
a name; lists are told as counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from partsong.common import events
from partsong.common.control.feed import Feed
from partsong.common.facts import Scalar, word
from partsong.server.event_log import TOLD

_AS = {"why": "code", "missing": "lost"}
"""Fields that have another name among the facts."""
_NOT_TOLD = frozenset({"reason", "run", "of"})


def tell_progress(feed: Feed, event: events.Event, *, run: str) -> None:
    """Tell an event of a run, if it is one that is told."""
    found = TOLD.get(type(event))
    if found is not None:
        name, fields = found
        feed.tell(name, run=word(run), **_facts(event, fields))


def _facts(event: events.Event, fields: tuple[str, ...]) -> Mapping[str, Scalar]:
    facts: dict[str, Scalar] = {}
    for field in fields:
        value = getattr(event, field)
        if field not in _NOT_TOLD and value is not None:
            facts[_AS.get(field, field)] = _fact(value)
    return facts


def _fact(value: Scalar | tuple[str, ...]) -> Scalar:
    if isinstance(value, tuple):
        return len(value)
    return word(value) if isinstance(value, str) else value
