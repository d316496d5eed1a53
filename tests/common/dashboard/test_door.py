"""Nobody gets through the door of a dashboard but a browser on this machine that has shown the key."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_fleet import Fleet, Site
from dashboards import control_of, site_dashboard
from visitor import FORM, Visitor, Words

from partsong.client.dashboard.pages import Sources, board_of
from partsong.common.dashboard.guard import HEADERS, LONGEST_FORM_BYTES
from partsong.common.dashboard.keys import FILE, Key, read_key
from partsong.common.dashboard.pages import Dashboard
from partsong.common.dashboard.serving import serving_dashboard
from partsong.common.errors import DataError, InputError, TryAgain

PAGES = ("", "plans", "ledger", "left", "adapters")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Key]]:
    """A site's dashboard, for all tests of this file that leave it as it was."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    with site_dashboard(fleet.sites["a"]) as made:
        yield fleet, made
    fleet.close()


@pytest.fixture
def key(served: tuple[Fleet, Key]) -> Key:
    """Of that dashboard."""
    return served[1]


@pytest.fixture
def site(served: tuple[Fleet, Key]) -> Iterator[Site]:
    """The site behind it, which takes part before and after."""
    found = served[0].sites["a"]
    yield found
    found.daemon.part.resume(now_ms=0)


@pytest.fixture
def visitor(key: Key) -> Visitor:
    """A browser that has logged in."""
    return Visitor(key).log_in()


def paused(site: Site) -> bool:
    return site.daemon.part.now().state == "paused"


def board_at(site: Site) -> Dashboard:
    sources = Sources(
        control=control_of(site)[0], approvals=site.daemon.approvals, ledger=site.ledger, home=site.home,
        release_capsules=False,
    )  # fmt: skip
    return board_of(sources, site=site.name)


def test_who_shows_the_key_sees_every_page(visitor: Visitor) -> None:
    """The cookie is for this place alone and no script sees it."""
    got = visitor.post("/login", {"key": visitor.key.key})

    assert [visitor.page(path).status for path in PAGES] == [200] * len(PAGES)
    name, _, rest = got.headers["set-cookie"].partition(";")
    assert name.startswith("partsong=")
    assert {part.strip().lower() for part in rest.split(";")} == {
        "httponly", f"path={got.headers['location'].lower()}", "samesite=strict",
    }  # fmt: skip
    assert len(got.headers["location"]) >= 22


@pytest.mark.parametrize("shown", ["", "x", "\N{SNOWMAN}"])
def test_another_key_opens_nothing(key: Key, shown: str) -> None:
    """No cookie, and the page says so."""
    got = Visitor(key).post("/login", {"key": shown})

    assert got.status == 403
    assert "set-cookie" not in got.headers
    assert "not the key" in got.text


@pytest.mark.parametrize("cookie", ["", "partsong=", "partsong=x", "other=1"])
def test_without_a_session_there_is_no_page(visitor: Visitor, site: Site, cookie: str) -> None:
    """A page leads to the login, a part of a page and a form are refused; nothing is done."""
    stranger = Visitor(visitor.key, cookie=cookie, base=visitor.base, word=visitor.word)

    seen = [stranger.page(path) for path in (*PAGES, "events", "nothing")]
    part, acted = stranger.ask(visitor.base, HX_Request="true"), stranger.act("pause")

    assert {(got.status, got.headers["location"], got.body) for got in seen} == {(303, "/", b"")}
    assert (part.status, acted.status) == (403, 403)
    assert not paused(site)


def test_the_place_is_told_to_nobody_who_has_not_shown_the_key(visitor: Visitor) -> None:
    """Neither by the first page, nor by a file, nor by an error."""
    place = visitor.base.strip("/")
    stranger = Visitor(visitor.key)

    got = [stranger.ask(path) for path in ("/", "/static/dashboard.css", "/static/none", "/none", "/login")]

    assert [one.status for one in got] == [200, 200, 404, 404, 405]
    assert not any(place in one.text or place in str(one.headers) for one in got)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_a_name_that_was_rebound_to_this_machine_gets_no_answer(visitor: Visitor, host: str) -> None:
    """Not even the login page, and not with a session."""
    got = [visitor.ask(path, Host=host) for path in ("/", visitor.base)]

    assert [one.status for one in got] == [400, 400]


@pytest.mark.parametrize("host", ["localhost:{}", "127.0.0.1:{}", "localhost:9000"])
def test_loopback_may_be_called_by_either_name_and_forwarded(visitor: Visitor, site: Site, host: str) -> None:
    """As through ssh, where the port on the operator's machine is another one."""
    visitor.host = host.format(visitor.key.port)

    assert visitor.page().status == 200
    assert visitor.act("pause").status == 303
    assert paused(site)


@pytest.mark.parametrize(
    "odd",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Origin": None},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "text/plain"},
        {"Content-Type": None},
        {"Content-Length": None, "Transfer-Encoding": "chunked"},
    ],
    ids=str,
)
def test_a_form_of_another_page_does_nothing(visitor: Visitor, site: Site, odd: dict[str, str | None]) -> None:
    """Although cookie and word are right; the same form from the page itself works."""
    form = {"word": visitor.word}
    if "Transfer-Encoding" in odd:
        odd = {**odd, "Content-Length": None}

    refused = visitor.post(visitor.base + "pause", form, **odd)

    assert refused.status == 403
    assert not paused(site)
    assert visitor.post(visitor.base + "pause", form).status == 303
    assert paused(site)


@pytest.mark.parametrize("word", ["", "0" * 64, "\N{SNOWMAN}", None])
def test_a_form_without_the_word_of_its_session_does_nothing(visitor: Visitor, site: Site, word: str | None) -> None:
    """Nor with that of another session."""
    form = {} if word is None else {"word": word}
    other = Visitor(visitor.key).log_in()

    got = [visitor.post(visitor.base + path, form) for path in ("pause", "logout")]
    stolen = visitor.post(visitor.base + "pause", {"word": other.word})

    assert [one.status for one in (*got, stolen)] == [403, 403, 403]
    assert not paused(site)
    assert visitor.page().status == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"word", b"word=%ff", b"word=\xff", b"word=1&word=1", b"a=1&" * 40 + b"b=1", b"x" * (LONGEST_FORM_BYTES + 1)],
    ids=len,
)
def test_an_odd_body_is_refused(visitor: Visitor, site: Site, body: bytes) -> None:
    """It is no form of a page, or too long."""
    got = visitor.ask(
        visitor.base + "pause", method="POST", body=body, Origin=f"http://{visitor.host}", Content_Type=FORM
    )  # fmt: skip

    assert got.status == 403
    assert not paused(site)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_what_is_to_be_read_cannot_be_written(visitor: Visitor, method: str) -> None:
    """And what is done by a form cannot be done by a link."""
    headers = {"Origin": f"http://{visitor.host}", "Content_Type": FORM}

    written = [visitor.ask(visitor.base + path, method=method, body=b"word=x", **headers) for path in PAGES]

    assert {got.status for got in written} == {405}
    assert visitor.page("pause").status == 405


def test_every_answer_forbids_what_a_browser_could_do_with_it(visitor: Visitor) -> None:
    """No inline code, nothing from elsewhere, no frame, no copy; so in errors and refusals."""
    answers = [visitor.page(path) for path in (*PAGES, "plans/none")]
    answers += [
        visitor.ask("/"),
        visitor.ask("/static/htmx.min.js"),
        visitor.act("nothing"),
        Visitor(visitor.key).ask("/x"),
    ]

    assert all(answer.headers[name] == value for answer in answers for name, value in HEADERS.items())
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy.replace("https:", "")
    assert all("server" not in answer.headers for answer in answers)


def test_no_page_holds_code_or_style_or_leads_elsewhere(visitor: Visitor) -> None:
    """So that the policy breaks nothing, and nothing is asked of another machine."""
    for path in (*PAGES, "plans/none"):
        for tag, attributes in Words(visitor.page(path).text).tags:
            assert "style" not in attributes
            assert not any(name.startswith("on") for name in attributes)
            assert tag not in ("style", "iframe", "object", "base")
            for name in ("href", "src", "action", "hx-get", "sse-connect"):
                found = attributes.get(name) or "/"
                assert found.startswith(("/static/", visitor.base, "#")) or found == "/", found


def test_a_session_that_ended_opens_nothing(visitor: Visitor) -> None:
    """The cookie is taken back too."""
    got = visitor.act("logout")

    assert (got.status, got.headers["location"]) == (303, "/")
    assert 'partsong=""' in got.headers["set-cookie"]
    assert visitor.page().status == 303


def test_the_key_lies_in_a_file_for_its_owner_alone_as_long_as_the_daemon_runs(fleet: Any) -> None:
    """`partsong site dashboard` reads it; a wider file, a damaged one and none are refused by name."""
    site = fleet.sites["a"]
    file: Path = site.home.socket.with_name(FILE)

    with site_dashboard(site) as key:
        mode, found = stat.S_IMODE(file.stat().st_mode), read_key(file)

    assert (mode, found) == (0o600, key)
    assert found.url == f"http://127.0.0.1:{key.port}/#{key.key}"
    assert key.key not in repr(key)
    with pytest.raises(InputError, match="dashboard_port"):
        read_key(file)
    file.touch(mode=0o600)
    with pytest.raises(DataError):
        read_key(file)
    file.write_text(json.dumps({"port": 1, "key": "x"}))
    file.chmod(0o640)
    with pytest.raises(InputError, match="mode 0640"):
        read_key(file)


def test_each_start_has_a_key_a_place_and_sessions_of_its_own(fleet: Any) -> None:
    """What was kept of the last one opens nothing."""
    site = fleet.sites["a"]
    with site_dashboard(site) as key:
        before = Visitor(key).log_in()

    with site_dashboard(site) as key:
        after = Visitor(key, cookie=before.cookie, base=before.base)
        seen, shown = after.page(), after.post("/login", {"key": before.key.key})
        own = Visitor(key, cookie=before.cookie, base=Visitor(key).log_in().base).page()

    assert (seen.status, shown.status, own.status) == (404, 403, 303)


def test_a_port_in_use_is_said_at_the_start(key: Key, fleet: Any) -> None:
    """Nothing is served, and the setting is named."""
    site = fleet.sites["b"]
    site.home.socket.parent.mkdir()

    with (
        pytest.raises(TryAgain, match=f"dashboard_port {key.port}"),
        serving_dashboard(board_at(site), port=key.port, socket=site.home.socket),
    ):
        pass

    assert not site.home.socket.with_name(FILE).exists()


def test_without_a_port_there_is_no_dashboard_and_no_old_key(fleet: Any) -> None:
    """What a killed daemon has left is cleared away."""
    site = fleet.sites["a"]
    file: Path = site.home.socket.with_name(FILE)
    file.parent.mkdir()
    file.write_text("left")

    with serving_dashboard(board_at(site), port=None, socket=site.home.socket) as key:
        assert key is None
        assert not file.exists()
