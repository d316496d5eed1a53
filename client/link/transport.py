"""A site's connection: takes questions from the coordinator, has them answered, and brings the answers there.

A question is announced and kept in the inbox before it is confirmed; an answer is kept in the outbox before its first
byte goes out. A site that is killed at any moment goes on from these two, so a question is answered once, with one set
of bytes, whatever the network and the machine do meanwhile.

Covers: nothing listens here; transport errors and 5xx are retried for as long as somebody may wait for the answer; a
coordinator that lost its memory gets this site back; the heartbeat goes on while a question takes hours to answer.
Does not cover: a process killed after the site has answered but before the answer was kept: the site is asked again,
which `Site` and its ledger are made for. And where a stock SuperLink of Flower is on the other side, a message whose
announcement was lost on its way: it is not offered again, and the coordinator notices after the phase's deadline.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from partsong.client.home.private_files import write_private
from partsong.client.link.backoff import delays_s
from partsong.client.link.channel import Channel, ClientTls, Declined, Unreachable
from partsong.client.link.fleet import HEARTBEAT_S, FleetApi, Limits, Opened, Unfit, open_delivery, seal_reply
from partsong.client.link.inbox import Delivery, Inbox, Notice, Part
from partsong.client.link.outbox import MEMORY_S, Outbox, Outgoing
from partsong.client.link.questions import Handle, Reply, Told, What
from partsong.common.errors import WireError

__all__ = ["ClientTls", "FleetConnection", "Limits"]

T = TypeVar("T")
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.1, 1.0
"""Between two looks for a message."""
_BEAT_EVERY_S = 0.4 * HEARTBEAT_S
"""So that four in a row must be lost before the coordinator holds the site for lost, which it does after twice
`HEARTBEAT_S`."""
_STRAY_MS = MEMORY_S * 1000 // 4
"""A question's own time may be this far from the site's: it is then known for longer than it can come."""


class _Stopped(Exception):
    """The site is shutting down."""


class _Gone(Exception):
    """Nobody waits for this message any longer."""


class FleetConnection:
    """One site's connection to its coordinator."""

    def __init__(
        self,
        *,
        address: str,
        tls: ClientTls,
        proxy: str | None,
        node_file: Path,
        inbox: Inbox,
        outbox: Outbox,
        listen: Callable[[Told], None],
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """Set up; nothing is sent before `run`.

        Args:
            address: host:port of the coordinator.
            tls: files of this site.
            proxy: `http://host:port`, or None for the environment's.
            node_file: remembers what the coordinator's transport calls this site.
            inbox: of questions.
            outbox: of answers.
            listen: told what happens, from two threads.
            limits: on what is taken.
            clock: seconds since 1970.
            wait: waits for an event, at most so many seconds.
            uniform: draws from [0, 1).
        Raises:
            InputError: the TLS files cannot be used.
        """
        self._limits = limits or Limits()
        self._inbox, self._outbox, self._node_file = inbox, outbox, node_file
        self._listen, self._clock, self._wait, self._uniform = listen, clock, wait, uniform
        self._channels = [Channel(address=address, tls=tls, proxy=proxy, clock=clock) for _ in range(2)]
        self._api, self._beats = (FleetApi(channel, limits=self._limits) for channel in self._channels)
        self._node: int | None = None
        self._activating = threading.Lock()
        self._is_down = False
        self._stop = threading.Event()

    def run(self, handle: Handle, *, stop: threading.Event) -> None:
        """Answer questions until `stop` is set. One at a time.

        Guarantees: returns within one request's time after `stop`, or one call of `handle`; whatever was not sent
            then is sent by the next run.
        Args:
            handle: see `Handle`.
            stop: may be set from anywhere; is set when this raises.
        Raises:
            TryAgain: the disk is full. What was not kept is asked for or answered again by the next run.
        """
        self._stop, self._node = stop, None
        heart = threading.Thread(target=self._keep_beating, name="partsong heartbeat", daemon=True)
        try:
            self._activate(self._api, lost=None)
            heart.start()
            self._work(handle)
        except _Stopped:
            pass
        finally:
            stop.set()
            if heart.ident is not None:
                heart.join()
            self._leave()
            for channel in self._channels:
                channel.close()

    def _work(self, handle: Handle) -> None:
        pause_s = _FIRST_LOOK_S
        while not self._stop.is_set():
            if self._step(handle):
                pause_s = _FIRST_LOOK_S
            else:
                self._pause(pause_s)
                pause_s = min(pause_s * 1.5, _LONGEST_LOOK_S)
        raise _Stopped

    def _step(self, handle: Handle) -> bool:
        """Do the one thing that is nearest to an answer's arrival. False: there is nothing to do."""
        if answer := next(self._outbox.waiting(), None):
            self._send(answer)
        elif delivery := next(self._inbox.deliveries(), None):
            self._answer(delivery, handle)
        elif notice := next(self._inbox.announced(), None) or self._look():
            self._fetch(notice)
        else:
            self._outbox.tidy()
            return False
        return True

    def _look(self) -> Notice | None:
        """Ask for a message and write down what it is made of."""
        try:
            notice = self._persist(lambda: self._api.pull(self._known_node(), now_ms=self._now_ms()))
        except Unfit as no:
            self._refuse(no.notice, no)
            return None
        except WireError as err:
            self._tell("dropped", reason=str(err), rule=err.rule)
            return None
        if notice is not None:
            self._inbox.announce(notice)
        return notice

    def _fetch(self, notice: Notice) -> None:
        """Bring a message here, whole."""
        with self._dropping(notice):
            if self._outbox.answered(notice.message):
                self._repeat(notice)
                return
            contents, left = [], self._limits.message_bytes
            for part in notice.parts:
                content = self._part(notice, part, most_bytes=left)
                left -= len(content)
                contents.append(content)
            delivery = Delivery(notice=notice, contents=tuple(contents))
            delivery.check()
            self._tell("arrived", notice.message)
            self._inbox.keep(delivery)
            self._tell("journaled", notice.message)

    def _part(self, notice: Notice, part: Part, *, most_bytes: int) -> bytes:
        def pull() -> bytes:
            content = self._api.pull_part(notice, part, most_bytes=most_bytes)
            if content is None:
                raise Unreachable("coordinator: a part of the message is not there yet")
            return content

        return self._persist(pull, node=notice.node, until_ms=notice.expires_ms)

    def _answer(self, delivery: Delivery, handle: Handle) -> None:
        """Confirm a message, have it answered and keep the answer."""
        notice = delivery.notice
        with self._dropping(notice):
            if self._outbox.answered(notice.message):
                self._repeat(notice)
                return
            opened = open_delivery(delivery, limits=self._limits)
            self._check_time(opened, notice)
            self._persist(lambda: self._api.confirm(notice), node=notice.node, until_ms=opened.expires_ms)
            self._tell("confirmed", notice.message)
            reply = self._handled(handle, opened)
            self._outbox.keep(seal_reply(opened, reply))
            self._tell("kept", notice.message)
            self._inbox.erase(notice)

    def _handled(self, handle: Handle, opened: Opened) -> Reply | None:
        message = bytes.fromhex(opened.question.message)
        try:
            reply = handle(opened.question)
        except Exception as err:  # noqa: BLE001 - every kind of error, so that none reaches the coordinator
            self._tell("failed", message, error=err)
            return None
        self._tell("handled", message)
        return reply

    def _repeat(self, notice: Notice) -> None:
        """A question that was answered came again: the same bytes go out, if they are still here."""
        self._tell("repeated", notice.message)
        answer = self._outbox.find(notice.message)
        self._persist(lambda: self._api.confirm(notice), node=notice.node, until_ms=notice.expires_ms)
        if answer is not None:
            self._send(answer)
        self._inbox.erase(notice)

    def _send(self, answer: Outgoing) -> None:
        """Bring an answer to the coordinator."""
        try:
            self._persist(lambda: self._push(answer), node=answer.node, until_ms=answer.expires_ms)
        except (_Gone, WireError) as gone:
            self._outbox.drop(answer.question)
            self._tell("dropped", answer.question, reason=str(gone))
        else:
            self._outbox.sent(answer.question)
            self._tell("sent", answer.question)

    def _push(self, answer: Outgoing) -> None:
        """Send those parts that the coordinator lacks; after an interruption that is the rest."""
        session, lacking = self._api.push(answer)
        for part in answer.parts:
            if part.name in lacking:
                self._tell("sending", answer.question)
                if not self._api.push_part(answer, part, session=session):
                    raise Unreachable("coordinator: the upload's session is over")

    def _persist(self, request: Callable[[], T], *, node: int | None = None, until_ms: int | None = None) -> T:
        """Make a request until it is answered.

        Args:
            request: on the main thread's connection.
            node: what this site was called when the message came; None: the request is about no message.
            until_ms: when nobody waits any longer; None: somebody always does.
        Raises:
            _Gone: nobody waits for this message any longer.
            _Stopped: it was not answered yet.
            WireError: the answer is malformed.
        """
        for delay_s in delays_s(self._uniform):
            asked_as = self._node
            if node not in (None, asked_as):
                raise _Gone("the coordinator has started anew")
            try:
                answer = request()
            except Unreachable as err:
                if until_ms is not None and self._now_ms() > until_ms:
                    raise _Gone("its time is over") from err
                wait_s = err.after_s + delay_s
                self._tell_down(str(err), wait_s=wait_s)
                self._pause(wait_s)
            except Declined as no:
                if no.is_stranger or node is None:
                    self._activate(self._api, lost=asked_as)
                    self._pause(delay_s)
                else:
                    raise _Gone(str(no)) from no
            else:
                self._tell_up()
                return answer
        raise AssertionError("delays never end")

    def _activate(self, api: FleetApi, *, lost: int | None) -> None:
        """Report to the coordinator until it takes this site. Does nothing if the other thread has done so since."""
        with self._activating:
            if self._node != lost:
                return
            for delay_s in delays_s(self._uniform):
                try:
                    self._node = self._admitted(api)
                except Unreachable as err:
                    self._tell_down(str(err), wait_s=delay_s)
                except (Declined, WireError) as no:
                    self._tell("refused", reason=str(no), wait_s=delay_s)
                else:
                    write_private(self._node_file, f"{self._node}\n".encode())
                    self._is_down = False
                    self._tell("connected")
                    return
                self._pause(delay_s)

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
            self._tell("resumed")
            return stored

    def _stored_node(self) -> int | None:
        try:
            return int(self._node_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _keep_beating(self) -> None:
        """Send heartbeats until the site stops, whatever happens."""
        while not self._stop.is_set():
            try:
                self._pause(_BEAT_EVERY_S * (0.8 + 0.4 * self._uniform()))
                self._beat()
            except _Stopped:
                return
            except Exception as err:  # noqa: BLE001 - without this thread the site is held for lost
                with contextlib.suppress(Exception):
                    self._tell("heartbeat_failed", reason=type(err).__name__, error=err)

    def _beat(self) -> None:
        asked_as = self._known_node()
        try:
            is_known = self._beats.beat(asked_as)
        except Declined:
            is_known = False
        if not is_known:
            self._activate(self._beats, lost=asked_as)

    def _leave(self) -> None:
        """Tell the coordinator, which otherwise waits a minute before it holds the site for lost."""
        if self._node is not None:
            with contextlib.suppress(Unreachable, Declined, WireError):
                self._api.deactivate(self._node)

    def _check_time(self, opened: Opened, notice: Notice) -> None:
        if self._now_ms() > opened.expires_ms:
            raise _Gone("its time is over")
        if abs(notice.arrived_ms - opened.created_ms) > _STRAY_MS:
            raise _Gone("it is dated further off than this site remembers")

    @contextlib.contextmanager
    def _dropping(self, notice: Notice) -> Iterator[None]:
        """Forget a message that cannot be answered."""
        try:
            yield
        except (_Gone, WireError) as gone:
            self._refuse(notice, gone)

    def _refuse(self, notice: Notice, why: _Gone | WireError) -> None:
        """Forget a message, and have the coordinator not offer it again."""
        self._inbox.erase(notice)
        with contextlib.suppress(Unreachable, Declined, WireError):
            self._api.confirm(notice)
        self._tell("dropped", notice.message, reason=str(why), rule=why.rule if isinstance(why, WireError) else "")

    def _known_node(self) -> int:
        if self._node is None:
            raise AssertionError("run activates before it asks for anything")
        return self._node

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _pause(self, seconds: float) -> None:
        self._wait(self._stop, seconds)
        if self._stop.is_set():
            raise _Stopped

    def _tell_down(self, reason: str, *, wait_s: float) -> None:
        self._is_down = True
        self._tell("unreachable", reason=reason, wait_s=wait_s)

    def _tell_up(self) -> None:
        """After an outage, report at once: a coordinator that was started again has not heard of this site yet."""
        if self._is_down:
            with contextlib.suppress(Unreachable, Declined, WireError):
                self._api.beat(self._known_node())
            self._is_down = False
            self._tell("connected")

    def _tell(
        self,
        what: What,
        message: bytes = b"",
        *,
        reason: str = "",
        rule: str = "",
        wait_s: float = 0.0,
        error: Exception | None = None,
    ) -> None:
        self._listen(Told(what=what, message=message.hex(), reason=reason, rule=rule, wait_s=wait_s, error=error))
