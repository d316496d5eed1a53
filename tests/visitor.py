"""Somebody who talks HTTP to a dashboard, as a browser would or as one would not."""

import http.client
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urlencode

from partsong.common.dashboard.keys import Key

FORM = "application/x-www-form-urlencoded"
WORD = re.compile(r'name="word" value="([0-9a-f]{64})"')


@dataclass(frozen=True)
class Got:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Visitor:
    """One browser."""

    key: Key
    cookie: str = ""
    base: str = ""
    word: str = ""
    host: str = field(default="")

    def __post_init__(self) -> None:
        self.host = self.host or f"127.0.0.1:{self.key.port}"

    def ask(self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str | None) -> Got:
        """Ask; a header that is None is left out, `_` in its name stands for `-`. Of a stream of events only the head
        is read: it has no end.
        """
        sent = {"Host": self.host, "Cookie": self.cookie or None} | {n.replace("_", "-"): v for n, v in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.key.port, timeout=30)
        try:
            kept = {name: value for name, value in sent.items() if value is not None}
            connection.request(method, path, body=body, headers=kept)
            answer = connection.getresponse()
            has_end = answer.headers.get_content_type() != "text/event-stream"
            return Got(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read() if has_end else b"")
        finally:
            connection.close()

    def page(self, path: str = "") -> Got:
        """Look at a page below the first one."""
        return self.ask(self.base + path)

    def post(self, path: str, form: Mapping[str, str], **headers: str | None) -> Got:
        """Send a form as a browser does."""
        own: dict[str, str | None] = {
            "Origin": f"http://{self.host}", "Content-Type": FORM, "Sec-Fetch-Site": "same-origin"
        }  # fmt: skip
        changed = own | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(path, method="POST", body=urlencode(form).encode(), **changed)

    def act(self, path: str, **form: str) -> Got:
        """Send a form of a page."""
        return self.post(self.base + path, {"word": self.word, **form})

    def log_in(self) -> "Visitor":
        """Show the key, keep the cookie, and read the word of the forms."""
        got = self.post("/login", {"key": self.key.key})
        assert got.status == 303, got.text
        self.cookie, self.base = got.headers["set-cookie"].split(";")[0], got.headers["location"]
        found = WORD.search(self.page().text)
        assert found is not None
        self.word = found[1]
        return self


class Words(HTMLParser):
    """Text of a page without its markup, and its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())
