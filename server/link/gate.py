"""Who may speak, how often, how much and how long: checked before anything that a peer sends is read.

Covers: keys that are not enrolled get one answer and no service; every other path does not exist; a flood, a body
that is too large or announced as such, and a peer that sends or reads too slowly each cost that peer its connection
or its turn and nobody else anything.
Does not cover: floods of packets below TLS; those are the firewall's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

FLEET = "/v1/fleet/"
MAX_OBJECT_BYTES = 8 << 20
"""Body of one object. Flower cuts arrays into chunks of 5 MiB; a header has 1 MiB at most."""
MAX_TREE_BYTES = 1 << 20
"""Body that announces an answer: `MOST_OBJECTS` ids of 64 letters."""
MAX_SMALL_BYTES = 16 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one peer may take. Times are real time."""

    handshake_s: float = 10.0
    header_s: float = 15.0
    """From the first byte of a request, or the end of the handshake, to the end of its header."""
    idle_s: float = 75.0
    """Between requests."""
    body_s: float = 180.0
    """For a whole request body, and for a whole answer: 8 MiB need 0.4 Mbit/s."""
    linger_s: float = 1.0
    """How long a refused peer may go on sending before the connection is closed under it."""
    header_bytes: int = 16 << 10
    bodies_bytes: int = 256 << 20
    """Bodies that are still arriving, of all connections together."""
    lease_s: float = 180.0
    """How long an answer may take to become whole before it gives way to those that find no room."""
    connections: int = 512
    """Open at once, from everywhere, before the peer has shown a certificate."""
    connections_of_address: int = 64
    """The same, from one address. Many sites may share one: behind a proxy, or on one cluster."""
    connections_of_site: int = 32
    """Open at once under one key. A site takes one for mail, one to be alive, and one for each plan at work."""
    requests_per_s: float = 50.0
    """Of one site, on average."""
    burst: int = 300
    """Requests of one site at once: an adapter of 1.5 GB in chunks."""
    hold_s: float = 5.0
    """How long a site that asks for mail is kept waiting for it. Saves polling."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not served: a status of HTTP, and a short stable name."""

    status: int
    code: str
    retry_after_s: int = 0
    """When it may be served; 0: nothing is said about that."""


NOT_FOUND = Refusal(404, "no_such_path")
NOT_ENROLLED = Refusal(403, "not_enrolled")
TOO_LARGE = Refusal(413, "too_large")
TOO_OFTEN = Refusal(429, "too_often")
OTHER_NODE = Refusal(401, "other_node")
NOT_ASKED = Refusal(403, "not_asked")
MALFORMED = Refusal(400, "malformed")
NO_ROOM = Refusal(503, "no_room", 5)


class Gate:
    """Admits requests of enrolled sites to the paths that exist, at a bounded rate."""

    def __init__(self, *, body_bytes: Mapping[str, int], limits: Limits, clock: Callable[[], float]) -> None:
        """Open for nobody.

        Args:
            body_bytes: every path there is, with the largest body that it takes.
            limits: rates.
            clock: seconds, never going back.
        """
        self._body_bytes, self._limits, self._clock = dict(body_bytes), limits, clock
        self._sites: dict[bytes, str] = {}
        self._tokens: dict[bytes, tuple[float, float]] = {}
        """For each key: tokens left, and when."""
        self._lock = threading.Lock()

    def replace_sites(self, sites: Mapping[str, bytes]) -> None:
        """Serve these sites, by transport key, and from now on nobody else."""
        with self._lock:
            self._sites = {key: site for site, key in sites.items()}
            self._tokens = {key: left for key, left in self._tokens.items() if key in self._sites}

    def site_of(self, key: bytes) -> str | None:
        """Give the site whose transport key this is."""
        with self._lock:
            return self._sites.get(key)

    def admit(self, key: bytes, *, path: str, content_length: int | None) -> int | Refusal:
        """Give the largest body to read of this request, or say why it is not served.

        Args:
            key: of the certificate that the peer has proven to hold.
            path: as it stands in the request; a query or an escape makes it a path that does not exist.
            content_length: as announced; None: not announced.
        """
        with self._lock:
            if key not in self._sites:
                return NOT_ENROLLED
            if not self._has_token(key):
                return TOO_OFTEN
        most = self._body_bytes.get(path)
        if most is None:
            return NOT_FOUND
        return TOO_LARGE if (content_length or 0) > most else most

    def _has_token(self, key: bytes) -> bool:
        now_s, burst = self._clock(), float(self._limits.burst)
        left, since_s = self._tokens.get(key, (burst, now_s))
        left = min(burst, left + (now_s - since_s) * self._limits.requests_per_s)
        self._tokens[key] = (left - 1 if left >= 1 else left), now_s
        return left >= 1
