"""A site's connection: takes questions from the coordinator, has them answered, and brings the answers there.

A question is announced and kept in the inbox before it is confirmed; an answer is kept in the outbox before its first
byte goes out. A site that is killed at any moment goes on from these two, so a question is answered once, with one set
of bytes, whatever the network and the machine do meanwhile.

Questions of one run are answered one after the other; those of another run do not wait for them, and a long upload
keeps no other answer back.

Covers: nothing listens here; requests are repeated for as long as somebody may wait for the answer
(`partsong.client.link.presence`); no two questions of one run are ever worked on at once.
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
from functools import partial
from pathlib import Path

from partsong.client.link.channel import Channel, ClientTls, Declined, Unreachable
from partsong.client.link.fleet import FleetApi, Limits, Opened, Unfit, open_delivery, seal_reply
from partsong.client.link.inbox import Delivery, Inbox, Notice, Part
from partsong.client.link.lanes import Lanes
from partsong.client.link.outbox import MEMORY_S, Outbox, Outgoing
from partsong.client.link.presence import PATIENCE_S, Gone, Line, Presence, Stopped, Timing
from partsong.client.link.questions import Handle, Reply, Told
from partsong.common.errors import WireError

__all__ = ["ClientTls", "FleetConnection", "Limits"]

_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.1, 1.0
"""Between two looks for a message."""
_STRAY_MS = MEMORY_S * 1000 // 4
"""A question's own time may be this far from the site's: it is then known for longer than it can come."""


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
            listen: told what happens, from any thread.
            limits: on what is taken.
            clock: seconds since 1970.
            wait: waits for an event, at most so many seconds.
            uniform: draws from [0, 1).
        Raises:
            InputError: the TLS files cannot be used.
        """
        self._limits, self._timing = limits or Limits(), Timing(clock=clock, wait=wait, uniform=uniform)
        self._inbox, self._outbox, self._node_file, self._listen = inbox, outbox, node_file, listen
        self._channel = Channel(address=address, tls=tls, proxy=proxy, clock=clock)
        self._changed = threading.Condition()
        self._in_hand: set[bytes] = set()
        """Questions that a lane has, waiting or at work."""
        self._answering = 0
        self._is_ending = False
        self._error: BaseException | None = None

    def run(self, handle: Handle, *, stop: threading.Event) -> None:
        """Answer questions until `stop` is set.

        Guarantees: returns within three seconds after `stop` and the calls of `handle` that are under way;
            whatever was not sent then is sent by the next run.
        Args:
            handle: see `Handle`; called from several threads, for one question of a run at a time.
            stop: may be set from anywhere; is set when this raises.
        Raises:
            TryAgain: the disk is full. What was not kept is asked for or answered again by the next run.
        """
        self._stop, self._in_hand, self._is_ending, self._error = stop, set(), False, None
        self._presence = Presence(
            dial=lambda: Line(self._channel.twin(), limits=self._limits),
            node_file=self._node_file,
            listen=self._listen,
            stop=stop,
            timing=self._timing,
        )
        self._lanes = Lanes(failed=self._failed)
        questions = threading.Thread(target=self._receive, args=(handle,), name="questions", daemon=True)
        heart = threading.Thread(target=self._presence.keep_beating, name="heartbeat", daemon=True)
        self._heart = heart
        try:
            questions.start()
            stop.wait()
        finally:
            stop.set()
            self._wait_for_answers()
            self._lanes.close(timeout_s=PATIENCE_S)
            self._presence.end(questions, heart)
        if self._error is not None:
            raise self._error

    def _receive(self, handle: Handle) -> None:
        """Take questions until the site stops; the thread that does nothing else."""
        try:
            with self._presence.line() as line:
                self._presence.report(line)
                self._heart.start()
                self._send_left()
                self._work(line, handle)
        except Stopped:
            return
        except BaseException as err:  # noqa: BLE001 - raised where `run` was called
            self._failed(err)

    def _failed(self, error: BaseException) -> None:
        """End the run with the first error."""
        with self._changed:
            if self._error is None and not isinstance(error, Stopped):
                self._error = error
        self._stop.set()

    def _work(self, line: Line, handle: Handle) -> None:
        pause_s = _FIRST_LOOK_S
        while not self._stop.is_set():
            if self._step(line, handle):
                pause_s = _FIRST_LOOK_S
            else:
                self._presence.pause(pause_s)
                pause_s = min(pause_s * 1.5, _LONGEST_LOOK_S)

    def _step(self, line: Line, handle: Handle) -> bool:
        """Do the one thing that is nearest to an answer. False: there is nothing to do."""
        in_hand = self._held()  # first: what a lane is done with meanwhile is not in the folder any more
        if delivery := next(self._inbox.deliveries(besides=in_hand), None):
            self._take(line, delivery, handle)
        elif notice := next(self._inbox.announced(besides=in_hand), None) or self._look(line):
            self._fetch(line, notice)
        else:
            self._outbox.tidy()
            return False
        return True

    def _look(self, line: Line) -> Notice | None:
        """Ask for a message and write down what it is made of."""
        presence = self._presence
        try:
            notice = presence.persist(line, lambda api: api.pull(presence.node, clock_ms=lambda: self._timing.now_ms))
        except Unfit as no:
            self._refuse(line, no.notice, no)
            return None
        except WireError as err:
            presence.tell("dropped", reason=str(err), rule=err.rule)
            return None
        if notice is not None and notice.message in self._held():
            with contextlib.suppress(Unreachable, Declined, WireError):
                line.api.confirm(notice)
            return None
        if notice is not None:
            self._inbox.announce(notice)
        return notice

    def _fetch(self, line: Line, notice: Notice) -> None:
        """Bring a message here, whole."""
        with self._dropping(line, notice):
            if self._outbox.answered(notice.message):
                self._repeat(line, notice)
                return
            contents, left = [], self._limits.message_bytes
            for part in notice.parts:
                content = self._part(line, notice, part, most_bytes=left)
                left -= len(content)
                contents.append(content)
            delivery = Delivery(notice=notice, contents=tuple(contents))
            delivery.check()
            self._presence.tell("arrived", notice.message)
            self._inbox.keep(delivery)
            self._presence.tell("journaled", notice.message)

    def _part(self, line: Line, notice: Notice, part: Part, *, most_bytes: int) -> bytes:
        def pull(api: FleetApi) -> bytes:
            content = api.pull_part(notice, part, most_bytes=most_bytes)
            if content is None:
                raise Unreachable("coordinator: a part of the message is not there yet")
            return content

        return self._presence.persist(line, pull, node=notice.node, until_ms=notice.expires_ms)

    def _take(self, line: Line, delivery: Delivery, handle: Handle) -> None:
        """Confirm a message and put it into the lane of its run."""
        notice = delivery.notice
        with self._dropping(line, notice):
            if self._outbox.answered(notice.message):
                self._repeat(line, notice)
                return
            opened = open_delivery(delivery, limits=self._limits)
            self._check_time(opened, notice)
            self._confirm(line, notice, until_ms=opened.expires_ms)
            self._presence.tell("confirmed", notice.message)
            self._hold(notice, partial(self._answer, opened, notice, handle))

    def _confirm(self, line: Line, notice: Notice, *, until_ms: int) -> None:
        self._presence.persist(line, lambda api: api.confirm(notice), node=notice.node, until_ms=until_ms)

    def _answer(self, opened: Opened, notice: Notice, handle: Handle) -> None:
        """Have a message answered, keep the answer and bring it to the coordinator; in the lane of its run."""
        with self._at_work():
            if self._timing.now_ms > opened.expires_ms:
                self._inbox.erase(notice)
                self._presence.tell("dropped", notice.message, reason="its time is over")
                return
            answer = seal_reply(opened, self._handled(handle, opened))
            self._outbox.keep(answer)
            self._presence.tell("kept", notice.message)
            self._inbox.erase(notice)
        self._send(answer)

    def _handled(self, handle: Handle, opened: Opened) -> Reply | None:
        message = bytes.fromhex(opened.question.message)
        try:
            reply = handle(opened.question)
        except Exception as err:  # noqa: BLE001 - every kind of error, so that none reaches the coordinator
            self._presence.tell("failed", message, error=err)
            return None
        self._presence.tell("handled", message)
        return reply

    def _repeat(self, line: Line, notice: Notice) -> None:
        """A question that was answered came again: the same bytes go out, if they are still here."""
        self._presence.tell("repeated", notice.message)
        self._confirm(line, notice, until_ms=notice.expires_ms)

        def again() -> None:
            answer = self._outbox.find(notice.message)
            if answer is not None:
                self._send(answer)
            self._inbox.erase(notice)

        self._hold(notice, again)

    def _send_left(self) -> None:
        """Send what an earlier run has left."""
        for answer in tuple(self._outbox.waiting()):
            self._lanes.put(answer.run, partial(self._send, answer))

    def _send(self, answer: Outgoing) -> None:
        """Bring an answer to the coordinator."""
        try:
            with self._presence.line() as line:
                self._presence.persist(
                    line, lambda api: self._push(api, answer), node=answer.node, until_ms=answer.expires_ms
                )
        except (Gone, WireError) as gone:
            self._outbox.drop(answer.question)
            self._presence.tell("dropped", answer.question, reason=str(gone))
        else:
            self._outbox.sent(answer.question)
            self._presence.tell("sent", answer.question)

    def _push(self, api: FleetApi, answer: Outgoing) -> None:
        """Send those parts that the coordinator lacks; after an interruption that is the rest."""
        session, lacking = api.push(answer)
        for part in answer.parts:
            if part.name in lacking:
                self._presence.tell("sending", answer.question)
                if not api.push_part(answer, part, session=session):
                    raise Unreachable("coordinator: the upload's session is over")

    def _check_time(self, opened: Opened, notice: Notice) -> None:
        if self._timing.now_ms > opened.expires_ms:
            raise Gone("its time is over")
        if abs(notice.arrived_ms - opened.created_ms) > _STRAY_MS:
            raise Gone("it is dated further off than this site remembers")

    @contextlib.contextmanager
    def _dropping(self, line: Line, notice: Notice) -> Iterator[None]:
        """Forget a message that cannot be answered."""
        try:
            yield
        except (Gone, WireError) as gone:
            self._refuse(line, notice, gone)

    def _refuse(self, line: Line, notice: Notice, why: Gone | WireError) -> None:
        """Forget a message, and have the coordinator not offer it again."""
        self._inbox.erase(notice)
        with contextlib.suppress(Unreachable, Declined, WireError):
            line.api.confirm(notice)
        rule = why.rule if isinstance(why, WireError) else ""
        self._presence.tell("dropped", notice.message, reason=str(why), rule=rule)

    def _held(self) -> frozenset[bytes]:
        with self._changed:
            return frozenset(self._in_hand)

    def _hold(self, notice: Notice, work: Callable[[], None]) -> None:
        """Put work on a question into the lane of its run."""

        def until_done() -> None:
            work()  # where it fails the run ends, and nobody takes the question up before the next one
            with self._changed:
                self._in_hand.discard(notice.message)

        with self._changed:
            self._in_hand.add(notice.message)
        self._lanes.put(notice.run, until_done)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Have the end of the run wait for a block, which does not begin after it."""
        with self._changed:
            if self._is_ending:
                raise Stopped
            self._answering += 1
        try:
            yield
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()

    def _wait_for_answers(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.wait_for(lambda: self._answering == 0)
