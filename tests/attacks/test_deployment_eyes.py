"""What a reader with bad intentions found in a deployment's code: each attack is refused, and nobody else is harmed."""

import json
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_id
from transport_fixtures import make_port

from partsong.client.daemon.board import Board
from partsong.client.daemon.plan_desk import PlanDesk
from partsong.client.daemon.plan_folder import PlanFolder
from partsong.client.home.layout import SiteHome
from partsong.client.home.purge import purge, purge_plan
from partsong.client.rules.consent import NotAgreed
from partsong.server.link import fleet
from partsong.server.link.postbox import Answer, Postbox
from partsong.server.link.room import Room

LIMIT = 1 << 20


def grid() -> fleet.FleetGrid:
    box = Postbox(
        max_message_bytes=LIMIT, room=Room(most_bytes=1 << 30, lease_s=1.0, clock=lambda: 0.0), clock=lambda: 0.0
    )
    return fleet.FleetGrid(
        7, boxes=lambda: {3: box}, online=lambda: [3], gone=lambda _: False, posted=lambda _: None, clock=lambda: 0.0
    )


def answer_that_repeats(times: int) -> Answer:
    """An answer of 64 KiB and a little, whose vector names its one chunk so many times."""
    vector = Array(dtype="uint8", shape=(1 << 16,), stype="partsong.raw.v1", data=bytes(1 << 16))
    content = RecordDict({"partsong": ConfigRecord({"header": b"h"}), "vector": ArrayRecord({"vector": vector})})
    question = grid().create_message(RecordDict(), "train", 3, "open", ttl=5.0)
    question.metadata.__dict__["_message_id"] = "q"
    whole = {name: part.deflate() for name, part in get_all_nested_objects(Message(content, reply_to=question)).items()}
    old = next(name for name, data in whole.items() if data.startswith(b"Array "))
    head, _, body = whole[old].partition(b"\0")
    said = json.dumps(json.loads(body) | {"arraychunk_ids": [0] * times}).encode()
    data = head.rpartition(b" ")[0] + b" %d\0" % len(said) + said
    while True:  # each part is named by its hash, so whatever names this one changes as well
        del whole[old]
        whole[new := get_object_id(data)] = data
        parent = next((name for name, other in whole.items() if old.encode() in other), None)
        if parent is None:
            return Answer(question="q", root=new, objects=whole)
        old, data = parent, whole[parent].replace(old.encode(), new.encode())


@pytest.mark.parametrize(("times", "size"), [(16, 1 << 20), (17, 0), (400_000, 0)])
def test_an_answer_that_grows_when_it_is_laid_out_is_none(times: int, size: int) -> None:
    """A chunk that is named 400,000 times would be 26 GB at the coordinator, for one and a half megabytes of a site."""
    found = grid()._inflated(3, answer_that_repeats(times), most_bytes=LIMIT + 16 * 32)

    laid_out = found.content.array_records["vector"]["vector"].data if found.content else b""
    assert len(laid_out) == size


def test_text_that_grows_when_it_is_read_is_none() -> None:
    """Numbers as text take many times their room; what describes an answer is bounded apart from its arrays."""
    found = grid()._inflated(3, answer_that_repeats(800_000), most_bytes=1 << 60)

    assert not found.content


def test_refusals_do_not_fill_the_log(tmp_path: Path) -> None:
    """Each kind is told once a minute for each peer, so that what an operator needs is not turned over."""
    now_s = [0.0]
    port = make_port(tmp_path, "north", clock=lambda: now_s[0])
    own = port.sites["north"].public
    path = fleet.PULL

    for _ in range(500):
        port.superlink.admit(b"stranger", path=path, content_length=0)
        port.superlink.admit(own, path="/nowhere", content_length=0)

    assert port.refusals == [("", "not_enrolled"), ("north", "no_such_path"), ("north", "too_often")]
    now_s[0] = 60.0
    port.superlink.admit(b"stranger", path=path, content_length=0)
    assert port.refusals[3:] == [("", "not_enrolled")]


def kept(plans: Path, name: str, *, study: str) -> PlanFolder:
    """A plan that was accepted."""
    folder = PlanFolder(plans, name * 64)
    folder.keep(b"{}", b"start", run="run-1", study=study, now_ms=1)
    return folder


def test_canaries_cannot_fill_the_disk_with_the_notes_of_their_purge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need nobody's approval; what was here stays known, so there is an end to how many there can be."""
    monkeypatch.setattr("partsong.client.daemon.plan_desk.MOST_REMEMBERED", 2)
    desk = PlanDesk(
        tmp_path, make=lambda *_: pytest.fail("nothing is taken up"), before_query=lambda *_: None, retire=lambda _: None, board=Board(),
        clock=lambda: 1.0,
    )  # fmt: skip
    purge_plan(kept(tmp_path, "a", study="canary"), now_ms=2)
    desk._require_room(PlanFolder(tmp_path, "c" * 64))
    purge_plan(kept(tmp_path, "b", study="canary"), now_ms=2)

    with pytest.raises(NotAgreed, match=r"rule plans\.kept"):
        desk._require_room(PlanFolder(tmp_path, "c" * 64))


def test_a_purge_that_was_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    """What it had noted and not erased would stay for ever; a plan that is under way stays untouched."""
    home = SiteHome(tmp_path)
    killed, going = kept(home.plans, "a", study="train"), kept(home.plans, "b", study="train")
    killed.purged(now_ms=2)

    done = [purge(home, clock=lambda: 3.0).plans for _ in range(2)]

    assert done == [("a" * 64,), ()]
    assert [path.name for path in killed.path.iterdir()] == ["life.json"]
    assert going.proposal() is not None
