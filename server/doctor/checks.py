"""What is checked at a coordinator, in which order, and what needs what."""

from __future__ import annotations

import functools
import resource
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from partsong import __version__
from partsong.common.control.client import CoordinatorClient
from partsong.common.control.surfaces import CoordinatorStatus
from partsong.common.deployment import CanaryConfig, CoordinatorConfig
from partsong.common.doctor import machine, network, tls, trust
from partsong.common.doctor.canary import CANARY_LIMIT_S, CanaryResult, check_canary, check_last
from partsong.common.doctor.finding import Check, Seen, fail, ok
from partsong.common.doctor.handshake import Credentials, Handshake, meet
from partsong.common.doctor.route import TIMEOUT_S, Route
from partsong.common.doctor.running import check_daemon
from partsong.server.daemon.canary_job import CanaryJob
from partsong.server.doctor.canary import ask_canary, last_canary
from partsong.server.membership.home import CoordinatorHome

MESSAGES_KEPT = 3
"""Vectors of each site that may lie on the disk at once: of the check window, of this round, and one on its way."""
BASE_MEMORY_BYTES = 200 * machine.MIB
"""Of the coordinator itself, without updates."""
_RENEW = "renew it: `partsong coordinator renew`; the running daemon takes the new one without a restart"


@dataclass(frozen=True, kw_only=True, slots=True)
class Around:
    """What the checks are told about the world outside of the directory."""

    environment: Mapping[str, str]
    switches: Mapping[str, str]
    """Variables that have to be set so that libraries report and fetch nothing."""
    passphrase: Callable[[], bytes] | None
    """Gives the identity's passphrase; None: nobody is there to ask."""
    asks_canary: bool = False
    """Have a canary carried out now; else the newest one is reported."""
    timeout_s: float = TIMEOUT_S
    """Of one connection."""


def coordinator_checks(home: CoordinatorHome, config: CoordinatorConfig, around: Around) -> tuple[Check, ...]:
    """List the checks of a coordinator, in order."""
    return (
        *_files(home, config, around),
        *_port(home, config, around),
        *_machine(home, config, around),
        Check(name="daemon", look=lambda: check_daemon(lambda: _status(home), version=__version__)),
        _canary(home, around),
    )


def _files(home: CoordinatorHome, config: CoordinatorConfig, around: Around) -> tuple[Check, ...]:
    folder = home.tls
    return (
        Check(name="identity", look=lambda: trust.check_identity(home.identity, passphrase=around.passphrase)),
        Check(name="charter", look=lambda: trust.check_charter(home.charters, member=None, identity=home.identity)),
        Check(
            name="own certificate",
            look=lambda: tls.check_own_certificate(
                certificate=folder / "server.crt",
                key=folder / "server.key",
                authority=folder / "server-ca.crt",
                now=datetime.now(UTC),
                renew=_RENEW,
            ),
        ),
        Check(name="authority", look=lambda: check_authority(folder / "ca.crt", now=datetime.now(UTC))),
        Check(name="names", look=lambda: check_names(folder / "server.crt", config.names), needs=("own certificate",)),
    )


def _port(home: CoordinatorHome, config: CoordinatorConfig, around: Around) -> tuple[Check, ...]:
    """Knock at the public port as a stranger: it has to answer, show our certificate, and let nobody in."""
    own = config.host if config.host not in ("0.0.0.0", "::", "") else "127.0.0.1"  # noqa: S104 - compared, not bound
    route = Route(host=own, port=config.port)

    @functools.cache
    def met() -> Handshake:
        return meet(
            route,
            Credentials(authority=home.tls / "server-ca.crt"),
            server_name=config.names[0],
            timeout_s=around.timeout_s,
        )

    return (
        Check(name="public port", look=lambda: network.check_route(route, timeout_s=around.timeout_s)),
        Check(name="stranger", look=lambda: check_stranger(met()), needs=("public port",), limit_s=3 * TIMEOUT_S),
    )


def _machine(home: CoordinatorHome, config: CoordinatorConfig, around: Around) -> tuple[Check, ...]:
    sites = max(1, len(list(home.enrolled.glob("*.json"))))
    vectors = MESSAGES_KEPT * sites * config.max_message_mb * machine.MIB
    needed = BASE_MEMORY_BYTES + config.max_message_mb * machine.MIB * MESSAGES_KEPT
    return (
        Check(name="disk", look=lambda: machine.check_disk(home.path, needed_bytes=vectors)),
        Check(
            name="memory",
            look=lambda: machine.check_memory(
                machine.read_memory(), needed_bytes=needed, for_what="the largest message and the sum"
            ),
        ),
        Check(name="open files", look=lambda: machine.check_files(*resource.getrlimit(resource.RLIMIT_NOFILE))),
        Check(name="switches", look=lambda: machine.check_switches(around.environment, around.switches)),
        Check(name="ports", look=lambda: machine.check_ports(home.socket, allowed=(config.port,))),
    )


def check_authority(file: Path, *, now: datetime) -> Seen:
    """Judge the times of the authority that signs the sites' certificates: all of them end with it."""
    (authority, *_) = x509.load_pem_x509_certificates(file.read_bytes())
    renew = "make a new authority while the old one is good, see docs/operations.md"
    return tls.judge_times(authority, whose="the authority", now=now, renew=renew)


def check_names(certificate: Path, names: tuple[str, ...]) -> Seen:
    """Say whether every name that sites use stands in the certificate and can be looked up."""
    (leaf, *_) = x509.load_pem_x509_certificates(certificate.read_bytes())
    listed = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {
        *listed.get_values_for_type(x509.DNSName),
        *map(str, listed.get_values_for_type(x509.IPAddress)),
    }
    if missing := [name for name in names if name not in known]:
        return fail(
            f"{', '.join(missing)} not in the certificate (it names {', '.join(sorted(known))})",
            cause="a site that uses that name will refuse the connection",
            remedy=_RENEW,
        )
    for name in names:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            return fail(
                f"{name} has no address here",
                cause="`names` in coordinator.yaml holds a name that this machine's name server does not know",
                remedy="have the name entered, or take it out of coordinator.yaml and renew the certificate",
            )
    return ok(", ".join(names))


def check_stranger(seen: Handshake) -> Seen:
    """Say whether the public port shows our certificate and refuses who has none of ours."""
    if seen.distrust is not None:
        return fail(
            f"the certificate shown is of {seen.leaf.issuer.rfc4514_string()}: {seen.distrust}",
            cause="another program has the port, or the daemon runs with an older certificate",
            remedy="look who listens there (`ss -ltnp`), and restart the daemon",
        )
    if seen.answer is not None:
        return fail(
            f"it answers a stranger ({seen.answer})",
            cause="something before it ends TLS, or it is not this daemon: sites' certificates are not asked for",
            remedy="let TCP through to the daemon; a load balancer must not end TLS itself",
        )
    return ok("it shows our certificate and cuts the connection of who has none")


def _status(home: CoordinatorHome) -> CoordinatorStatus:
    with CoordinatorClient(home.socket) as daemon:
        return daemon.status()


def _canary(home: CoordinatorHome, around: Around) -> Check:
    if around.asks_canary:
        ask = functools.partial(_asked_canary, home)
        return Check(
            name="canary run", look=lambda: check_canary(ask), needs=("daemon", "charter"), limit_s=CANARY_LIMIT_S
        )
    return Check(
        name="canary run",
        look=lambda: check_last(
            last_canary(home.runs),
            now_ms=int(time.time() * 1000),
            have_one="`partsong doctor --canary` here has one carried out",
            more="`partsong explain` of that run says how each site fared",
        ),
    )


def _asked_canary(home: CoordinatorHome) -> CanaryResult:
    """Have the running daemon carry out a canary of the usual size."""
    with tempfile.TemporaryDirectory(prefix="partsong-canary-") as scratch:
        job = Path(scratch) / "job"
        CanaryJob(config=CanaryConfig()).write(job)
        with CoordinatorClient(home.socket) as daemon:
            return ask_canary(daemon, job, clock=time.monotonic, pause=time.sleep)
