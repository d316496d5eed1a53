"""Name, route and proxy on the way to the coordinator."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

from partsong.common.doctor.finding import Seen, fail, ok
from partsong.common.doctor.route import ProxyAnswer, Route, open_socket

Lookup = Callable[[str, int], list[Any]]

_ASKS_WHO = 407
_FORBIDDEN = {403, 405}


def check_name(route: Route, *, lookup: Lookup | None = None) -> Seen:
    """Look up the host that this machine has to reach itself: the coordinator, or the proxy before it."""
    host, port = route.next_hop
    try:
        found = (lookup or _lookup)(host, port)
    except OSError as err:
        whose = "the proxy" if route.proxy else "the coordinator"
        return fail(
            f"{host} has no address ({err.strerror or type(err).__name__})",
            cause=f"the name server of this machine does not know {whose}",
            remedy="correct the name, or ask the network team for the name server that resolves it; where only a proxy "
            "may look up outside names, set `proxy` in site.yaml",
        )
    addresses = sorted({entry[4][0] for entry in found})
    return ok(f"{host} is {', '.join(addresses)}")


def check_route(route: Route, *, timeout_s: float) -> Seen:
    """Open a connection to the next hop and close it."""
    host, port = route.next_hop
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError as err:
        return _unreachable(err, f"{host}:{port}")
    return ok(f"{host}:{port} answers")


def check_proxy(route: Route, *, timeout_s: float) -> Seen:
    """Ask the proxy, if one is configured, for the coordinator's port."""
    proxy = route.proxy
    if proxy is None:
        return ok("none: no proxy in site.yaml, and none in HTTPS_PROXY")
    through = f"{proxy.host}:{proxy.port} (from {proxy.told_by})"
    try:
        open_socket(route, timeout_s=timeout_s).close()
    except ProxyAnswer as err:
        return _refused(err.status, through, route)
    except OSError as err:
        return _unreachable(err, f"proxy {through}")
    return ok(f"{through} passes {route.host}:{route.port} on")


def _refused(status: int, through: str, route: Route) -> Seen:
    found = f"proxy {through} answers {status}" if status else f"proxy {through} speaks no HTTP"
    target = f"{route.host}:{route.port}"
    if status == _ASKS_WHO:
        return fail(
            found,
            cause="the proxy wants to know who is asking",
            remedy="put http://user:password@host:port into HTTPS_PROXY of the daemon (a systemd credential or "
            "drop-in, not site.yaml), or have this machine let through without; Kerberos and NTLM need a local relay",
        )
    if status in _FORBIDDEN:
        return fail(
            found,
            cause=f"the proxy does not allow CONNECT to {target}",
            remedy=f"ask the network team to allow CONNECT to {target}",
        )
    return fail(
        found,
        cause=f"it did not reach {target}, or is no proxy",
        remedy=f"check the proxy's address, and from the proxy that {target} can be reached",
    )


def _unreachable(err: OSError, target: str) -> Seen:
    if isinstance(err, TimeoutError):
        return fail(
            f"{target} does not answer",
            cause="a firewall drops the packets, or the machine is off",
            remedy=f"allow outgoing TCP to {target}; nothing has to be opened inwards at a site",
        )
    if err.errno == errno.ECONNREFUSED:
        return fail(
            f"{target} refuses the connection",
            cause="nothing listens on that port, or a firewall rejects it",
            remedy="start the daemon there (`partsong coordinator up`), or correct address and port",
        )
    return fail(
        f"no route to {target} ({errno.errorcode.get(err.errno or 0, type(err).__name__)})",
        cause="this network has no way there",
        remedy="check gateway, VPN and address",
    )


def _lookup(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
