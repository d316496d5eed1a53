"""Scripted faults: who falls silent when. They sit around a ClientApp, so the real code on both sides meets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from flwr.app import Context, Error, Message

from partsong.common import wire
from partsong.common.errors import ConfigError, WireError

App = Callable[[Message, Context], Message]
When = Literal["train", "report", "confirm", "unmask"]

_NODE_UNAVAILABLE = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Drop:
    """A site falls silent in one round."""

    site: str
    round: int
    when: When
    """Before what: train, when nothing is computed; report, when it is counted on; confirm or unmask, when its vector
    is in the sum."""


def parse_drop(text: str, *, sites: tuple[str, ...], rounds: int) -> Drop:
    """Read `SITE@ROUND` or `SITE@ROUND:WHEN`.

    Raises:
        ConfigError: not of that form, or a site, round or phase that does not exist.
    """
    site, _, rest = text.rpartition("@")
    number, _, when = rest.partition(":")
    if site not in sites:
        raise ConfigError("drop", found=f"site {site!r}", expected=f"one of {', '.join(sites)}")
    if not number.isdecimal() or not 1 <= int(number) <= rounds:
        raise ConfigError("drop", found=text, expected=f"SITE@ROUND with a round from 1 to {rounds}")
    phases = {name: name for name in get_args(When)}
    if (when or "report") not in phases:
        raise ConfigError("drop", found=text, expected=f"SITE@ROUND:WHEN with WHEN one of {', '.join(phases)}")
    return Drop(site=site, round=int(number), when=phases[when or "report"])


class Faulty:
    """A ClientApp with a script of faults around it."""

    def __init__(self, app: App, drops: tuple[Drop, ...]) -> None:
        """Wrap `app`."""
        self._app = app
        self._drops = {(d.site, d.round, d.when) for d in drops}

    def __call__(self, message: Message, context: Context) -> Message:
        """Handle a message, or fall silent."""
        if (point := _point(message)) and (context.node_config["site"], *point) in self._drops:
            return Message(Error(_NODE_UNAVAILABLE, "scripted drop"), reply_to=message)
        return self._app(message, context)


def _point(message: Message) -> tuple[int, When] | None:
    """Round and phase of a message that a drop can hit."""
    header = message.content["partsong"]["header"]
    if not isinstance(header, bytes):
        return None
    try:
        match message.metadata.message_type:
            case "train":
                return wire.decode(header, wire.Open).round, "train"
            case "query.roster":
                return wire.decode(header, wire.Roster).round, "report"
            case "query.confirm":
                return wire.decode(header, wire.Confirm).round, "confirm"
            case "query.unmask":
                return wire.decode(header, wire.Unmask).round, "unmask"
    except WireError:
        return None
    return None
