"""Texts that others may have written, made fit to be shown."""

from __future__ import annotations

import re

_PATH = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:)?/(?:[^\s/'\",;:()]+/)*([^\s/'\",;:()]+)")
"""An absolute path: a slash that begins a word, and what follows it."""


def without_paths(text: str) -> str:
    """Leave of every absolute path in a text its last part: where a daemon's files lie is not for a page."""
    return _PATH.sub(r"\1", text)
