"""The plan: the whole job, fixed before the first record is read.

A site accepts it once; each round's query must then lie inside it. It holds data, never code.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from partsong.common.adapters.adapter import AdapterLayout
from partsong.common.adapters.turns import Turn, specs_of
from partsong.common.build import LATER, sha256_of
from partsong.common.config import ServerOptimizerConfig, TrainingConfig
from partsong.common.groups import Groups, check_groups
from partsong.common.privacy.accounting import StepEvents, joint_multiplier, on_grid
from partsong.common.privacy.terms import MOST_STEPS, DpPlan, SumNoise, require_within
from partsong.common.questions.fit import check_question, check_vote
from partsong.common.questions.question import Question
from partsong.common.questions.vote import FIELD_BITS, Vote
from partsong.common.secure_sum.fixed_point import Block, Encoding
from partsong.common.secure_sum.noised import LONG_ROUNDING, OVERFLOW, NoisedEncoding
from partsong.common.simulated import ANY_RANK

UPDATE = "update"
LOSS = "loss"

LONGEST_NAME = 200


def is_name(text: str) -> bool:
    """Whether a name from outside can be shown: no control characters, not empty, not endless."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable()


@dataclass(frozen=True, kw_only=True)  # no slots: the hash is kept
class Plan:
    """One run, from its first to its last round."""

    run: str
    """Name of the run; unique."""
    study: Literal["train", "canary", "evaluate", "survey"]
    task: Literal["causal_lm", "classification"]
    rounds: int
    base_sha256: str
    """Digest of the base model; a site with another base refuses."""
    method: Literal["ffa", "fedit", "rolora", "fedsb", "fedrot", "hlora", "sketch"]
    lora: Mapping[str, Any]
    """Keyword arguments of `peft.LoraConfig`; a site compares them with those of its own model."""
    layout: AdapterLayout
    frozen_sha256: str
    """Digest of the adapter's frozen part, which rides beside the plan."""
    training: TrainingConfig
    sampling_rate: float
    dp: DpPlan | None
    """None: no privacy. A site's policy has to allow that by name."""
    encoding: Encoding
    """Of a round that trains everything. A turn has its own update block; see `encoding_of`."""
    masked: bool
    """Whether the secure sum hides each site's words. A site's policy has to allow False by name."""
    spot_checks: bool
    """Whether a site may ask for a block of the last sum's masked vectors, and seals nothing without it."""
    start_sha256: str
    """Digest of the trained part that round 1 starts from; every later one follows from the sums."""
    optimizer: ServerOptimizerConfig
    """What is done with the mean of a round: sites recompute the published adapter with it."""
    minimum_cohort: int
    labels: tuple[str, ...]
    max_length: int
    seed: int | None
    """Repeatable sampling, for tests; a plan with `dp` has none."""
    turns: tuple[Turn, ...] = ()
    """What the rounds train, one turn after the other and then again from the first. Empty: every round trains all."""
    rounds_per_turn: int = 1
    """Consecutive rounds of one turn."""
    rotation: float = 0.0
    """fedrot: how far a site turns its factors towards the global ones before they are sealed, 0 to 1."""
    question: Question | None = None
    """What an evaluation or a survey asks for; None where a round trains, or is a canary's."""
    vote: Vote | None = field(default=None, metadata=LATER)
    """Every second round votes on the one before it. None: every round trains."""
    groups: Groups | None = field(default=None, metadata=LATER)
    """Each round asks one group of sites, and the median of the groups' means moves the adapter. None: a round asks
    all sites, and their mean does."""

    def __post_init__(self) -> None:
        if not is_name(self.run):
            raise ValueError(f"a run name of 1 to {LONGEST_NAME} printable characters")
        require_within(0, MOST_STEPS, rounds=self.rounds, steps=self.steps, max_length=self.max_length)
        require_within(0, 1, sampling_rate=self.sampling_rate)
        require_within(0, self.encoding.max_sites, minimum_cohort=self.minimum_cohort)
        if (self.task == "classification") != bool(self.labels) or len(set(self.labels)) != len(self.labels):
            raise ValueError("labels without repeats for classification, none for causal_lm")
        if self.dp is not None and self.seed is not None:
            raise ValueError("no seed in a plan with differential privacy")
        if self.dp is not None and self.dp.sampling_rate != self.sampling_rate:
            raise ValueError("one sampling rate")
        require_within(0, MOST_STEPS, rounds_per_turn=self.rounds_per_turn)
        if self.rotation and (self.method != "fedrot" or self.turns):
            raise ValueError("rotation with method=fedrot, which trains both factors in every round")
        if not 0 <= self.rotation <= 1:
            raise ValueError(f"rotation between 0 and 1, not {self.rotation}")
        if self.method in ANY_RANK and self.question is None and (self.dp is not None or self.turns):
            raise ValueError(f"method={self.method} without differential privacy: noise of a site would be multiplied")
        if any(not specs_of(self.layout, turn) for turn in self.turns):
            raise ValueError("turns that train at least one tensor")
        check_question(self)
        check_vote(self)
        check_groups(self)
        if self.on_sum is not None:
            self._check_lockstep(self.on_sum)

    def _check_lockstep(self, noise: SumNoise) -> None:
        """Refuse what noise on the sum cannot be under: a step is a sum, and everything else is public."""
        training = self.training
        if self.study != "train":
            raise ValueError("noise on the sum of gradients, in a plan that trains")
        if not self.masked or training.steps_per_round != 1:
            raise ValueError("noise on the sum under the secure sum and with one step a round")
        if (training.optim, training.weight_decay, training.prox_mu) != ("sgd", 0.0, 0.0):
            raise ValueError("noise on the sum with plain sgd: no site takes a step of its own")
        if self.method == "fedrot":
            raise ValueError("noise on the sum of gradients, which no site turns")
        if not self.minimum_cohort <= noise.minimum_sum <= self.encoding.max_sites:
            raise ValueError("minimum_sum between minimum_cohort and max_sites")
        for number in self._first_rounds():
            self.noised(number)

    @functools.cached_property
    def sha256(self) -> str:
        """What the messages of the run refer to."""
        return sha256_of(self)

    @property
    def on_sum(self) -> SumNoise | None:
        """Noise that the sites bring together; None: without privacy, or with each site's own noise."""
        return None if self.dp is None else self.dp.on_sum

    @property
    def minimum_sum(self) -> int:
        """Fewest sites whose sum may be opened, where noise asks for more than the floors; 0 where it does not."""
        return 0 if self.on_sum is None else self.on_sum.minimum_sum

    @property
    def survives_differences(self) -> bool:
        """Whether sums over almost the same sites may be compared: there is noise in each, or nothing of a record."""
        return self.dp is not None or self.study == "canary"

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run at one site."""
        return self.steps_in(self.rounds)

    @property
    def queries(self) -> int:
        """Rounds that one site answers."""
        return self.rounds if self.groups is None else self.training_rounds

    @property
    def training_rounds(self) -> int:
        """Rounds that train; with groups, those of one group."""
        return self.training_number(self.rounds)

    def steps_in(self, rounds: int) -> int:
        """Give the optimizer steps of the first `rounds` rounds at one site, at most."""
        return self.steps_between(first=1, last=rounds)

    def steps_between(self, *, first: int, last: int) -> int:
        """Give the optimizer steps of the rounds from `first` to `last` at one site, at most."""
        return self._trained_between(first=first, last=last) * self.training.steps_per_round

    def _trained_between(self, *, first: int, last: int) -> int:
        """Count the rounds that train at one site; with groups, at one of the group that is asked most often."""
        if self.groups is not None:
            return -(-(last - first + 1) // self.groups.count)
        return self.training_number(last) - self.training_number(first - 1)

    def is_vote(self, number: int) -> bool:
        """Whether round `number` votes on the one before it."""
        return self.vote is not None and number % 2 == 0

    def settles(self, number: int) -> bool:
        """Whether round `number` may move the global adapter; it is true of 0, before the first."""
        if self.groups is not None:
            return self.groups.place(number) == self.groups.count - 1
        return self.vote is None or self.is_vote(number)

    def training_number(self, number: int) -> int:
        """Count the rounds that train, up to and with round `number`; a vote is about the last of them.

        With groups, the rounds that ask one group after the other count once: they are one step of the adapter.
        """
        return -(-number // self._apart)

    @property
    def _apart(self) -> int:
        """Rounds to a step of the adapter."""
        if self.groups is not None:
            return self.groups.count
        return 1 if self.vote is None else 2

    @property
    def vector_size(self) -> int:
        """Numbers of an update, or of the answer to the plan's question; of a turn: `update_size`."""
        return self.layout.size(trained=True) if self.question is None else self.question.size

    def turn(self, number: int) -> Turn | None:
        """Give what round `number` trains, or votes about; None: all."""
        before = self.training_number(number) - 1
        return self.turns[before // self.rounds_per_turn % len(self.turns)] if self.turns else None

    def update_size(self, number: int) -> int:
        """Number of values that a round's update or answer has, Q; a vote is one number."""
        if self.is_vote(number):
            return 1
        if self.question is not None:
            return self.question.size
        return sum(spec.size for spec in specs_of(self.layout, self.turn(number)))

    def encoding_of(self, number: int) -> Encoding:
        """Give how round `number` is encoded. Rounds of one turn have one shape, and so have all votes."""
        if self.vote is not None and self.is_vote(number):
            votes = Block(name=UPDATE, size=1, clip=self.vote.reach, norm="l2", rotate=False)
            unused = Block(name=LOSS, size=1, clip=1.0, norm="linf", rotate=False)
            return replace(self.encoding, blocks=(votes, unused), field_bits=FIELD_BITS)
        if (turn := self.turn(number)) is None:
            return self.encoding
        size = self.update_size(number)
        blocks = tuple(
            replace(block, size=size, clip=turn.update_clip) if block.name == UPDATE else block
            for block in self.encoding.blocks
        )
        return replace(self.encoding, blocks=blocks)

    def events(self, *, steps: int) -> StepEvents:
        """Give what a number of steps releases about a unit of one site, as the accountant sees it.

        Under noise on the sum: to the coordinator and `colluders` sites together, in the turn that tells most.

        Raises:
            ValueError: a plan without differential privacy.
        """
        if self.dp is None:
            raise ValueError("a plan with differential privacy")
        if self.dp.on_sum is None:
            return self.dp.events(steps=steps, size=self.vector_size)
        return self._sum_events(self.dp, steps=steps, shares=self.dp.on_sum.shares)

    def releases(self, *, first: int, last: int) -> tuple[StepEvents, ...]:
        """Give what the rounds from `first` to `last` release about a unit of one site: steps, and votes.

        Raises:
            ValueError: a plan without differential privacy.
        """
        trained = self._trained_between(first=first, last=last)
        votes = 0 if self.vote is None else last - first + 1 - trained
        steps = (self.events(steps=trained * self.training.steps_per_round),) if trained else ()
        return (*steps, *((self._vote_events(votes),) if votes else ()))

    def _vote_events(self, votes: int) -> StepEvents:
        if self.dp is None or self.vote is None or self.vote.noise_multiplier is None:
            raise ValueError("a plan with votes and differential privacy")
        noise = self.vote.noise_multiplier
        return StepEvents(
            sampling_rate=1.0,
            noise_multiplier=on_grid(noise, size=1) if self.dp.noise == "discrete" else noise,
            steps=votes,
            unit=self.dp.unit,
        )

    def events_alone(self, *, steps: int) -> StepEvents:
        """Give what it releases if all other sites tell the coordinator their shares: the site's own is what is left.

        Raises:
            ValueError: a plan without differential privacy.
        """
        if self.dp is None or self.dp.on_sum is None:
            return self.events(steps=steps)
        return self._sum_events(self.dp, steps=steps, shares=1)

    def noised(self, number: int) -> NoisedEncoding:
        """Give how round `number` is encoded under noise on the sum.

        Raises:
            ValueError: a plan without it, or fields too narrow for it.
        """
        dp = self.dp
        if dp is None or dp.on_sum is None:
            raise ValueError("a plan with noise on the sum")
        root = math.sqrt(dp.on_sum.shares)
        stds = {
            UPDATE: dp.noise_multiplier * self._clip_norm(dp, number) / root,
            LOSS: dp.loss_noise_multiplier * dp.loss_clip / root,
        }
        return NoisedEncoding(encoding=self.encoding_of(number), share_stds=stds)

    def _sum_events(self, dp: DpPlan, *, steps: int, shares: int) -> StepEvents:
        return StepEvents(
            sampling_rate=dp.sampling_rate,
            noise_multiplier=min(self._sum_multiplier(dp, number, shares) for number in self._first_rounds()),
            steps=steps,
            unit=dp.unit,
            slack=OVERFLOW + len(self.encoding.blocks) * LONG_ROUNDING,
        )

    def _sum_multiplier(self, dp: DpPlan, number: int, shares: int) -> float:
        noised = self.noised(number)
        gradient = noised.multiplier(UPDATE, bound=self._clip_norm(dp, number), shares=shares)
        return joint_multiplier(gradient, noised.multiplier(LOSS, bound=dp.loss_clip, shares=shares))

    def _clip_norm(self, dp: DpPlan, number: int) -> float:
        turn = self.turn(number)
        return dp.clip_norm * (1.0 if turn is None else turn.clip_norm)

    def _first_rounds(self) -> tuple[int, ...]:
        """One round of each turn."""
        return tuple(1 + place * self.rounds_per_turn for place in range(max(1, len(self.turns))))

    def sealed_bytes(self) -> int:
        """Bytes of sealed vectors that a site sends in all rounds that ask it, each answered once."""
        votes = 0 if self.vote is None else self.rounds - self.training_rounds
        return self.training_bytes() + (votes * self.encoding_of(2).bytes() if votes else 0)

    def training_bytes(self) -> int:
        """Those of the rounds that train."""
        if not self.turns:
            return self.training_rounds * self.encoding.bytes()
        each, apart = self.rounds_per_turn, self._apart
        whole, rest = divmod(self.training_rounds, each * len(self.turns))
        first = [place * each for place in range(len(self.turns))]
        counts = [whole * each + min(max(rest - start, 0), each) for start in first]
        shapes = [self.encoding_of(start * apart + 1) for start in first]
        return sum(count * shape.bytes() for count, shape in zip(counts, shapes, strict=True))


def rotation_seed(plan_sha256: str, *, number: int) -> bytes:
    """Public seed of a round's rotation: every site of the round uses the same, no two rounds of a plan share one."""
    return hashlib.sha256(f"partsong rotation\0{plan_sha256}\0{number}".encode()).digest()
