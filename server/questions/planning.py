"""From a configuration to the plan of an evaluation or a survey: parts, noise for the budget, the sealed vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from partsong.common.adapters.adapter import FloatVec, digest
from partsong.common.config import PrivacyConfig, SimulationConfig
from partsong.common.deployment import JobConfig
from partsong.common.errors import ConfigError
from partsong.common.plan import LOSS, UPDATE, Plan
from partsong.common.privacy.accounting import for_grid
from partsong.common.privacy.calibration import calibrate
from partsong.common.privacy.terms import DpPlan
from partsong.common.questions.question import (
    CONFIDENCE,
    CONFUSION,
    DUPLICATES,
    GROUPS,
    HITS,
    PERSONAL,
    ROUGE,
    TABLE,
    TOKEN_LOSS,
    TOKENS,
    UNITS,
    PartName,
    Question,
    equal_parts,
)
from partsong.common.secure_sum.fixed_point import Block, Encoding
from partsong.common.thresholds import Floors
from partsong.server.planning import Base, make_plan

FIELD_BITS = 32
"""The vector is small, so its numbers may be wide: one step is far below the noise."""
_UNASKED = 1000.0
"""Noise of a loss that nobody asks for / noise of what is asked for: a millionth of the privacy."""
_NOISE_SDS = 10.0
"""Room for noise beside the largest count; more happens with a probability below 1e-22."""


Config = SimulationConfig | JobConfig


def question_of(config: Config, *, labels: tuple[str, ...]) -> Question:
    """Say what is counted.

    Args:
        config: with purpose evaluate or survey.
        labels: the closed list of classes; empty for a language model.
    Raises:
        ConfigError: more numbers than a question may have.
    """
    try:
        return _evaluation(config, labels) if config.purpose == "evaluate" else _survey(config, labels)
    except ValueError as err:
        raise ConfigError(config.purpose, found="a question that cannot be", expected=str(err)) from err


def plan_of_purpose(
    config: Config,
    *,
    run: str,
    max_sites: int,
    base: Base,
    labels: tuple[str, ...],
    frozen_F: FloatVec,
    start_P: FloatVec,
    floors: Floors | None = None,
    names: Sequence[str] = (),
) -> Plan:
    """Fix everything about a run, whatever it is for; see `make_plan` and `make_question_plan`."""
    if config.purpose == "train":
        return make_plan(
            config,
            run=run,
            max_sites=max_sites,
            base=base,
            labels=labels,
            frozen_F=frozen_F,
            start_P=start_P,
            floors=floors,
            names=names,
        )
    return make_question_plan(
        config, run=run, max_sites=max_sites, base=base, labels=labels, frozen_F=frozen_F, start_P=start_P
    )


def make_question_plan(
    config: Config,
    *,
    run: str,
    max_sites: int,
    base: Base,
    labels: tuple[str, ...],
    frozen_F: FloatVec,
    start_P: FloatVec,
) -> Plan:
    """Fix everything about one question. Arguments are those of `make_plan`; the start is the adapter in question.

    Raises:
        ConfigError: no such question can be asked, or no noise keeps its epsilon.
    """
    question = question_of(config, labels=labels)
    asked = config.evaluation.epsilon if config.purpose == "evaluate" else config.survey.epsilon
    dp = None if config.privacy.mode == "none" else _terms(config.privacy, question, asked)
    max_length, seed = (
        (config.max_length, None) if isinstance(config, JobConfig) else (config.data.max_length, config.seed)
    )
    return Plan(
        run=run,
        study=config.purpose,
        task=config.model.task,
        rounds=1,
        base_sha256=base.sha256,
        method=config.adapter.method,
        lora=dict(base.lora),
        layout=base.layout,
        frozen_sha256=digest(frozen_F),
        training=replace(config.training, steps_per_round=1),
        sampling_rate=1.0,
        dp=dp,
        encoding=_encoding(question, dp, max_sites=max_sites),
        masked=config.secure_sum.mode == "full",
        spot_checks=config.secure_sum.mode == "full" and config.secure_sum.check_window > 0,
        start_sha256=digest(start_P),
        optimizer=config.optimizer,
        minimum_cohort=config.cohort.minimum,
        labels=labels,
        max_length=max_length,
        seed=seed,
        question=question,
    )


def _evaluation(config: Config, labels: tuple[str, ...]) -> Question:
    chosen = config.evaluation
    names: list[PartName] = [UNITS, HITS]
    if labels:
        names.append(CONFUSION)
    if labels and chosen.calibration:
        names.append(CONFIDENCE)
    if not labels:
        names += [TOKENS, TOKEN_LOSS]
    if chosen.rouge:
        names.append(ROUGE)
    if chosen.groups:
        names.append(GROUPS)
    return Question(
        parts=equal_parts(*names),
        most_units=chosen.most_units,
        loss_clip=config.privacy.loss_clip,
        classes=len(labels),
        groups=chosen.groups,
        bins=chosen.bins,
        most_tokens=chosen.most_tokens,
        most_new_tokens=chosen.most_new_tokens,
    )


def _survey(config: Config, labels: tuple[str, ...]) -> Question:
    """No loss is asked for: its place in the vector holds a sum of zeros, with noise like any other."""
    chosen = config.survey
    names: list[PartName] = [UNITS, TABLE, DUPLICATES]
    if chosen.personal_details:
        names.append(PERSONAL)
    return Question(
        parts=equal_parts(*names),
        most_units=chosen.most_units,
        loss_clip=config.privacy.loss_clip,
        classes=len(labels),
        groups=chosen.groups,
        lengths=chosen.lengths,
    )


def _terms(privacy: PrivacyConfig, question: Question, asked: float) -> DpPlan:
    """Give the loss the noise that every other part has, too: a part of k has sqrt(k) times the multiplier's.

    A survey's loss says nothing, so it has so much noise that it takes nothing of the budget.
    """
    ratio = _UNASKED if TABLE in {part.name for part in question.parts} else math.sqrt(len(question.parts))
    sigma = calibrate(sampling_rate=1.0, steps=1, epsilon=asked, delta=privacy.delta, loss_noise_ratio=ratio)
    loss_sigma = sigma * ratio
    if privacy.noise == "discrete":
        try:
            sigma, loss_sigma = for_grid(sigma, size=question.size), for_grid(loss_sigma, size=1)
        except ValueError as err:
            raise ConfigError(
                "privacy.noise", found="discrete", expected=f"gaussian: {err}", remedy="or ask for fewer numbers"
            ) from err
    return DpPlan(
        unit=privacy.unit,
        contribution_bound=1 if privacy.unit == "patient" else None,
        epsilon=asked,
        delta=privacy.delta,
        sampling_rate=1.0,
        clip_norm=1.0,
        clipping="abadi",
        noise_multiplier=sigma,
        loss_clip=question.loss_clip,
        loss_noise_multiplier=loss_sigma,
        engine=privacy.engine,
        noise=privacy.noise,
    )


def _encoding(question: Question, dp: DpPlan | None, *, max_sites: int) -> Encoding:
    """Lay the sealed vector out: room for the largest counts and their noise, so that nothing is ever cut off."""
    noise, loss_noise = (0.0, 0.0) if dp is None else (dp.noise_multiplier, dp.loss_noise_multiplier)
    clip = question.largest(clip_norm=1.0) + _NOISE_SDS * noise
    loss_clip = question.loss_clip * (question.most_units + _NOISE_SDS * loss_noise)
    return Encoding(
        blocks=(
            Block(name=UPDATE, size=question.size, clip=clip, norm="linf", rotate=False),
            Block(name=LOSS, size=1, clip=loss_clip, norm="linf", rotate=False),
        ),
        field_bits=FIELD_BITS,
        max_sites=max_sites,
    )
