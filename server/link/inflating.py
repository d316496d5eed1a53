"""An answer's objects, as Flower cut them, become a message again.

Covers: an answer that would grow when it is laid out is refused before it does; while it is laid out it lies in memory
once, since each chunk goes as soon as it is copied.
Does not cover: who wrote it (`partsong.common.identity.envelope`).
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping

from flwr.app import Array, Message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_object_head_values_from_object_content
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from partsong.server.link.postbox import Answer

_MOST_DESCRIBING = 2 << 20
"""Bytes of all objects of an answer that are no chunks of arrays: a header has 1 MiB at most."""
_HEAD_ENDS = b"\x00"


def inflate(found: Answer, *, most_bytes: int) -> Message | None:
    """Read an answer; its objects are used up.

    Args:
        found: whole, from a stranger.
        most_bytes: in all arrays together.
    Returns:
        None where the objects are no message, or would be larger than they came.
    """
    try:
        arrays = _join_arrays(found.objects, most_bytes=most_bytes)
        reply = inflate_object_from_contents(found.root, found.objects, objects=arrays)
    except Exception:  # noqa: BLE001 - Flower raises whatever its parsers meet in a hostile answer
        return None
    return reply if isinstance(reply, Message) else None


def _join_arrays(objects: dict[str, bytes], *, most_bytes: int) -> dict[str, InflatableObject]:
    """Take the arrays and their chunks out of `objects` and give the arrays whole.

    Flower would hold the chunks twice and the array twice at the same time.

    Raises:
        ValueError: they would take much more memory than they came in: an array may name one chunk a million times.
            Nothing was laid out.
    """
    chunks_of = _modest(objects, most_bytes=most_bytes)
    uses = Counter(chunk for chunks in chunks_of.values() for chunk in chunks)
    arrays: dict[str, InflatableObject] = {}
    for name, chunks in chunks_of.items():
        about = _body(objects.pop(name))
        data = io.BytesIO()
        for chunk in chunks:
            uses[chunk] -= 1
            content = objects[chunk] if uses[chunk] else objects.pop(chunk)
            data.write(memoryview(content)[_body_at(content) :])
            del content
        told = json.loads(about)
        # `getvalue` of a buffer that is written once gives its bytes without a copy.
        arrays[name] = Array(dtype=told["dtype"], shape=tuple(told["shape"]), stype=told["stype"], data=data.getvalue())
    return arrays


def _modest(objects: Mapping[str, bytes], *, most_bytes: int) -> dict[str, list[str]]:
    """Give the chunks of each array, in order.

    Raises:
        ValueError: arrays of more than `most_bytes`, or too much beside them.
    """
    kinds = {name: get_object_head_values_from_object_content(content) for name, content in objects.items()}
    describing = sum(len(objects[name]) for name, (kind, _, _) in kinds.items() if kind != ArrayChunk.__qualname__)
    if describing > _MOST_DESCRIBING:
        raise ValueError(f"more than {_MOST_DESCRIBING} bytes beside the chunks")
    chunks_of, left = dict[str, list[str]](), most_bytes
    for name, (kind, children, _) in kinds.items():
        if kind != Array.__qualname__:
            continue
        places = json.loads(_body(objects[name]))["arraychunk_ids"]
        if any(kinds[child][0] != ArrayChunk.__qualname__ for child in children) or set(places) != set(
            range(len(children))
        ):
            raise ValueError("an array of something else than its chunks")
        sizes = [len(objects[child]) for child in children]
        left -= sum(sizes[place] for place in places)
        if left < 0:
            raise ValueError(f"arrays of more than {most_bytes} bytes")
        chunks_of[name] = [children[place] for place in places]
    return chunks_of


def _body(content: bytes) -> bytes:
    return content[_body_at(content) :]


def _body_at(content: bytes) -> int:
    return content.index(_HEAD_ENDS) + 1
