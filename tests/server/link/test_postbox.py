"""What waits for a site and what arrives from it."""

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.server.link.postbox import MOST_OBJECTS, Answer, NotAsked, Postbox, Question, TooMuch
from partsong.server.link.room import Room


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def question(name: str = "q", *, expires_s: float = 10.0, **objects: bytes) -> Question:
    return Question(id=name, run=7, head=b"head", tree=b"tree", objects=objects, expires_s=expires_s)


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def box(*questions: Question, most: int = 100, clock: Clock | None = None) -> Postbox:
    made = Postbox(
        max_message_bytes=most, room=Room(most_bytes=1 << 30, lease_s=1.0, clock=lambda: 0.0), clock=clock or Clock()
    )
    for each in questions:
        made.put(each)
    return made


def test_questions_come_in_order_until_they_are_confirmed() -> None:
    """The oldest first, again and again."""
    made = box(question("a"), question("b"))

    seen = [made.next(), made.next()]
    made.confirm("a")
    seen.append(made.next())
    made.confirm("b")
    seen.append(made.next())

    assert [q.id if q else None for q in seen] == ["a", "a", "b", None]


def test_a_question_that_does_not_wait_cannot_be_confirmed() -> None:
    """Of a coordinator's former life, expired, or answered and taken: the site learns that nobody waits for it."""
    clock = Clock()
    made = box(question("late", expires_s=5.0), question("a"), clock=clock)
    root = name_of(b"r")
    made.confirm("a")
    made.confirm("a")
    made.begin("a", run=7, root=root, objects=[root])
    made.add("a", object_id=root, content=b"r")
    made.take("a")
    clock.now_s = 5.0

    for name in ("a", "late", "of another life"):
        with pytest.raises(NotAsked):
            made.confirm(name)


def test_objects_are_there_until_the_question_is_confirmed() -> None:
    """Afterwards the site has them on disk."""
    made = box(question("a", x=b"1"), question("b", x=b"1", y=b"2"))

    before = [made.object("x"), made.object("y"), made.object("z")]
    made.confirm("b")

    assert before == [b"1", b"2", None]
    assert [made.object("x"), made.object("y")] == [b"1", None]


def test_a_question_that_expired_is_gone() -> None:
    """With whatever had arrived of its answer."""
    clock = Clock()
    made = box(question(expires_s=5.0), clock=clock)
    root = name_of(b"r")
    made.begin("q", run=7, root=root, objects=[root])

    clock.now_s = 5.0

    assert made.next() is None
    with pytest.raises(NotAsked):
        made.add("q", object_id=root, content=b"r")
    assert made.take("q") is None


@given(
    parts=st.lists(st.binary(max_size=8), min_size=1, max_size=6, unique=True),
    sends=st.lists(st.integers(0, 5), max_size=20),
    again=st.integers(0, 20),
)
@settings(deadline=None)
def test_an_answer_is_whole_exactly_when_all_its_objects_have_arrived(
    parts: list[bytes], sends: list[int], again: int
) -> None:
    """In any order, any of them twice, announced anew in between."""
    made, ids = box(question()), [name_of(p) for p in parts]
    made.begin("q", run=7, root=ids[0], objects=ids)
    arrived = set()
    for step, i in enumerate(sends):
        if step == again:
            assert made.begin("q", run=7, root=ids[0], objects=ids) == sorted(set(ids) - arrived)
        part = parts[i % len(parts)]
        assert made.add("q", object_id=name_of(part), content=part)
        arrived.add(name_of(part))

    taken = made.take("q")

    whole = Answer(question="q", root=ids[0], objects=dict(zip(ids, parts, strict=True)))
    assert taken == (whole if arrived == set(ids) else None)
    assert (made.take("q"), made.next() is None) == (None, taken is not None)


def half_sent(size: int) -> tuple[Postbox, list[str], bytes]:
    """A box that takes 100 bytes, with 60 of so many bytes of an answer; the ids and the rest."""
    first, rest = b"a" * 60, b"b" * (size - 60)
    made, ids = box(question(), most=100), [name_of(first), name_of(rest)]
    made.begin("q", run=7, root=ids[0], objects=ids)
    made.add("q", object_id=ids[0], content=first)
    return made, ids, rest


@pytest.mark.parametrize("size", [99, 100])
def test_an_answer_within_the_limit_is_taken(size: int) -> None:
    """The limit is for all its objects together."""
    made, ids, rest = half_sent(size)

    assert made.add("q", object_id=ids[1], content=rest)

    taken = made.take("q")
    assert taken is not None
    assert sum(map(len, taken.objects.values())) == size


def test_an_answer_beyond_the_limit_is_thrown_away() -> None:
    """With everything that had arrived of it, and nothing more is taken."""
    made, ids, rest = half_sent(101)

    for object_id, content in ((ids[1], rest), (ids[0], b"a" * 60)):
        with pytest.raises(TooMuch):
            made.add("q", object_id=object_id, content=content)

    assert made.take("q") == Answer(question="q", root=ids[0], objects={})


@pytest.mark.parametrize("more", [0, 1])
def test_an_answer_holds_so_many_objects(more: int) -> None:
    """Ids alone cost memory."""
    made, ids = box(question()), [f"{i:064x}" for i in range(MOST_OBJECTS + more)]

    if more:
        with pytest.raises(TooMuch):
            made.begin("q", run=7, root=ids[0], objects=ids)
        assert made.take("q") == Answer(question="q", root="", objects={})
    else:
        assert made.begin("q", run=7, root=ids[0], objects=ids) == ids


BAD: list[dict[str, Any]] = [
    {"question_id": "other"},
    {"run": 8},
    {"root": "f" * 64},
]


@pytest.mark.parametrize("changes", BAD)
def test_an_answer_to_nothing_is_refused(changes: dict[str, Any]) -> None:
    """Another question, another run, or a root that is not among the objects."""
    made = box(question())
    values = {"question_id": "q", "run": 7, "root": "a" * 64, "objects": ["a" * 64]} | changes

    with pytest.raises(NotAsked):
        made.begin(values.pop("question_id"), **values)


def test_what_was_not_announced_is_not_stored() -> None:
    """And neither is what does not have the hash that names it."""
    made = box(question())
    root = name_of(b"r")
    made.begin("q", run=7, root=root, objects=[root])

    stored = [made.add("q", object_id=i, content=c) for i, c in ((name_of(b"s"), b"s"), (root, b"s"), (root, b"r"))]

    assert stored == [False, False, True]


def test_a_whole_answer_stays_and_an_unfinished_one_may_be_replaced() -> None:
    """A site that made its answer anew after a crash may send that, unless the first had arrived."""
    made, old, new = box(question()), name_of(b"old"), name_of(b"new")
    made.begin("q", run=7, root=old, objects=[old, name_of(b"part")])
    made.add("q", object_id=old, content=b"old")

    missing = made.begin("q", run=7, root=new, objects=[new])
    made.add("q", object_id=new, content=b"new")

    assert missing == [new]
    with pytest.raises(NotAsked):
        made.begin("q", run=7, root=old, objects=[old])
    assert made.begin("q", run=7, root=new, objects=[new]) == []
    assert made.take("q") == Answer(question="q", root=new, objects={new: b"new"})


def test_what_was_thrown_away_takes_no_memory() -> None:
    """Of an answer that grew too large nothing is kept, nor of a question whose time is over."""
    clock = Clock()
    made = box(question("q"), most=3, clock=clock)
    small, large = b"12", b"34"
    made.begin("q", run=7, root=name_of(small), objects=[name_of(small), name_of(large)])
    made.add("q", object_id=name_of(small), content=small)

    with pytest.raises(TooMuch):
        made.add("q", object_id=name_of(large), content=large)

    assert made._slots["q"].objects == {}
    clock.now_s = 10.0
    made.put(question("later", expires_s=20.0))
    assert list(made._slots) == ["later"]


def test_an_answer_that_comes_too_late_is_not_begun() -> None:
    """Also where nobody has looked into the box since its question expired."""
    clock = Clock()
    made = box(question("q"), clock=clock)
    clock.now_s = 10.0

    with pytest.raises(NotAsked):
        made.begin("q", run=7, root="r", objects=["r"])


def test_an_answer_that_is_fetched_too_late_is_gone() -> None:
    """It was whole in time, and nobody has looked into the box since."""
    clock, data = Clock(), b"data"
    made = box(question("q"), clock=clock)
    made.begin("q", run=7, root=name_of(data), objects=[name_of(data)])
    made.add("q", object_id=name_of(data), content=data)
    clock.now_s = 10.0

    assert made.take("q") is None
