"""A report as one HTML file that needs nothing else, as Markdown, and as JSON.

Covers: names and reasons come from other people. Every value is escaped, for HTML by jinja2, for Markdown here; the
page has no script, loads nothing, and its content-security policy allows neither.
Does not cover: what a viewer of Markdown does with plain text that looks like a link.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from partsong.common.build import to_tree
from partsong.server.report import charts
from partsong.server.report.beside import Beside
from partsong.server.report.page import Page
from partsong.server.report.signed import SignedFacts

_TEMPLATES = Path(__file__).parent / "templates"
_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")


def to_html(page: Page) -> str:
    """Write the page as one file.

    Guarantees: it has no script and no reference to anything outside itself; it can be read with a keyboard and a
        screen reader, printed, and seen in light and dark.
    """
    environment = _environment(autoescape=True)
    style = (_TEMPLATES / "report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        page=page,
        style=Markup(style),  # noqa: S704  # our own file
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        grid=charts,
    )


def to_markdown(page: Page) -> str:
    """Write the same words as Markdown; charts are left to their tables."""
    return _environment(autoescape=False).get_template("report.md.j2").render(page=page)


def to_json(signed: SignedFacts, *, beside: Beside) -> str:
    """Write the signed facts as they are, and what stands beside them."""
    tree = to_tree(signed) | to_tree(beside)
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def fill(template: str, **values: Any) -> str:
    """Fill one of the Markdown templates."""
    environment = _environment(autoescape=False)
    environment.globals["gap"] = lambda text: Markup("**GAP:** ") + Markup(escape(text))  # noqa: S704  # escaped
    return environment.get_template(template).render(**values)


def escape(value: object) -> str:
    """Put a value into Markdown so that it is text on one line, whatever it holds."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)


def _environment(*, autoescape: bool) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=autoescape,  # noqa: S701  # off for Markdown alone, where `_plain` escapes
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=None if autoescape else _plain,
    )


def _plain(value: object) -> object:
    return value if isinstance(value, Markup) else escape(value)
