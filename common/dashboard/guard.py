"""The door of a dashboard, before any page is made.

Covers: DNS rebinding (the Host header has to name loopback); a page of another site or another port that posts here
    (Origin, Sec-Fetch-Site, the word in the form, a SameSite cookie); a script or frame of anybody else (a
    content-security policy without inline code, and no frames); a cookie that a browser would show to another port of
    this machine (it is bound to a path that nobody can guess); long or odd bodies; a browser that keeps pages.
Does not cover: another user of this machine who opens connections and says nothing; they keep the dashboard busy, not
    the daemon. A browser that has been taken over.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from partsong.common.dashboard.keys import Sessions, is_form_word

COOKIE, FORM_WORD = "partsong", "word"
LONGEST_FORM_BYTES = 8 * 1024
MOST_FIELDS = 16
_FORM = "application/x-www-form-urlencoded"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with no-referrer, browsers say `Origin: null` when they post a form
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Guard:
    """Stands around an application."""

    def __init__(self, app: ASGIApp, *, sessions: Sessions, place: str) -> None:
        """Take the application.

        Args:
            app: that is guarded.
            sessions: that are open.
            place: first part of the path of all that takes a session.
        """
        self._app, self._sessions, self._place = app, sessions, f"/{place}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal, or let the application answer; both get the headers."""

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, headed)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, reads = Headers(scope=scope), scope["method"] in ("GET", "HEAD")
        if not reads and (why := _odd_post(headers)) is not None:
            return PlainTextResponse(f"{why}\n", status_code=403)
        if not scope["path"].startswith(self._place) or self._sessions.holds(session_of(scope)):
            return None
        if reads and "hx-request" not in headers:
            return RedirectResponse("/", status_code=303)
        return PlainTextResponse("the session has ended; log in again\n", status_code=403)


def session_of(scope: Scope) -> str:
    """Give the session of a request's cookie; empty: none."""
    return Request(scope).cookies.get(COOKIE, "")


def _odd_post(headers: Headers) -> str | None:
    """Say why a request that may change something is not taken; None: nothing speaks against it."""
    if headers.get("origin") != f"http://{headers.get('host')}":
        return "a form of another origin"
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return "a form of another site"
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return "no form"
    length = headers.get("content-length", "")
    if not length.isdecimal() or int(length) > LONGEST_FORM_BYTES:
        return "a form without a length, or too long"
    return None


async def form_of(request: Request) -> dict[str, str] | None:
    """Read a form; None: it is no form that a page here sends.

    Guarantees: each field once, at most `MOST_FIELDS`, valid UTF-8.
    """
    try:
        pairs = parse_qsl(
            (await request.body()).decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MOST_FIELDS,
        )
    except (ValueError, UnicodeError):
        return None
    found = dict(pairs)
    return found if len(found) == len(pairs) else None


def has_word(request: Request, form: dict[str, str]) -> bool:
    """Say whether a form carries the word of the session that its cookie names."""
    return is_form_word(session_of(request.scope), form.get(FORM_WORD, ""))
