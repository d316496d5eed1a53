"""Frames of a pipe: eight bytes of length, then as many bytes."""

from __future__ import annotations

from typing import IO

LENGTH_BYTES = 8


def write_frame(pipe: IO[bytes], data: bytes) -> None:
    """Write a frame and let it go.

    Raises:
        BrokenPipeError: nobody reads any more.
    """
    pipe.write(len(data).to_bytes(LENGTH_BYTES, "big"))
    pipe.write(data)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """Read a frame; None where the pipe ends before the frame does."""
    head = pipe.read(LENGTH_BYTES)
    size = int.from_bytes(head, "big")
    data = pipe.read(size)
    return data if len(head) == LENGTH_BYTES and len(data) == size else None
