"""What a plan asks of records besides training: a vector of counts and sums in which each unit has a bounded share.

Covers: the shape of every part, and how far one unit can move it, follow from the part's name and public constants, so
that coordinator and sites come to the same and a plan cannot smuggle in a part of another shape.
Does not cover: noise and its accounting, which are those of the plan's privacy terms (`partsong.client.dp.totals`).

A part of size n that one unit moves by at most its reach (L2) is multiplied by weight * clip_norm / reach before it is
summed. With weights whose squares add up to at most 1 the whole row of a unit has norm clip_norm at most, so one
Gaussian mechanism of noise multiplier m releases all parts together, and each number of a part has noise of standard
deviation m * reach / weight in its own unit.

Source: McMahan et al. 2018 (arXiv 1812.06210), section 2.2, for vectors of groups with clips of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

UNITS: Final = "units"
HITS: Final = "hits"
TOKENS: Final = "tokens"
TOKEN_LOSS: Final = "token_loss"  # noqa: S105 - tokens of text
ROUGE: Final = "rouge_l"
CONFUSION: Final = "confusion"
CONFIDENCE: Final = "confidence"
GROUPS: Final = "groups"
TABLE: Final = "table"
DUPLICATES: Final = "duplicates"
PERSONAL: Final = "personal_details"

PartName = Literal[
    "units",
    "hits",
    "tokens",
    "token_loss",
    "rouge_l",
    "confusion",
    "confidence",
    "groups",
    "table",
    "duplicates",
    "personal_details",
]
EVALUATION: frozenset[PartName] = frozenset({UNITS, HITS, TOKENS, TOKEN_LOSS, ROUGE, CONFUSION, CONFIDENCE, GROUPS})
"""Parts that a question about a model may have."""
SURVEY: frozenset[PartName] = frozenset({UNITS, TABLE, DUPLICATES, PERSONAL})
"""Parts that a question about records may have."""

MOST_NUMBERS = 1 << 20
"""Of a question: a confusion matrix of a thousand classes."""
MOST_NEW_TOKENS = 4096
_LARGEST = 1e9
OTHER = "(other)"
"""Group of a record whose value is not in the public list, or which has none."""
_SLACK = 1e-9
"""Room for the rounding of weights that are written as decimals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One block of numbers."""

    name: PartName
    weight: float
    """Share of the unit's clip; the larger, the less noise."""

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"a weight above 0 and at most 1, not {self.weight}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Which counts and sums a plan asks for. Holds no code and no free text but the names of groups."""

    parts: tuple[Part, ...]
    most_units: int
    """A site with more units than this has no room in the sealed vector, and refuses."""
    loss_clip: float
    """A record's loss counts as at most this [nats]."""
    classes: int = 0
    """Number of labels; 0 for a language model."""
    groups: tuple[str, ...] = ()
    """Closed, public list of the values that are told apart; everything else is one more group."""
    bins: int = 5
    """Of confidence, equally wide."""
    most_tokens: int = 128
    """Learned tokens of one record count as at most so many."""
    most_new_tokens: int = 64
    """Of the continuation that `rouge_l` compares with a record's own."""
    lengths: tuple[int, ...] = ()
    """Upper ends of the classes of length [tokens], ascending; one more class lies above the last."""

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) != len(names) or UNITS not in names:
            raise ValueError("parts without repeats, `units` among them")
        if math.fsum(part.weight**2 for part in self.parts) > 1 + _SLACK:
            raise ValueError("weights whose squares add up to at most 1")
        if not (1 <= self.most_units <= _LARGEST and 0 < self.loss_clip <= _LARGEST):
            raise ValueError("most_units of at least 1 and a loss_clip above 0")
        if not (0 <= self.classes <= MOST_NUMBERS and 1 <= self.bins <= 100 and 1 <= self.most_tokens <= _LARGEST):
            raise ValueError("classes of at least 0, 1 to 100 bins, most_tokens of at least 1")
        if not 1 <= self.most_new_tokens <= MOST_NEW_TOKENS or (ROUGE in names and self.classes):
            raise ValueError(f"1 to {MOST_NEW_TOKENS} new tokens, and rouge_l of a language model alone")
        if len(set(self.groups)) != len(self.groups) or not all(_is_short(name) for name in self.groups):
            raise ValueError("groups without repeats, with printable names of at most 100 characters")
        if OTHER in self.groups or len(self.groups) > 1000:
            raise ValueError(f"at most 1000 groups, none of them {OTHER}")
        if list(self.lengths) != sorted(set(self.lengths)) or not all(0 < n <= _LARGEST for n in self.lengths):
            raise ValueError("lengths above 0, ascending")
        if self.size > MOST_NUMBERS or any(self.length_of(name) < 1 for name in names):
            raise ValueError(f"parts that hold something, and at most {MOST_NUMBERS:,} numbers in all")

    @property
    def size(self) -> int:
        """Numbers of all parts together, Q."""
        return sum(self.length_of(part.name) for part in self.parts)

    @property
    def all_groups(self) -> tuple[str, ...]:
        """The groups that are told apart, with the one for all else; none where no group is named."""
        return (*self.groups, OTHER) if self.groups else ()

    def length_of(self, name: PartName) -> int:
        """Give the size of a part of this name, whether the question has it or not."""
        groups, matrix = len(self.all_groups), self.classes**2
        return {
            UNITS: 1,
            HITS: 1,
            TOKENS: 1,
            TOKEN_LOSS: 1,
            ROUGE: 1,
            CONFUSION: matrix,
            CONFIDENCE: 3 * self.bins,
            GROUPS: groups * (matrix or 2),
            TABLE: 2 * max(1, self.classes) * max(1, groups) * (len(self.lengths) + 1),
            DUPLICATES: 1,
            PERSONAL: 1,
        }[name]

    def reach_of(self, name: PartName) -> float:
        """Bound how far one unit moves a part, in L2 norm of the part's own unit."""
        if name == CONFIDENCE:
            return math.sqrt(3)  # a place in a bin, perhaps a hit, and a confidence of at most 1
        return math.sqrt(2) if name == GROUPS and not self.classes else 1.0

    def scale_of(self, part: Part, *, clip_norm: float) -> float:
        """Give what a part is multiplied by before it is clipped and summed."""
        return part.weight * clip_norm / self.reach_of(part.name)

    def slices(self) -> Iterator[tuple[Part, slice]]:
        """Each part with its place in the vector."""
        start = 0
        for part in self.parts:
            stop = start + self.length_of(part.name)
            yield part, slice(start, stop)
            start = stop

    def largest(self, *, clip_norm: float) -> float:
        """Bound one number of a site's scaled sum, without noise."""
        return self.most_units * max(self.scale_of(part, clip_norm=clip_norm) for part in self.parts)


def equal_parts(*names: PartName) -> tuple[Part, ...]:
    """Give every part the same share of a unit's clip."""
    return tuple(Part(name=name, weight=1 / math.sqrt(len(names))) for name in names)


def _is_short(name: str) -> bool:
    return 0 < len(name) <= 100 and name.isprintable()
