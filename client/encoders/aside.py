"""Encoders whose work is done elsewhere than where they are asked: on the one thread that has the model.

Covers: one piece of work at a time, so one base model serves all plans; nothing of the encoder runs anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from partsong.client.encoders.encoder import Encoder, LocalRound, LocalUpdate
from partsong.client.rules.consent import Facts
from partsong.common.plan import Plan

T = TypeVar("T")


class Place(Protocol):
    """Where work is done."""

    def __call__(self, work: Callable[[], T], /) -> T:
        """Do it there, wait for it, and give what it gave or raise what it raised."""
        ...


class Aside:
    """An encoder in another place."""

    def __init__(self, encoder: Encoder, place: Place) -> None:
        """Hand everything to `encoder`, at `place`."""
        self._encoder, self._place = encoder, place

    @property
    def resumes(self) -> bool:
        """See `Encoder.resumes`."""
        return self._encoder.resumes

    def facts(self, plan: Plan) -> Facts:
        """See `Encoder.facts`."""
        return self._place(partial(self._encoder.facts, plan))

    def encode(self, asked: LocalRound) -> LocalUpdate:
        """See `Encoder.encode`; `on_step` is told at that place."""
        return self._place(partial(self._encoder.encode, asked))
