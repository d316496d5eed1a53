"""A site's presence at its coordinator: it reports, keeps reporting, asks again until it is answered, and says goodbye.

Covers: transport errors and 5xx are retried for as long as somebody may wait for the answer; a coordinator that lost
its memory gets this site back; the heartbeat goes on whatever else is done; the end waits for the network two seconds
at most, whatever the network does.
Does not cover: what is asked for and answered (`partsong.client.link.transport`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from partsong.client.home.private_files import write_private
from partsong.client.link.backoff import delays_s
from partsong.client.link.channel import Channel, Declined, Unreachable
from partsong.client.link.fleet import HEARTBEAT_S, FleetApi, Limits
from partsong.client.link.questions import Told, What
from partsong.common.errors import WireError

T = TypeVar("T")
PATIENCE_S = 1.0
"""At the end: for what is under way, and once more for the farewell."""
_BEAT_EVERY_S = 0.4 * HEARTBEAT_S
"""So that four in a row must be lost before the coordinator holds the site for lost, which it does after twice
`HEARTBEAT_S`."""


class Stopped(Exception):
    """The site is shutting down."""


class Gone(Exception):
    """Nobody waits for this message any longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Clock, waiting and chance of one connection."""

    clock: Callable[[], float]
    """Seconds since 1970."""
    wait: Callable[[threading.Event, float], object]
    """Waits for an event, at most so many seconds."""
    uniform: Callable[[], float]
    """Draws from [0, 1)."""

    @property
    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return int(self.clock() * 1000)


class Line:
    """A way to the coordinator, used by one thread at a time."""

    def __init__(self, channel: Channel, *, limits: Limits) -> None:
        """Use `channel`."""
        self.channel, self.api = channel, FleetApi(channel, limits=limits)
        self.is_down = False
        """Whether the last request over it was not answered."""


class Presence:
    """One site's, from `report` to `end`."""

    def __init__(
        self,
        *,
        dial: Callable[[], Line],
        node_file: Path,
        listen: Callable[[Told], None],
        stop: threading.Event,
        timing: Timing,
    ) -> None:
        """Set up; nothing is sent yet.

        Args:
            dial: makes a line.
            node_file: remembers what the coordinator's transport calls this site.
            listen: told what happens, from any thread.
            stop: ends every wait.
            timing: of this connection.
        """
        self._dial, self._node_file, self._listen = dial, node_file, listen
        self._stop, self._timing = stop, timing
        self._node: int | None = None
        self._activating, self._lending = threading.Lock(), threading.Lock()
        self._is_over = False
        self._lines: list[Line] = []
        self._free: list[Line] = []

    @property
    def node(self) -> int:
        """What the coordinator's transport calls this site."""
        if self._node is None:
            raise AssertionError("a site reports before it asks for anything")
        return self._node

    @contextlib.contextmanager
    def line(self) -> Iterator[Line]:
        """Lend a line for a block."""
        with self._lending:
            line = self._free.pop() if self._free else self._dial()
            if line not in self._lines:
                self._lines.append(line)
        try:
            yield line
        finally:
            with self._lending:
                self._free.append(line)
                if self._is_over:
                    line.channel.close()

    def report(self, line: Line, *, lost: int | None = None) -> None:
        """Report to the coordinator until it takes this site.

        Args:
            line: to speak over.
            lost: what the site was called when somebody noticed that it has to report again; where another thread has
                done so since, nothing is done.
        """
        with self._activating:
            if self._node != lost:
                return
            for delay_s in delays_s(self._timing.uniform):
                try:
                    self._node = self._admitted(line.api)
                except Unreachable as err:
                    self._tell_down(line, str(err), wait_s=delay_s)
                except (Declined, WireError) as no:
                    self.tell("refused", reason=str(no), wait_s=delay_s)
                else:
                    write_private(self._node_file, f"{self._node}\n".encode())
                    line.is_down = False
                    self.tell("connected")
                    return
                self.pause(delay_s)

    def persist(
        self, line: Line, request: Callable[[FleetApi], T], *, node: int | None = None, until_ms: int | None = None
    ) -> T:
        """Make a request until it is answered.

        Args:
            line: to make it over.
            request: to be made.
            node: what this site was called when the message came; None: the request is about no message.
            until_ms: when nobody waits any longer; None: somebody always does.
        Raises:
            Gone: nobody waits for this message any longer.
            Stopped: it was not answered yet.
            WireError: the answer is malformed.
        """
        for delay_s in delays_s(self._timing.uniform):
            asked_as = self._node
            if node not in (None, asked_as):
                raise Gone("the coordinator has started anew")
            try:
                answer = request(line.api)
            except Unreachable as err:
                self._require_going_on()
                if until_ms is not None and self._timing.now_ms > until_ms:
                    raise Gone("its time is over") from err
                wait_s = err.after_s + delay_s
                self._tell_down(line, str(err), wait_s=wait_s)
                self.pause(wait_s)
            except Declined as no:
                if no.is_stranger or node is None:
                    self.report(line, lost=asked_as)
                    self.pause(delay_s)
                else:
                    raise Gone(str(no)) from no
            else:
                self._require_going_on()
                self._tell_up(line)
                return answer
        raise AssertionError("delays never end")

    def keep_beating(self) -> None:
        """Send heartbeats until the site stops, whatever happens."""
        with self.line() as line:
            while not self._stop.is_set():
                try:
                    self.pause(_BEAT_EVERY_S * (0.8 + 0.4 * self._timing.uniform()))
                    self._beat(line)
                except Stopped:
                    return
                except Exception as err:  # noqa: BLE001 - without this thread the site is held for lost
                    with contextlib.suppress(Exception):
                        self.tell("heartbeat_failed", reason=type(err).__name__, error=err)

    def pause(self, seconds: float) -> None:
        """Wait so long.

        Raises:
            Stopped: the site stops.
        """
        self._timing.wait(self._stop, seconds)
        if self._stop.is_set():
            raise Stopped

    def end(self, *threads: threading.Thread) -> None:
        """Tell the coordinator, which otherwise waits a minute before it holds the site for lost, and close all lines.

        Guarantees: returns within twice `PATIENCE_S`. What the network has not answered by then is left to itself: it
            is ended with its line, and nothing is written or told any more.
        Args:
            threads: that use lines; they end by themselves once `stop` is set and their request is answered.
        """
        _join(threads, PATIENCE_S / 2)
        with self._lending:
            self._is_over = True
            for line in self._lines:
                (line.channel.close if line in self._free else line.channel.cut)()
        _join(threads, PATIENCE_S / 2)
        if self._node is not None:
            farewell = threading.Thread(target=self._leave, args=(self._node,), daemon=True)
            farewell.start()
            _join((farewell,), PATIENCE_S)

    def tell(
        self,
        what: What,
        message: bytes = b"",
        *,
        reason: str = "",
        rule: str = "",
        wait_s: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        """Tell whoever listens, until the end."""
        if not self._is_over:
            self._listen(Told(what=what, message=message.hex(), reason=reason, rule=rule, wait_s=wait_s, error=error))

    def _leave(self, node: int) -> None:
        line = self._dial()
        with contextlib.suppress(Unreachable, Declined, WireError):
            line.api.deactivate(node)
        line.channel.close()

    def _admitted(self, api: FleetApi) -> int:
        """Report once. A coordinator that still holds the killed process for connected refuses; it takes a heartbeat
        of the same site, though.
        """
        try:
            return api.activate()
        except Declined:
            stored = self._stored_node()
            if stored is None or not api.beat(stored):
                raise
            self.tell("resumed")
            return stored

    def _stored_node(self) -> int | None:
        try:
            return int(self._node_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _beat(self, line: Line) -> None:
        asked_as = self.node
        try:
            is_known = line.api.beat(asked_as)
        except Declined:
            is_known = False
        if not is_known:
            self.report(line, lost=asked_as)

    def _require_going_on(self) -> None:
        """After the end nobody may act on an answer: the directory may be another process's by now."""
        if self._is_over:
            raise Stopped

    def _tell_down(self, line: Line, reason: str, *, wait_s: float) -> None:
        line.is_down = True
        self.tell("unreachable", reason=reason, wait_s=wait_s)

    def _tell_up(self, line: Line) -> None:
        """After an outage, report at once: a coordinator that was started again has not heard of this site yet."""
        if line.is_down:
            with contextlib.suppress(Unreachable, Declined, WireError):
                line.api.beat(self.node)
            line.is_down = False
            self.tell("connected")


def _join(threads: tuple[threading.Thread, ...], seconds: float) -> None:
    """Wait so long for all of them together; one that was never started has ended."""
    end_s = time.monotonic() + seconds
    for thread in threads:
        if thread.ident is not None:
            thread.join(max(0.0, end_s - time.monotonic()))
