"""Settings of an evaluation and of a survey: what is counted, and for how much privacy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from partsong.common.questions.vote import Vote

Purpose = Literal["train", "evaluate", "survey"]
MOST_UNITS = 1_000_000


def _check(*, epsilon: float, most_units: int, groups: tuple[str, ...]) -> None:
    if not 0 < epsilon <= 1000:
        raise ValueError(f"epsilon above 0 and at most 1000, not {epsilon}")
    if most_units < 1:
        raise ValueError(f"most_units of at least 1, not {most_units}")
    if len(set(groups)) != len(groups):
        raise ValueError("groups without repeats")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """With purpose=evaluate: how a model does on records that the sites keep for testing."""

    run: str | None = None
    """Run whose finished adapter is evaluated; give the same model and adapter settings. None: the adapter as it
    starts, which is the base model alone."""
    epsilon: float = 1.0
    """Of the evaluation, at privacy.delta; charged to the same holding as training."""
    groups: tuple[str, ...] = ()
    """Closed, public list of the values of data.group_field that are told apart."""
    calibration: bool = True
    """Whether a classifier's confidence is compared with its hits."""
    bins: int = 5
    """Bins of confidence. Every number that is asked for gets its own noise: few bins tell more."""
    most_tokens: int = 32
    """Language model: learned tokens of a record count as at most so many."""
    rouge: bool = False
    """Language model: whether each site has the adapter continue its test records and compares the words (ROUGE-L).
    Much slower than all the rest; sites need partsong[evaluation]."""
    most_new_tokens: int = 64
    """With rouge: of each continuation."""
    most_units: int = MOST_UNITS
    """Most records (or patients) of a site; one with more refuses."""

    def __post_init__(self) -> None:
        _check(epsilon=self.epsilon, most_units=self.most_units, groups=self.groups)
        if not (1 <= self.bins <= 100 and self.most_tokens >= 1 and self.most_new_tokens >= 1):
            raise ValueError("1 to 100 bins, most_tokens and most_new_tokens of at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SurveyConfig:
    """With purpose=survey: what the records look like, before anything is trained."""

    epsilon: float = 0.5
    """Of the survey, at privacy.delta; charged to the same holding as training."""
    groups: tuple[str, ...] = ()
    """Closed, public list of the values of data.group_field that are told apart."""
    lengths: tuple[int, ...] = (64, 128, 256, 512)
    """Upper ends of the classes of length [tokens]; one more class lies above the last."""
    personal_details: bool = False
    """Whether records with an e-mail address, a telephone number, an IBAN or a payment card are counted; sites need
    partsong[survey]."""
    most_units: int = MOST_UNITS
    """Most records (or patients) of a site; one with more refuses."""

    def __post_init__(self) -> None:
        _check(epsilon=self.epsilon, most_units=self.most_units, groups=self.groups)
        if list(self.lengths) != sorted(set(self.lengths)) or not all(n > 0 for n in self.lengths):
            raise ValueError("lengths above 0, ascending")


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteConfig:
    """Whether the sites vote on each round of training before its adapter is kept (docs/robustness.md)."""

    mode: Literal["off", "holdout"] = "off"
    """holdout: each site scores the adapter before and after a round on records that it keeps for testing; a round
    that is voted down is undone. It doubles the number of rounds, and each vote costs privacy."""
    epsilon: float = 1.0
    """Of all votes together, at privacy.delta; on top of privacy.epsilon, from the same holding."""
    margin: float = 0.01
    """A loss may rise by this [nats] before a record votes against the new adapter."""
    scale: float = 0.1
    """A loss that falls or rises by this much more [nats] is a whole vote; by less, a part of one."""
    most_votes: int = 100
    """A site's votes add up to at most this: a site with more records for testing has no more to say. Best as many as
    the sites have records for testing: a site that forges its vote has this much, and so has each that objects."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1000:
            raise ValueError(f"epsilon above 0 and at most 1000, not {self.epsilon}")
        self.terms(noise_multiplier=None)

    def terms(self, *, noise_multiplier: float | None) -> Vote:
        """Give what stands in the plan."""
        return Vote(most_votes=self.most_votes, margin=self.margin, scale=self.scale, noise_multiplier=noise_multiplier)
