"""What waits for one site and what arrives from it. Bytes alone: nothing in here reads a message.

Covers: a site sees and answers what was put into its own box and nothing else; each answer holds at most so many
bytes, in at most so many objects, each with the hash that names it, and all of them together no more than there is
room for (`partsong.server.link.room`); what has expired is gone.
Does not cover: who the site is (`partsong.server.link.gate`) and whether an answer is genuine
(`partsong.common.identity.envelope`).

A question is handed over again and again until the site confirms it, and an answer may be begun again until it is
whole, so neither a lost connection nor a killed process loses a message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from partsong.server.link.room import Room

MOST_OBJECTS = 4096
"""Objects of one answer: 20 GB in the chunks that Flower makes."""


class NotAsked(Exception):
    """No question with that id waits for an answer here; nothing was taken."""


class TooMuch(Exception):
    """An answer is larger than this coordinator takes; what had arrived of it was thrown away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A message to the site."""

    id: str
    run: int
    """Flower's number of the run."""
    head: bytes = field(repr=False)
    """The message without its content, serialised."""
    tree: bytes = field(repr=False)
    """Which objects it is made of, serialised."""
    objects: Mapping[str, bytes] = field(repr=False)
    expires_s: float
    """On the clock of the box."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole answer, unread."""

    question: str
    root: str
    """Id of the object that holds the others."""
    objects: dict[str, bytes] = field(repr=False)
    """Empty where the answer was too large."""


@dataclass(kw_only=True, slots=True)
class _Slot:
    question: Question
    is_confirmed: bool = False
    root: str = ""
    wanted: frozenset[str] = frozenset()
    objects: dict[str, bytes] = field(default_factory=dict)
    size: int = 0
    began_s: float = 0.0
    """When the first of the objects arrived."""
    is_refused: bool = False

    @property
    def is_whole(self) -> bool:
        return self.is_refused or (bool(self.root) and len(self.objects) == len(self.wanted))

    @property
    def missing(self) -> list[str]:
        return sorted(self.wanted - self.objects.keys())

    def empty(self) -> int:
        """Throw away what has arrived; give how many bytes that was."""
        size, self.objects, self.size = self.size, {}, 0
        return size


class Postbox:
    """One site's box. Any thread may use it."""

    def __init__(self, *, max_message_bytes: int, room: Room, clock: Callable[[], float]) -> None:
        """Make an empty box.

        Args:
            max_message_bytes: most bytes in all objects of one answer.
            room: of the answers of all boxes.
            clock: seconds, never going back.
        """
        self.max_message_bytes, self._room, self._clock = max_message_bytes, room, clock
        self._slots: dict[str, _Slot] = {}
        self._lock = room.lock
        room.enter(self)

    def close(self) -> None:
        """Throw everything away; the box is not used any more."""
        with self._lock:
            for slot in self._slots.values():
                self._empty(slot)
            self._slots.clear()
            self._room.leave(self)

    def put(self, question: Question) -> None:
        """Let a question wait for the site."""
        with self._lock:
            self._sweep()
            self._slots.setdefault(question.id, _Slot(question=question))

    def next(self) -> Question | None:
        """Give the oldest question that the site has not confirmed."""
        with self._lock:
            self._sweep()
            waiting = (s.question for s in self._slots.values() if not s.is_confirmed and not s.is_whole)
            return next(waiting, None)

    def object(self, object_id: str) -> bytes | None:
        """Give a part of a question that waits here."""
        with self._lock:
            found = (s.question.objects.get(object_id) for s in self._slots.values() if not s.is_confirmed)
            return next((data for data in found if data is not None), None)

    def confirm(self, question_id: str) -> None:
        """Stop handing a question over: the site has it on disk.

        Raises:
            NotAsked: no such question waits. The site need not work on it: it has expired, or its coordinator was
                killed since and will ask anew.
        """
        with self._lock:
            slot = self._asked(question_id)
            slot.is_confirmed = True
            slot.question = replace(slot.question, head=b"", tree=b"", objects={})

    def begin(self, question_id: str, *, run: int, root: str, objects: Iterable[str]) -> list[str]:
        """Announce an answer and give the ids of what is missing of it; after a broken connection that is the rest.

        Raises:
            NotAsked: no such question of that run waits, or it was answered otherwise.
            TooMuch: too many objects.
        """
        wanted = frozenset(objects)
        with self._lock:
            slot = self._asked(question_id)
            if slot.question.run != run or root not in wanted or (slot.is_whole and slot.root != root):
                raise NotAsked
            if len(wanted) > MOST_OBJECTS:
                self._refuse(slot)
            if slot.root != root:
                slot.root, slot.wanted = root, wanted
                self._empty(slot)
            return slot.missing

    def add(self, question_id: str, *, object_id: str, content: bytes) -> bool:
        """Take one object of an answer; False where it was not announced or is not what its id says.

        Raises:
            NotAsked: no such question waits.
            TooMuch: the answer grows beyond what is taken.
            NoRoom: not now; it may be brought again later.
        """
        if hashlib.sha256(content).hexdigest() != object_id:
            return False
        with self._lock:
            slot = self._asked(question_id)
            if slot.is_refused:
                raise TooMuch
            if object_id not in slot.wanted:
                return False
            if object_id not in slot.objects:
                if slot.size + len(content) > self.max_message_bytes:
                    self._refuse(slot)
                self._room.take(self, len(content))
                slot.began_s = slot.began_s if slot.objects else self._clock()
                slot.objects[object_id] = content
                slot.size += len(content)
            return True

    def take(self, question_id: str) -> Answer | None:
        """Hand over and forget an answer, if it is whole."""
        with self._lock:
            self._sweep()
            slot = self._slots.get(question_id)
            if slot is None or not slot.is_whole:
                return None
            del self._slots[question_id]
            self._room.give(slot.size)
            self._room.was_whole(self)
        return Answer(question=question_id, root=slot.root, objects={} if slot.is_refused else slot.objects)

    def sweep(self) -> None:
        """Forget what has expired."""
        with self._lock:
            self._sweep()

    def oldest_unfinished_s(self) -> float | None:
        """When the oldest answer of which a part is here began; None: there is none."""
        with self._lock:
            oldest = self._oldest_unfinished()
            return None if oldest is None else oldest.began_s

    def throw_out(self) -> None:
        """Throw away what is here of that answer; it may be begun anew."""
        with self._lock:
            if (slot := self._oldest_unfinished()) is not None:
                self._empty(slot)

    def _oldest_unfinished(self) -> _Slot | None:
        begun = [slot for slot in self._slots.values() if slot.objects and not slot.is_whole]
        return min(begun, key=lambda slot: slot.began_s, default=None)

    def _empty(self, slot: _Slot) -> None:
        self._room.give(slot.empty())

    def _asked(self, question_id: str) -> _Slot:
        self._sweep()
        slot = self._slots.get(question_id)
        if slot is None:
            raise NotAsked
        return slot

    def _refuse(self, slot: _Slot) -> None:
        slot.is_refused = True
        self._empty(slot)
        raise TooMuch

    def _sweep(self) -> None:
        now_s = self._clock()
        for question_id, slot in list(self._slots.items()):
            if slot.question.expires_s <= now_s:
                self._empty(slot)
                del self._slots[question_id]
