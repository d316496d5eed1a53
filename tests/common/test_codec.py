"""Every message: one encoding, read back exactly, and nothing else is read."""

import dataclasses
import typing
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.secure_sum.site_state import SiteState
from partsong.common.codec import pack, unpack
from partsong.common.errors import WireError
from partsong.common.identity.suite import SIGNATURE_BYTES, SUITES, BySuite, SuiteName
from partsong.common.secure_sum import messages
from partsong.common.secure_sum.messages import Reveals, Signed

MESSAGES = [
    cls
    for cls in vars(messages).values()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == messages.__name__
] + [SiteState]


def size_of(annotation: Any, suite: SuiteName) -> int:
    return annotation.of(suite) if isinstance(annotation, BySuite) else annotation


def values_of(kind: Any, suite: SuiteName) -> st.SearchStrategy[Any]:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        return st.builds(kind, **{f.name: values_of(hints[f.name], suite) for f in dataclasses.fields(kind)})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return st.binary(min_size=size_of(args[1], suite), max_size=size_of(args[1], suite))
    if origin is tuple:
        return st.lists(values_of(args[0], suite), max_size=3).map(tuple)
    return st.integers(0, 2**64 - 1) if kind is int else st.binary(max_size=40)


SUITE = st.sampled_from(SUITES)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Small:
    """One field of each kind."""

    LABEL: ClassVar[str] = "small"
    count: int
    mark: Annotated[bytes, 2]
    text: bytes
    parts: tuple[bytes, ...]


SMALL = Small(count=258, mark=b"ab", text=b"xyz", parts=(b"", b"q"))
PREFIX = b"\x10partsong/1 small"


def test_the_layout_is_the_one_of_the_specification() -> None:
    """Label, 8-byte integers, bare fixed bytes, 4-byte lengths and counts."""
    by_hand = PREFIX + bytes(6) + b"\x01\x02" + b"ab" + b"\0\0\0\x03xyz" + b"\0\0\0\x02" + b"\0\0\0\0" + b"\0\0\0\x01q"

    assert pack(SMALL) == by_hand
    assert unpack(Small, by_hand) == SMALL


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_every_message_comes_back_and_its_neighbours_do_not(cls: type, data: st.DataObject) -> None:
    """Round trip; one byte more, one byte less, another label and another message's bytes are refused."""
    message = data.draw(values_of(cls, data.draw(SUITE)))
    packed = pack(message)

    assert unpack(cls, packed) == message
    for bad in (packed + b"\0", packed[:-1], b"", b"\0" + packed, bytes([packed[0] ^ 1]) + packed[1:]):
        with pytest.raises(WireError):
            unpack(cls, bad)
    with pytest.raises(WireError):
        unpack(Small, packed)


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
def test_labels_are_distinct(cls: type) -> None:
    """No two messages share one."""
    assert [other.LABEL for other in MESSAGES].count(cls.LABEL) == 1


@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(MESSAGES), st.data())
def test_changed_bytes_are_refused_or_are_another_message(cls: type, data: st.DataObject) -> None:
    """A flipped bit, a cut or an insertion never gives the old message, and never another error than ours."""
    message = data.draw(values_of(cls, data.draw(SUITE)))
    packed = bytearray(pack(message))
    place = data.draw(st.integers(0, len(packed) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "insert", "swap"]))
    if change == "flip":
        packed[place] ^= 1 << data.draw(st.integers(0, 7))
    elif change == "cut":
        del packed[place : place + data.draw(st.integers(1, 9))]
    elif change == "insert":
        packed[place:place] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        packed[place:] = data.draw(st.binary(max_size=20))

    try:
        other = unpack(cls, bytes(packed))
    except WireError:
        return

    assert pack(other) == bytes(packed)
    assert (other == message) == (bytes(packed) == pack(message))


def test_a_huge_count_or_length_costs_nothing() -> None:
    """Four billion announced items end at the first missing one."""
    body = bytes(8) + b"ab"

    for tail in (b"\xff\xff\xff\xff", b"\0\0\0\0\xff\xff\xff\xff", b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0"):
        with pytest.raises(WireError, match="bytes left"):
            unpack(Small, PREFIX + body + tail)


@pytest.mark.parametrize(
    ("change", "error"),
    [({"count": -1}, OverflowError), ({"count": 2**64}, OverflowError), ({"mark": b"a"}, ValueError)],
)
def test_values_outside_their_type_are_not_encoded(change: dict[str, object], error: type[Exception]) -> None:
    """Our own mistakes stop before they are sent."""
    with pytest.raises(error):
        pack(dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize("count", [10_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_many_changed_messages_are_refused_or_are_other_messages(count: int) -> None:
    """The same promise for cheap changes of one message of each class."""
    rng = np.random.default_rng(0)
    packed = [(cls, pack(build_one(cls, suite))) for cls in MESSAGES for suite in SUITES]
    per_class = count // len(packed) + 1
    for cls, good in packed:
        places = rng.integers(0, len(good), per_class)
        flips = rng.integers(1, 256, per_class)
        cuts = rng.integers(0, 4, per_class)
        for place, flip, cut in zip(places.tolist(), flips.tolist(), cuts.tolist(), strict=True):
            changed = good[:place] + bytes([good[place] ^ flip]) + good[place + 1 + (cut == 0) :]
            try:
                other = unpack(cls, changed)
            except WireError:
                continue
            assert pack(other) == changed


def build_one(cls: type, suite: SuiteName) -> object:
    hints = typing.get_type_hints(cls, include_extras=True)
    return cls(**{f.name: one_of(hints[f.name], suite) for f in dataclasses.fields(cls)})


def one_of(kind: Any, suite: SuiteName) -> object:
    if dataclasses.is_dataclass(kind):
        return build_one(kind, suite)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return bytes(i % 251 for i in range(size_of(args[1], suite)))
    if origin is tuple:
        return (one_of(args[0], suite),) * 2
    return 7 if kind is int else b"some bytes"


def test_a_message_says_which_suite_its_sizes_are_of() -> None:
    """The label of suite F stands over its sizes alone; without any such field a message is the same in both."""
    a, f = (Signed(body=b"x", signature=bytes(SIGNATURE_BYTES.of(suite))) for suite in SUITES)

    assert pack(a) == b"\x11partsong/1 signed" + b"\0\0\0\x01x" + bytes(64)
    assert pack(f) == b"\x13partsong/1/F signed" + b"\0\0\0\x01x" + bytes(96)
    assert pack(Reveals(reveals=(f, f))).startswith(b"\x14partsong/1/F reveals")
    assert pack(Reveals(reveals=())).startswith(b"\x12partsong/1 reveals")


def test_the_label_of_a_suite_without_its_sizes_is_refused() -> None:
    """Otherwise one value would have two encodings, or a signature of one suite could pass for the other's."""
    empty = b"\x14partsong/1/F reveals" + bytes(4)
    small = b"\x12partsong/1/F small" + pack(SMALL)[len(PREFIX) :]
    for cls, bad in ((Reveals, empty), (Small, small)):
        with pytest.raises(WireError, match="label of a suite"):
            unpack(cls, bad)
    for prefix, size in ((b"\x11partsong/1 signed", 96), (b"\x13partsong/1/F signed", 64)):
        with pytest.raises(WireError, match=r"bytes left|bytes too many"):
            unpack(Signed, prefix + b"\0\0\0\x01x" + bytes(size))


def test_two_suites_in_one_message_are_not_encoded() -> None:
    """Nor a size that is of neither."""
    a, f = (Signed(body=b"x", signature=bytes(SIGNATURE_BYTES.of(suite))) for suite in SUITES)

    for bad in (Reveals(reveals=(a, f)), dataclasses.replace(a, signature=bytes(65))):
        with pytest.raises(ValueError, match="64 or 96 bytes, of one suite"):
            pack(bad)
