"""Which values the next trial takes: the next of a grid, or what Optuna makes of the trials before."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Protocol

from partsong.common.errors import ConfigError
from partsong.simulations.sweep.choices import Choices, Swept, grid
from partsong.simulations.sweep.folder import Trial


class Proposals(Protocol):
    """Proposes the values of trials, in order."""

    def __len__(self) -> int:
        """How many there will be."""
        ...

    def next(self, number: int, before: Mapping[int, Trial]) -> dict[str, str]:
        """Propose trial `number`, from 0, knowing those before it."""
        ...


class Grid:
    """Every combination."""

    def __init__(self, choices: Choices) -> None:
        """List them."""
        self._points = grid(choices)

    def __len__(self) -> int:
        """How many combinations there are."""
        return len(self._points)

    def next(self, number: int, before: Mapping[int, Trial]) -> dict[str, str]:  # noqa: ARG002
        """Give the combination of that number."""
        return self._points[number]


class Drawn:
    """Draws of Optuna's sampler, which learns from the losses so far."""

    def __init__(self, choices: Choices, *, trials: int, seed: int) -> None:
        """Prepare.

        Args:
            choices: what is swept.
            trials: how many to draw.
            seed: of the sampler; the same trials before give the same draw.
        Raises:
            ConfigError: Optuna is not installed.
        """
        if importlib.util.find_spec("optuna") is None:
            raise ConfigError("--trials", found="no Optuna", expected="it installed", remedy="install partsong[sweeps]")
        self._choices, self._trials, self._seed = choices, trials, seed

    def __len__(self) -> int:
        """How many draws there are."""
        return self._trials

    def next(self, number: int, before: Mapping[int, Trial]) -> dict[str, str]:
        """Draw, from the losses of the trials before; one that failed has none and is left out."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self._seed + number)
        study = optuna.create_study(sampler=sampler)
        spaces = {one.key: _space(one) for one in self._choices.swept}
        for trial in before.values():
            if trial.loss is not None:
                params = {one.key: _read(one, trial.values[one.key]) for one in self._choices.swept}
                study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=trial.loss))
        return {key: str(value) for key, value in study.ask(spaces).params.items()}


def proposals_of(choices: Choices, *, trials: int | None, seed: int) -> Proposals:
    """Choose by whether a number of trials was asked for."""
    return Grid(choices) if trials is None else Drawn(choices, trials=trials, seed=seed)


def _space(one: Swept) -> Any:
    from optuna import distributions

    if one.interval is None:
        return distributions.CategoricalDistribution(one.values)
    low, high = one.interval
    if one.whole:
        return distributions.IntDistribution(int(low), int(high), log=one.log)
    return distributions.FloatDistribution(low, high, log=one.log)


def _read(one: Swept, text: str) -> str | int | float:
    if one.interval is None:
        return text
    return int(text) if one.whole else float(text)
