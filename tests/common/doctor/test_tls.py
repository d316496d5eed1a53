"""Certificates, interception, versions and clocks, against real TLS servers."""

import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from loopback import DAY, NOW, Authority, coordinator, proxy, serving

from partsong.common.doctor import tls
from partsong.common.doctor.handshake import Credentials, Handshake, meet
from partsong.common.doctor.route import Proxy, Route


@pytest.fixture
def pinned(tmp_path: Path) -> Authority:
    """The consortium's authority."""
    return Authority(tmp_path / "pinned", "Consortium CA")


def visit(authority: Authority, port: int, *, ours=None, **more) -> Handshake:
    credentials = Credentials(authority=authority.file, certificate=ours and ours.certificate, key=ours and ours.key)
    return meet(Route(host="127.0.0.1", port=port), credentials, timeout_s=5, **more)


def test_the_coordinators_own_certificate_is_recognised(pinned: Authority) -> None:
    """Nothing is wrong with any of five checks."""
    site = pinned.issue("site-a")
    with coordinator(pinned.issue("localhost"), clients=pinned.file) as port:
        seen = visit(pinned, port, ours=site)

    checks = (
        tls.check_interception(seen, pinned.file),
        tls.check_version(seen),
        tls.check_accepted(seen),
        tls.check_clock(seen),
        tls.check_presented(seen, now=NOW),
    )
    assert [check.state for check in checks] == ["ok"] * 5


def test_a_proxy_that_opens_tls_is_found_and_named(tmp_path: Path, pinned: Authority) -> None:
    """It shows a certificate of the hospital's own authority; the finding says whose."""
    inspector = Authority(tmp_path / "inspector", "Hospital Inspection CA")
    with coordinator(inspector.issue("localhost")) as port:
        seen = visit(pinned, port)

    finding = tls.check_interception(seen, pinned.file)
    assert finding.state == "fail"
    assert "CN=Hospital Inspection CA" in finding.found
    assert "left out of TLS inspection" in finding.remedy
    assert seen.answer is None


def test_an_authority_of_the_same_name_is_still_another(tmp_path: Path, pinned: Authority) -> None:
    """The signature decides, not the name."""
    twin = Authority(tmp_path / "twin", "Consortium CA")
    with coordinator(twin.issue("localhost")) as port:
        seen = visit(pinned, port)

    assert "opens the encryption" in tls.check_interception(seen, pinned.file).cause


def test_an_expired_certificate_is_no_interception(pinned: Authority) -> None:
    """The authority is right; the time is not."""
    with coordinator(pinned.issue("localhost", start=-20 * DAY, end=-DAY)) as port:
        seen = visit(pinned, port)

    finding = tls.check_interception(seen, pinned.file)
    assert "the right authority" in finding.found
    assert "expired" in finding.found
    assert tls.check_presented(seen, now=NOW).state == "fail"


def test_another_name_in_the_certificate_is_said(pinned: Authority) -> None:
    """The site dials a name that the coordinator did not ask to be certified."""
    with coordinator(pinned.issue("localhost")) as port:
        seen = visit(pinned, port, server_name="elsewhere.example")

    assert "elsewhere.example" in tls.check_interception(seen, pinned.file).found


def test_a_certificate_of_ours_that_is_not_taken_is_said(tmp_path: Path, pinned: Authority) -> None:
    """TLS 1.3 cuts the connection only after the handshake."""
    stranger = Authority(tmp_path / "stranger", "Stranger").issue("site-a")
    with coordinator(pinned.issue("localhost"), clients=pinned.file) as port:
        seen = visit(pinned, port, ours=stranger)

    assert tls.check_interception(seen, pinned.file).state == "ok"
    assert tls.check_accepted(seen).state == "fail"


def test_a_site_that_is_not_served_is_told_from_one_that_is(pinned: Authority) -> None:
    """A certificate of the authority is not yet a place in the charter; any other answer shows that there is one."""
    states = []
    for head in (b"HTTP/1.1 403 ", b"HTTP/1.1 404 Not Found"):
        with coordinator(pinned.issue("localhost"), head=head) as port:
            states.append(tls.check_accepted(visit(pinned, port)).state)

    assert states == ["fail", "ok"]


def test_an_older_version_of_tls_is_said(pinned: Authority) -> None:
    """The site's daemon would refuse it."""
    with coordinator(pinned.issue("localhost"), newest=ssl.TLSVersion.TLSv1_2) as port:
        seen = visit(pinned, port)

    assert (tls.check_version(seen).state, tls.check_version(seen).found) == ("fail", "TLSv1.2")


@pytest.mark.parametrize(
    ("theirs_ahead_s", "state", "word"),
    [(0, "ok", ""), (-4, "warn", "ahead"), (-9, "fail", "ahead"), (200, "warn", "behind"), (400, "fail", "behind")],
)
def test_a_skewed_clock_is_measured(pinned: Authority, theirs_ahead_s: float, state: str, word: str) -> None:
    """The Date header of the answer is the other clock; Flower takes 5 s ahead and 305 s behind."""
    with coordinator(pinned.issue("localhost"), date=NOW + timedelta(seconds=theirs_ahead_s)) as port:
        seen = visit(pinned, port, now=lambda: NOW)

    finding = tls.check_clock(seen)
    assert finding.state == state
    assert word in finding.found


def test_an_answer_without_a_date_is_a_warning(pinned: Authority) -> None:
    """Nothing is known of the other clock then."""
    with coordinator(pinned.issue("localhost"), date=None) as port:
        seen = visit(pinned, port)

    assert tls.check_clock(seen).state == "warn"


def test_the_handshake_goes_through_a_proxy(pinned: Authority) -> None:
    """CONNECT first, TLS inside of it."""
    with coordinator(pinned.issue("localhost")) as port, proxy() as hop:
        route = Route(host="127.0.0.1", port=port, proxy=Proxy(host="127.0.0.1", port=hop, told_by="site.yaml"))

        seen = meet(route, Credentials(authority=pinned.file), timeout_s=5)

    assert seen.distrust is None
    assert seen.version == "TLSv1.3"


def test_what_speaks_no_tls_raises(pinned: Authority) -> None:
    """A port of something else, such as an HTTP server."""
    with serving(lambda c: c.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port, pytest.raises(ssl.SSLError):
        visit(pinned, port)


@pytest.mark.parametrize(
    ("start", "end", "state"), [(-DAY, 29 * DAY, "warn"), (-DAY, 31 * DAY, "ok"), (DAY, 60 * DAY, "fail")]
)
def test_an_own_certificate_is_warned_about_a_month_before(pinned: Authority, start, end, state: str) -> None:
    """Thirty days is the border; one that has not begun tells of a clock."""
    pair = pinned.issue("site-a", start=start, end=end)

    finding = own(pair.certificate, pair.key, pinned)

    assert finding.state == state


def own(certificate: Path, key: Path, authority: Authority):
    return tls.check_own_certificate(
        certificate=certificate, key=key, authority=authority.file, now=NOW, renew="renew it"
    )


def test_key_and_authority_must_be_those_of_the_certificate(tmp_path: Path, pinned: Authority) -> None:
    """Files of two enrolments do not fit together."""
    mine, other = pinned.issue("site-a"), Authority(tmp_path / "other", "Other CA").issue("site-b")

    assert own(mine.certificate, mine.key, pinned).state == "ok"
    assert "not the key" in own(mine.certificate, other.key, pinned).found
    assert "Other CA" in own(other.certificate, other.key, pinned).found
    assert "cannot be opened" in own(mine.certificate, tmp_path / "none", pinned).found
    assert "cannot be read" in own(tmp_path / "none", mine.key, pinned).found
