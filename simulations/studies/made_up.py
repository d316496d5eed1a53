"""Made-up records for the smoke grids: they show that a study's program works, and nothing about learning."""

from __future__ import annotations

from partsong.simulations.studies.corpus import Corpus, Example

_THINGS = ("card", "loan", "transfer", "account")
_WISHES = ("where is my", "please close the", "I have lost the", "what costs a", "how do I open a")


def make() -> Corpus:
    """Make 240 short texts of four classes."""
    rows = tuple(Example(text=f"{_WISHES[i % 5]} {_THINGS[i % 4]}, case {i}", label=_THINGS[i % 4]) for i in range(240))
    return Corpus(name="made-up", labels=_THINGS, train=rows[:160], validation=rows[160:200], test=rows[200:])
