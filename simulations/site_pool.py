"""Sites that are registered but asleep: one is started from its disk when a message comes for it.

Covers: a registered site costs its name and its address; at most `awake` sites are in memory, whatever their number.
Does not cover: a site that waits for its roster is not put to sleep in the middle of a round, as long as no more than
`awake` sites take part in it; the update of one that is would be given back to its ledger, unsealed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from partsong.client.secure_sum.door import Answer
from partsong.client.site import Site
from partsong.common import wire

Start = Callable[[str], tuple[Site, Callable[[], None]]]
"""Starts a site on its disk; gives it, and what lets go of its files."""


class SitePool:
    """The sites of one run. Each is used by one thread at a time."""

    def __init__(self, start: Start, *, awake: int) -> None:
        """Prepare; no site is started yet.

        Args:
            start: starts a site.
            awake: most sites in memory, >= 1.
        """
        self._start, self._most = start, awake
        self._awake: OrderedDict[str, tuple[Site, Callable[[], None]]] = OrderedDict()
        self._proposal: tuple[bytes, bytes] | None = None
        """Header and vector of the newest plan that was proposed: what a daemon keeps in its plan folder."""

    def __call__(self, name: str) -> _Woken:
        """Find a site."""
        return _Woken(self, name)

    @property
    def awake(self) -> int:
        """How many sites are in memory."""
        return len(self._awake)

    def restart(self, name: str) -> None:
        """End a site's process: nothing of its memory is left. The next message starts it, without a plan."""
        if name in self._awake:
            self._awake.pop(name)[1]()
            self._awake[name] = self._start(name)

    def close(self) -> None:
        """Let go of all files."""
        while self._awake:
            self._awake.popitem()[1][1]()

    def handle(self, name: str, header: bytes, *, vector: bytes, note: bytes) -> Answer:
        """Let a site answer, and put the one to sleep that was not asked for longest."""
        if wire.kind_of(header) == wire.Propose.kind:
            self._proposal = header, vector
        return self._site(name, proposed=wire.kind_of(header) == wire.Propose.kind).handle(
            header, vector=vector, note=note
        )

    def _site(self, name: str, *, proposed: bool) -> Site:
        if name in self._awake:
            self._awake.move_to_end(name)
            return self._awake[name][0]
        while len(self._awake) >= self._most:
            self._awake.popitem(last=False)[1][1]()
        self._awake[name] = self._start(name)
        site = self._awake[name][0]
        if not proposed and self._proposal is not None:
            header, vector = self._proposal
            site.handle(header, vector=vector)
        return site


class _Woken:
    """A site as the exchange sees it."""

    __slots__ = ("_name", "_pool")

    def __init__(self, pool: SitePool, name: str) -> None:
        self._pool, self._name = pool, name

    def handle(self, header: bytes, *, vector: bytes = b"", note: bytes = b"") -> Answer:
        """Answer one message."""
        return self._pool.handle(self._name, header, vector=vector, note=note)
