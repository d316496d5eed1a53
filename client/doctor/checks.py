"""What is checked at a site, in which order, and what needs what."""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from partsong import __version__
from partsong.client.doctor import base, torch_process
from partsong.client.doctor.canary import last_canary
from partsong.client.home.layout import SiteHome
from partsong.client.rules.policy_file import read_policy
from partsong.common.control.client import SiteClient
from partsong.common.control.surfaces import SiteStatus
from partsong.common.deployment import SiteConfig
from partsong.common.doctor import machine, network, tls, trust
from partsong.common.doctor.canary import check_last
from partsong.common.doctor.finding import USUAL_LIMIT_S, Check, Seen, fail, ok, warn
from partsong.common.doctor.handshake import Credentials, Handshake, meet
from partsong.common.doctor.route import TIMEOUT_S, route_to
from partsong.common.doctor.running import check_daemon

DISK_BYTES = 2 * machine.GIB
"""Journals, answers and adapters of some runs."""
_TORCH_LIMIT_S = 600.0
"""Hashing or loading a large base from a slow disk takes minutes."""
_RENEW = "`partsong site renew`, send the request to the coordinator, and `partsong site join` its reply"


@dataclass(frozen=True, kw_only=True, slots=True)
class Around:
    """What the checks are told about the world outside of the directory."""

    environment: Mapping[str, str]
    switches: Mapping[str, str]
    """Variables that have to be set so that libraries report and fetch nothing."""
    passphrase: Callable[[], bytes] | None
    """Gives the identity's passphrase; None: nobody is there to ask."""
    has_gpu: bool = False
    """Whether this machine shows a GPU to its processes."""
    timeout_s: float = TIMEOUT_S
    """Of one connection."""


def site_checks(home: SiteHome, config: SiteConfig, around: Around) -> tuple[Check, ...]:
    """List the checks of a site, in order."""
    return (
        *_files(home, config, around),
        *_network(home, config, around),
        *_machine(home, around),
        *_model(config, around),
        Check(name="daemon", look=lambda: check_daemon(lambda: _status(home), version=__version__)),
        Check(name="canary run", look=lambda: _canary(home)),
    )


def _files(home: SiteHome, config: SiteConfig, around: Around) -> tuple[Check, ...]:
    folder = home.tls
    return (
        Check(name="identity", look=lambda: trust.check_identity(home.identity, passphrase=around.passphrase)),
        Check(
            name="charter",
            look=lambda: trust.check_charter(home.charters, member=config.name, identity=home.identity),
        ),
        Check(name="policy", look=lambda: check_policy(home.policy, holding=config.holding)),
        Check(
            name="own certificate",
            look=lambda: tls.check_own_certificate(
                certificate=folder / "site.crt",
                key=folder / "site.key",
                authority=folder / "ca.crt",
                now=datetime.now(UTC),
                renew=_RENEW,
            ),
        ),
    )


def _network(home: SiteHome, config: SiteConfig, around: Around) -> tuple[Check, ...]:
    route = route_to(config.coordinator, proxy=config.proxy, environment=around.environment)
    authority = Path(config.ca_bundle) if config.ca_bundle else home.tls / "ca.crt"
    ours = Credentials(authority=authority, certificate=home.tls / "site.crt", key=home.tls / "site.key")

    @functools.cache
    def met() -> Handshake:
        return meet(route, ours, timeout_s=around.timeout_s)

    return (
        Check(name="name", look=lambda: network.check_name(route)),
        Check(name="route", look=lambda: network.check_route(route, timeout_s=around.timeout_s), needs=("name",)),
        Check(name="proxy", look=lambda: network.check_proxy(route, timeout_s=around.timeout_s)),
        Check(name="tls", look=lambda: check_meeting(met), needs=("route", "proxy"), limit_s=3 * around.timeout_s),
        Check(name="interception", look=lambda: tls.check_interception(met(), authority), needs=("tls",)),
        Check(name="tls version", look=lambda: tls.check_version(met()), needs=("interception",)),
        Check(
            name="coordinator's certificate",
            look=lambda: tls.check_presented(met(), now=datetime.now(UTC)),
            needs=("tls",),
        ),
        Check(name="accepted", look=lambda: tls.check_accepted(met()), needs=("interception",)),
        Check(name="clock", look=lambda: tls.check_clock(met()), needs=("accepted",)),
    )


def _machine(home: SiteHome, around: Around) -> tuple[Check, ...]:
    return (
        Check(name="disk", look=lambda: machine.check_disk(home.path, needed_bytes=DISK_BYTES)),
        Check(name="shared memory", look=machine.check_shared_memory),
        Check(name="open files", look=lambda: machine.check_files(*resource.getrlimit(resource.RLIMIT_NOFILE))),
        Check(name="switches", look=lambda: machine.check_switches(around.environment, around.switches)),
        Check(name="ports", look=lambda: machine.check_ports(home.socket)),
    )


def _model(config: SiteConfig, around: Around) -> tuple[Check, ...]:
    @functools.cache
    def seen(*tasks: torch_process.Task) -> dict[str, Seen]:
        return torch_process.look(tasks, model=config.model, data=config.data, limit_s=_TORCH_LIMIT_S)

    def torch(name: str, task: torch_process.Task, together: tuple[torch_process.Task, ...], *needs: str) -> Check:
        return Check(
            name=name,
            look=lambda: seen(*together)[task],
            needs=needs,
            limit_s=_TORCH_LIMIT_S + USUAL_LIMIT_S,  # the process is ended before
        )

    device: tuple[torch_process.Task, ...] = ("gpu", "bfloat16")
    adapter: tuple[torch_process.Task, ...] = ("gradients", "reload")
    return (
        torch("gpu", "gpu", device),
        torch("bfloat16", "bfloat16", device, "gpu"),
        torch("base model", "base", ("base",)),
        Check(name="memory", look=lambda: _memory(config, around), needs=("base model",)),
        torch("records", "records", ("records",), "base model"),
        torch("gradients", "gradients", adapter, "gpu", "base model", "memory"),
        torch("reload", "reload", adapter, "gpu", "base model", "memory"),
    )


def check_meeting(met: Callable[[], Handshake]) -> Seen:
    """Say whether what answers at the coordinator's address speaks TLS at all."""
    try:
        seen = met()
    except OSError as err:
        return fail(
            f"no TLS there ({getattr(err, 'reason', None) or type(err).__name__})",
            cause="something else listens at this address, or a firewall cuts what it cannot read",
            remedy="compare host and port with the coordinator; ask the network team about TLS to that port",
        )
    return ok("something that speaks TLS answers" if seen.distrust else f"{seen.version}")


def check_policy(file: Path, *, holding: str) -> Seen:
    """Read the policy, and say whether it allows anything for this site's holding.

    Raises:
        ConfigError: no policy that can be read.
    """
    policy = read_policy(file)
    names = sorted(policy.holdings)
    if not names:
        return warn(
            "closed: it names no holding",
            cause="every plan will be refused, as `init` leaves it until somebody opens it",
            remedy=f"name {holding!r} in policy.yaml, with its budget, see docs/policy.md",
        )
    if holding not in names:
        return fail(
            f"no holding {holding!r} (it names {', '.join(names)})",
            cause="what a policy does not name is not allowed, so every plan will be refused",
            remedy=f"name {holding!r} in policy.yaml, see docs/policy.md",
        )
    return ok(f"allows what it says for {', '.join(names)}")


def _memory(config: SiteConfig, around: Around) -> Seen:
    needed = base.needed_bytes(config.model, has_gpu=around.has_gpu)
    return machine.check_memory(machine.read_memory(), needed_bytes=needed, for_what="the base model")


def _canary(home: SiteHome) -> Seen:
    return check_last(
        last_canary(home.plans),
        now_ms=int(time.time() * 1000),
        have_one="at the coordinator, `partsong doctor --canary` or `partsong coordinator run --canary` does",
        more="this site's log says what happened here, and `partsong explain` at the coordinator what happened there",
    )


def _status(home: SiteHome) -> SiteStatus:
    with SiteClient(home.socket) as daemon:
        return daemon.status()
