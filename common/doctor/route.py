"""The way to the coordinator: direct, or through a proxy that lets CONNECT through.

Covers: a proxy's user name and password are sent to that proxy only and stand in no text made here.
Does not cover: proxies that ask for Kerberos or NTLM.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from partsong.common.errors import ConfigError

TIMEOUT_S = 8.0
"""For one connection, and for each answer on it."""
_LONGEST_HEAD = 1 << 16


class ProxyAnswer(Exception):
    """A proxy said something else than 200; `status` is the number, 0 for what is no HTTP."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """Where a proxy listens and who told."""

    host: str
    port: int
    told_by: str
    """`site.yaml` or the name of the variable."""
    authorization: str | None = field(default=None, repr=False)
    """Value of Proxy-Authorization."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """The coordinator and what lies before it."""

    host: str
    port: int
    proxy: Proxy | None = None

    @property
    def next_hop(self) -> tuple[str, int]:
        """What this machine itself has to look up and reach."""
        return (self.host, self.port) if self.proxy is None else (self.proxy.host, self.proxy.port)


def route_to(address: str, *, proxy: str | None, environment: Mapping[str, str]) -> Route:
    """Find the way to `host:port` as the site's daemon does.

    Args:
        address: of the coordinator.
        proxy: what `site.yaml` says; it comes before the environment.
        environment: HTTPS_PROXY and NO_PROXY are read, in either case of letters.
    Raises:
        ConfigError: the proxy is not `http://host:port`; its text holds no password.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if proxy is not None:
        return Route(host=host, port=int(port), proxy=_proxy(proxy, told_by="site.yaml"))
    for name in ("HTTPS_PROXY", "https_proxy"):
        direct = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
        if (url := environment.get(name)) and not _is_direct(host, direct):
            return Route(host=host, port=int(port), proxy=_proxy(url, told_by=name))
    return Route(host=host, port=int(port))


def open_socket(route: Route, *, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """Connect to the coordinator's port, through the proxy where there is one.

    Raises:
        OSError: no connection to the next hop.
        ProxyAnswer: the proxy does not pass this on; the connection is closed.
    """
    raw = socket.create_connection(route.next_hop, timeout=timeout_s)
    if route.proxy is None:
        return raw
    try:
        _connect(raw, route, route.proxy)
    except BaseException:
        raw.close()
        raise
    return raw


def read_head(connection: socket.socket) -> bytes:
    """Read the head of an HTTP answer, byte by byte: what comes after it belongs to somebody else."""
    head = b""
    while not head.endswith(b"\r\n\r\n") and len(head) < _LONGEST_HEAD:
        byte = connection.recv(1)
        if not byte:
            break
        head += byte
    return head


def _connect(raw: socket.socket, route: Route, proxy: Proxy) -> None:
    target = f"[{route.host}]:{route.port}" if ":" in route.host else f"{route.host}:{route.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization is not None:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    raw.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    words = read_head(raw).split(b"\r\n", 1)[0].split()
    is_http = len(words) >= 2 and words[0].startswith(b"HTTP/1.") and words[1].isdigit()
    status = int(words[1]) if is_http else 0
    if status != 200:
        raise ProxyAnswer(status)


def _is_direct(host: str, listed: str) -> bool:
    """Say whether NO_PROXY names this host, a domain above it, or everything."""
    names = [name.strip().lstrip(".").lower() for name in listed.split(",")]
    return any(name == "*" or (name and f".{host.lower()}".endswith(f".{name}")) for name in names)


def _proxy(url: str, *, told_by: str) -> Proxy:
    wrong = ConfigError(told_by, found="another form of proxy", expected="http://host:port")
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError:
        raise wrong from None  # the text of the cause quotes the password
    if parts.scheme != "http" or not parts.hostname or port is None:
        raise wrong
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = f"Basic {base64.b64encode(pair).decode()}"
    return Proxy(host=parts.hostname, port=port, told_by=told_by, authorization=authorization)
