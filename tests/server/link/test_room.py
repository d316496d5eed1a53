"""Room for the answers of all sites: never more than there is, and nobody keeps the others out for long."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.server.link.postbox import NotAsked, Postbox, Question, TooMuch
from partsong.server.link.room import NoRoom, Room

MOST, LEASE_S = 100, 10.0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def name_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class House:
    """A room with a box for each site, whose question asks for anything."""

    def __init__(self, sites: int, *, expires_s: float = 1000.0) -> None:
        self.clock = Clock()
        self.room = Room(most_bytes=MOST, lease_s=LEASE_S, clock=self.clock)
        self.boxes = [Postbox(max_message_bytes=MOST, room=self.room, clock=self.clock) for _ in range(sites)]
        for box in self.boxes:
            box.put(Question(id="q", run=1, head=b"", tree=b"", objects={}, expires_s=expires_s))

    def bring(self, site: int, *contents: bytes, of: int = 2) -> bool:
        """Announce an answer of so many parts and bring these of them; False: there was no room."""
        parts = [*contents, *(b"%d" % more for more in range(of - len(contents)))]
        self.boxes[site].begin("q", run=1, root=name_of(contents[0]), objects=map(name_of, parts))
        try:
            return all(self.boxes[site].add("q", object_id=name_of(part), content=part) for part in contents)
        except NoRoom:
            return False


def part(size: int, site: int = 0) -> bytes:
    return bytes([site]) * size


def test_what_does_not_fit_is_sent_away_and_fits_when_the_other_was_taken() -> None:
    """Nothing of it is kept meanwhile, and nothing of the other is lost."""
    house = House(2)

    assert house.bring(0, part(60), of=1)
    assert not house.bring(1, part(60, 1), of=1)
    assert house.room.used == 60
    assert house.boxes[0].take("q") is not None
    assert house.bring(1, part(60, 1), of=1)
    assert house.boxes[1].take("q") is not None
    assert house.room.used == 0


def test_an_answer_that_does_not_become_whole_gives_way_after_its_lease() -> None:
    """Not before, and only where somebody needs the room. Its site may begin anew."""
    house = House(2)
    assert house.bring(0, part(60))

    house.clock.now_s = LEASE_S - 1
    early = house.bring(1, part(60, 1), of=1)
    house.clock.now_s = LEASE_S
    late = house.bring(1, part(60, 1), of=1)

    assert (early, late) == (False, True)
    assert house.boxes[0].begin("q", run=1, root=name_of(part(60)), objects=[name_of(part(60))]) != []
    house.boxes[1].take("q")
    assert house.bring(0, part(60), of=1)


def test_a_whole_answer_never_gives_way() -> None:
    """The coordinator is about to read it."""
    house = House(2)
    assert house.bring(0, part(60), of=1)

    house.clock.now_s = 10 * LEASE_S

    assert not house.bring(1, part(60, 1), of=1)
    assert house.boxes[0].take("q") is not None


def test_who_was_thrown_out_lets_the_others_go_first() -> None:
    """However often it knocks: the one that waits comes in, and then everybody is alike again."""
    house = House(3)
    assert house.bring(0, part(60))
    assert not house.bring(1, part(60, 1), of=1)
    house.clock.now_s = LEASE_S
    assert house.bring(2, part(60, 2), of=1)
    house.boxes[2].take("q")

    knocking = [house.bring(0, part(60)) for _ in range(20)]

    assert not any(knocking)
    assert house.bring(1, part(60, 1), of=1)
    house.boxes[1].take("q")
    assert house.bring(0, part(60))


def test_without_that_order_it_would_be_back_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: whoever knocks most has the room."""
    house = House(3)
    monkeypatch.setattr(Room, "_goes_after_others", lambda *_, **__: False)
    assert house.bring(0, part(60))
    assert not house.bring(1, part(60, 1), of=1)
    house.clock.now_s = LEASE_S
    assert house.bring(2, part(60, 2), of=1)
    house.boxes[2].take("q")

    assert house.bring(0, part(60))
    assert not house.bring(1, part(60, 1), of=1)


def test_nobody_is_waited_for_who_does_not_come_back() -> None:
    """A site that was sent away and gave up keeps nobody out."""
    house = House(3)
    assert house.bring(0, part(60))
    house.clock.now_s = LEASE_S
    assert house.bring(2, part(50, 2), of=1)
    assert not house.bring(1, part(60, 1), of=1)
    assert not house.bring(0, part(40))

    house.clock.now_s += 60.0

    assert house.bring(0, part(40))


def test_what_nobody_waits_for_gives_its_room_back() -> None:
    """Expired, or of a site that is not on the list any more."""
    house = House(3, expires_s=5.0)
    assert house.bring(0, part(50))
    assert house.bring(1, part(50))

    house.boxes[1].close()
    assert house.room.used == 50
    house.clock.now_s = 5.0
    house.boxes[2].put(Question(id="q", run=1, head=b"", tree=b"", objects={}, expires_s=50.0))

    assert house.bring(2, part(MOST, 2), of=1)


def test_an_answer_that_is_refused_or_begun_otherwise_gives_its_room_back() -> None:
    """Too large in all, and announced anew with another root."""
    house = House(2)
    assert house.bring(0, part(30))
    assert house.bring(0, part(40), of=3)
    assert house.room.used == 40
    house.boxes[1].begin("q", run=1, root=name_of(part(60)), objects=map(name_of, (part(60), part(50))))
    house.boxes[1].add("q", object_id=name_of(part(60)), content=part(60))

    with pytest.raises(TooMuch):
        house.boxes[1].add("q", object_id=name_of(part(50)), content=part(50))

    assert house.room.used == 40


@settings(deadline=None, max_examples=60)
@given(
    acts=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["part", "whole", "take", "wait", "anew"]), st.integers(1, 60)),
        max_size=40,
    )
)
def test_the_count_is_what_lies_there_and_never_too_much(acts: list[tuple[int, str, int]]) -> None:
    """Whatever four sites do."""
    house = House(4)
    for site, act, size in acts:
        try:
            if act == "take":
                house.boxes[site].take("q")
                house.boxes[site].put(Question(id="q", run=1, head=b"", tree=b"", objects={}, expires_s=1e9))
            elif act == "wait":
                house.clock.now_s += size / 4
            else:
                house.bring(site, part(size, site), of=1 if act == "whole" else 2 + (act == "anew"))
        except (NotAsked, TooMuch):
            pass
        lies = sum(len(data) for box in house.boxes for slot in box._slots.values() for data in slot.objects.values())
        assert house.room.used == lies <= MOST
