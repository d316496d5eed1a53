"""Encoders whose work is done elsewhere than where they are asked: on the one thread that has the model.

Covers: one piece of work at a time, so one base model serves all plans; nothing of the encoder runs anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from partsong.client.dp.sampler import Randomness
from partsong.client.encoders.encoder import Encoder, LocalUpdate, Progress, Resumable
from partsong.client.encoders.halfway import Bookmark
from partsong.client.rules.consent import Facts
from partsong.common.adapters.adapter import FloatVec
from partsong.common.plan import Plan

T = TypeVar("T")


class Place(Protocol):
    """Where work is done."""

    def __call__(self, work: Callable[[], T], /) -> T:
        """Do it there, wait for it, and give what it gave or raise what it raised."""
        ...


def aside(encoder: Encoder, place: Place) -> Encoder:
    """Give an encoder that works in another place; one that can go on after a break still can."""
    return ResumableAside(encoder, place) if isinstance(encoder, Resumable) else Aside(encoder, place)


class Aside:
    """An encoder in another place."""

    def __init__(self, encoder: Encoder, place: Place) -> None:
        """Hand everything to `encoder`, at `place`."""
        self._encoder, self._place = encoder, place

    def facts(self, plan: Plan) -> Facts:
        """See `Encoder.facts`."""
        return self._place(partial(self._encoder.facts, plan))

    def encode(
        self,
        plan: Plan,
        *,
        number: int,
        frozen_F: FloatVec,
        adapter_P: FloatVec,
        randomness: Randomness,
        on_step: Callable[[Progress], None],
    ) -> LocalUpdate:
        """See `Encoder.encode`; `on_step` is told at that place."""
        return self._place(
            partial(
                self._encoder.encode,
                plan,
                number=number,
                frozen_F=frozen_F,
                adapter_P=adapter_P,
                randomness=randomness,
                on_step=on_step,
            )
        )


class ResumableAside(Aside):
    """One whose rounds can be gone on with after a break."""

    def __init__(self, encoder: Resumable, place: Place) -> None:
        """Hand everything to `encoder`, at `place`."""
        super().__init__(encoder, place)
        self._resumable = encoder

    def encode_on(
        self,
        plan: Plan,
        *,
        number: int,
        frozen_F: FloatVec,
        adapter_P: FloatVec,
        randomness: Randomness,
        on_step: Callable[[Progress], None],
        bookmark: Bookmark,
    ) -> LocalUpdate:
        """See `Resumable.encode_on`; `on_step` is told at that place."""
        return self._place(
            partial(
                self._resumable.encode_on,
                plan,
                number=number,
                frozen_F=frozen_F,
                adapter_P=adapter_P,
                randomness=randomness,
                on_step=on_step,
                bookmark=bookmark,
            )
        )
