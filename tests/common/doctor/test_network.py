"""Names, routes and proxies: each fault is made on loopback and named."""

import socket

import pytest
from loopback import closed_port, proxy, serving

from partsong.common.doctor.network import check_name, check_proxy, check_route
from partsong.common.doctor.route import Proxy, Route, route_to
from partsong.common.errors import ConfigError


def way(port: int, *, through: int | None = None, authorization: str | None = None) -> Route:
    hop = None
    if through is not None:
        hop = Proxy(host="127.0.0.1", port=through, told_by="site.yaml", authorization=authorization)
    return Route(host="127.0.0.1", port=port, proxy=hop)


def test_a_name_that_nobody_knows_fails_with_its_own_remedy() -> None:
    """RFC 6761 keeps `.invalid` free of names for ever."""

    seen = check_name(Route(host="coordinator.invalid", port=7443))

    assert seen.state == "fail"
    assert "coordinator.invalid" in seen.found
    assert "name server" in seen.cause


def test_a_name_that_is_known_gives_its_addresses() -> None:
    """Two answers of the name server are both shown."""

    def lookup(host, port):
        return [(socket.AF_INET, 0, 0, "", ("192.0.2.1", port)), (socket.AF_INET, 0, 0, "", ("192.0.2.2", port))]

    seen = check_name(Route(host="hospital.example", port=7443), lookup=lookup)

    assert (seen.state, seen.found) == ("ok", "hospital.example is 192.0.2.1, 192.0.2.2")


def test_behind_a_proxy_the_proxy_is_looked_up() -> None:
    """This machine need not know the coordinator's name then."""
    asked = []

    check_name(
        Route(host="far.invalid", port=1, proxy=Proxy(host="near", port=2, told_by="site.yaml")),
        lookup=lambda host, port: asked.append((host, port)) or [],
    )

    assert asked == [("near", 2)]


def test_a_closed_port_is_told_from_a_silent_one() -> None:
    """A refusal and a dropped packet have other causes and other people to ask."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(full.getsockname())  # now the queue is full, and the kernel drops what comes

            silent = check_route(way(full.getsockname()[1]), timeout_s=0.2)
            refused = check_route(way(closed_port()), timeout_s=5)

    assert "does not answer" in silent.found
    assert "refuses" in refused.found
    assert (silent.state, refused.state) == ("fail", "fail")


def test_an_open_port_is_fine() -> None:
    """The connection is opened and closed again."""
    with serving(lambda _: None) as port:
        seen = check_route(way(port), timeout_s=5)

    assert seen.state == "ok"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required", "wants to know who"),
        (b"HTTP/1.1 403 Forbidden", "does not allow CONNECT"),
        (b"HTTP/1.1 502 Bad Gateway", "did not reach"),
        (b"SSH-2.0-OpenSSH_9.2", "is no proxy"),
    ],
)
def test_what_a_proxy_refuses_is_named(answer: bytes, cause: str) -> None:
    """Each answer has its own cause, and the remedy says whom to ask."""
    with proxy(answer) as port:
        seen = check_proxy(way(7443, through=port), timeout_s=5)

    assert seen.state == "fail"
    assert cause in seen.cause


def test_a_proxy_that_passes_on_is_fine() -> None:
    """The user name goes to the proxy and stands in no finding."""
    heads: list[bytes] = []
    with serving(lambda _: None) as target, proxy(seen=heads) as port:
        route = route_to(
            f"127.0.0.1:{target}", proxy=None, environment={"HTTPS_PROXY": f"http://me:s3cret@127.0.0.1:{port}"}
        )
        seen = check_proxy(route, timeout_s=5)

    assert seen.state == "ok"
    assert b"Proxy-Authorization: Basic bWU6czNjcmV0" in heads[0]
    assert "s3cret" not in repr(route) + seen.found


def test_site_yaml_comes_before_the_environment_and_no_proxy_before_both_names() -> None:
    """The same order as the daemon's."""
    env = {"https_proxy": "http://a:1", "NO_PROXY": "localhost, .hospital.example"}

    assert route_to("c.example:1", proxy="http://b:2", environment=env).next_hop == ("b", 2)
    assert route_to("c.example:1", proxy=None, environment=env).next_hop == ("a", 1)
    assert route_to("x.hospital.example:1", proxy=None, environment=env).next_hop == ("x.hospital.example", 1)
    assert route_to("c.example:1", proxy=None, environment={}).proxy is None
    assert route_to("[::1]:7", proxy=None, environment={}).next_hop == ("::1", 7)


@pytest.mark.parametrize("url", ["https://user:s3cret@proxy:1", "http://user:s3cret@proxy", "http://u:s3cret@p:99999"])
def test_a_proxy_of_another_form_is_refused_without_its_password(url: str) -> None:
    """The text names where it stands."""
    with pytest.raises(ConfigError, match="HTTPS_PROXY") as caught:
        route_to("c.example:1", proxy=None, environment={"HTTPS_PROXY": url})

    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
