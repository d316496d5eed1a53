"""Answers become messages again, and lie in memory once while they do."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.server import app
from partsong.server.link.fleet import FleetGrid
from partsong.server.link.inflating import inflate
from partsong.server.link.postbox import Answer

CHUNK = 5 << 20
GRID = FleetGrid(7, boxes=dict, online=list, gone=lambda _: False, posted=lambda _: None, clock=lambda: 0.0)
LARGE = np.random.default_rng(0).bytes(4 * CHUNK)


def answer(data: bytes, note: bytes = b"") -> Answer:
    """An answer as a site cuts it."""
    content = RecordDict({"partsong": ConfigRecord({"header": b"h"})})
    for name, raw in (("vector", data), ("note", note)):
        content[name] = ArrayRecord({name: Array(dtype="uint8", shape=(len(raw),), stype="raw", data=raw)})
    question = GRID.create_message(RecordDict(), "train", 3, "open", ttl=5.0)
    question.metadata.__dict__["_message_id"] = "q"
    message = Message(content, reply_to=question)
    objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    return Answer(question="q", root=message.object_id, objects=objects)


def raw(message: Message | None, name: str) -> bytes:
    assert message is not None
    record = message.content[name]
    assert isinstance(record, ArrayRecord)
    return bytes(record[name].data)


@settings(deadline=None, max_examples=20)
@given(chunks=st.integers(0, 3), rest=st.integers(0, 40), same=st.booleans(), shared=st.booleans())
def test_an_answer_is_what_flower_reads(*, chunks: int, rest: int, same: bool, shared: bool) -> None:
    """Chunks that repeat, in one array or in two, and arrays without any."""
    data = (bytes(CHUNK) * chunks if same else LARGE[: chunks * CHUNK]) + b"x" * rest
    found = answer(data, note=data if shared else b"note")
    flower = inflate_object_from_contents(found.root, dict(found.objects))

    read = inflate(found, most_bytes=1 << 26)

    assert isinstance(flower, Message)
    assert (raw(read, "vector"), raw(read, "note")) == (raw(flower, "vector"), raw(flower, "note"))
    assert raw(read, "vector") == data
    assert not found.objects


def peak_over(work: Callable[[], object]) -> int:
    """Bytes that are held at most while something is done, beside what was held before."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_while_it_is_read_an_answer_takes_no_second_copy() -> None:
    """Its chunks, which are not counted here, go one by one while the array grows to their size."""
    found = answer(LARGE)

    assert peak_over(lambda: inflate(found, most_bytes=1 << 26)) < 1.3 * len(LARGE)


def test_flower_takes_more_than_two() -> None:
    """The control: it copies each chunk, joins them, and copies the whole."""
    found = answer(LARGE)

    assert peak_over(lambda: inflate_object_from_contents(found.root, found.objects)) > 2.5 * len(LARGE)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the collector, as it is most of the time."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held_after(read: Callable[[Message], object]) -> int:
    """Bytes that are still held when a message was read and let go."""
    found = answer(LARGE)
    tracemalloc.start()
    try:
        message = inflate(found, most_bytes=1 << 26)
        assert message is not None
        read(message)
        del message
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("uncollected")
def test_of_an_answer_that_was_read_nothing_stays() -> None:
    """Not even until the collector comes by: at the coordinator that was three vectors of every round."""
    assert held_after(lambda message: app._raw(message.content, "vector")) < 1 << 20


@pytest.mark.usefixtures("uncollected")
def test_flowers_own_way_of_reading_keeps_it() -> None:
    """The control."""
    assert held_after(lambda message: message.content.array_records["vector"]) > len(LARGE)


def test_an_array_of_something_else_than_chunks_is_none() -> None:
    """A record in the place of a chunk."""
    found = answer(b"data")
    about = next(name for name, content in found.objects.items() if content.startswith(b"ConfigRecord"))
    old = next(
        name for name, content in found.objects.items() if content.startswith(b"ArrayChunk") and b"data" in content
    )
    for name, content in list(found.objects.items()):
        if content.startswith(b"Array "):
            found.objects[name] = content.replace(old.encode(), about.encode())

    assert inflate(found, most_bytes=1 << 26) is None
