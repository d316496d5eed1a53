"""Pages as HTML.

Covers: every value is escaped by jinja2; an absent value is an error, not an empty place.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import jinja2

from partsong.common.dashboard.pages import Dashboard, Shown

STATIC = Path(__file__).parent / "static"
_TEMPLATES = Path(__file__).parent / "templates"
FILES = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "htmx.min.js": "text/javascript",
    "sse.min.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""What pages load besides themselves, by name, with its media type; all of it is served from here."""


class Frame:
    """Fills the templates of one dashboard."""

    def __init__(self, board: Dashboard) -> None:
        """Read templates from the dashboard's folders, then from the common one."""
        self._board = board
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([*board.templates, _TEMPLATES]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters["moment"] = moment
        self._environment.filters["size"] = size

    def page(self, shown: Shown, **frame: str) -> str:
        """Fill a page's template with its values, and with what stands around every page."""
        around = {"board": self._board, "title": shown.title, **frame}
        return self._environment.get_template(shown.template).render({**shown.values, **around})


def moment(time_ms: int) -> str:
    """Give a time as people and machines read it, in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def size(count: int) -> str:
    """Give a number of bytes with its unit."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"
