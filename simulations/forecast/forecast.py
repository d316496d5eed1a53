"""Predict what a planned job costs before any budget is spent: its plan, and a few of its rounds on public text.

Covers: the short run has the plan's noise, steps and sealed vector, and spends nothing of any real ledger.
Does not cover: other machines than this one, and records that are longer or more than those of the short run.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from partsong.common import events
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError
from partsong.common.plan import Plan
from partsong.server.planning import epsilon_after
from partsong.server.run import Result
from partsong.simulations.federation import Federation, draft
from partsong.simulations.marks import marks
from partsong.simulations.prepare import Prepared, prepare
from partsong.simulations.resources import peak_mb
from partsong.simulations.run_dir import RunDir

SHORT_ROUNDS = 3
"""The first is warm-up, the median of three is not its time; and two differences of the loss show how it bends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a planned run will cost, played on this machine."""

    rounds: int
    """Of the planned run."""
    measured_rounds: int
    """Of the short run."""
    sites: int
    epsilon: float | None
    """Bound of the whole run at each site, exact; None without privacy."""
    noise_multiplier: float | None
    bytes_out_per_site: int
    """Sealed vectors that leave a site over the whole run."""
    bytes_out: int
    """The same of all sites."""
    round_s: float
    """Median of a round, all sites on this machine."""
    wall_s: float
    """From the loading of the model to the last round."""
    peak_mb: float
    held_out_loss: tuple[float, float] | None
    """Low: what a round gains falls as one over its number from the last short round on. High: nothing more is gained.
    None without held-out records."""


class _Times:
    """Listens to a run and notes how long its parts take."""

    def __init__(self) -> None:
        self._opened_s = self._summed_s = 0.0
        self.first_s: float | None = None
        self.rounds_s: list[float] = []
        self.scores_s: list[float] = []
        self.losses: list[float] = []

    def __call__(self, event: events.Event) -> None:
        now_s = time.perf_counter()
        if isinstance(event, events.RoundOpened):
            self._opened_s = now_s
            self.first_s = now_s if self.first_s is None else self.first_s
        elif isinstance(event, events.RoundSummed):
            self._summed_s = now_s
            self.rounds_s.append(now_s - self._opened_s)
        elif isinstance(event, events.Evaluated):
            self.losses.append(event.loss)
            if event.round:
                self.scores_s.append(now_s - self._summed_s)


def forecast(
    config: SimulationConfig, *, rounds: int = SHORT_ROUNDS, listen: Callable[[events.Event], None] = lambda _: None
) -> Forecast:
    """Play the first rounds of a planned run and extrapolate.

    Args:
        config: of the planned run; its records are used, so they have to be public or synthetic.
        rounds: to play, >= 2; never more than are planned.
        listen: told how they go on.
    Raises:
        InputError: as `simulate`.
        RoundAborted: none of the short run's rounds had a sum.
    """
    begun_s = time.perf_counter()
    prepared = prepare(config)
    plan, _ = draft(prepared, tuple(sorted(prepared.sites)), run="forecast")
    played = min(rounds, config.rounds)
    times = _Times()

    def heard(event: events.Event) -> None:
        times(event)
        listen(event)

    with tempfile.TemporaryDirectory() as folder:
        short = prepared.with_config(shortened(config, plan, rounds=played, folder=Path(folder)))
        ready_s = time.perf_counter()
        result = Federation(short, RunDir.create(short.config, marks=marks(short.config)), listen=heard).run()
        ended_s = time.perf_counter()
    if times.first_s is None or not times.rounds_s:
        raise AssertionError("a run without a sum has raised")
    around_s = (times.first_s - begun_s) + _after(ended_s - times.first_s, times)
    return _extrapolated(prepared, plan, result, times, rounds=played, around_s=max(around_s, ready_s - begun_s))


def shortened(config: SimulationConfig, plan: Plan, *, rounds: int, folder: Path) -> SimulationConfig:
    """Give the configuration of the planned run's first rounds, with the noise of the whole.

    Raises:
        ConfigError: scripted drop-outs, which name rounds.
    """
    if config.drop or config.faults:
        raise ConfigError("drop", found="scripted faults", expected="a plan without them, for a forecast")
    privacy = config.privacy
    if plan.dp is not None:
        privacy = dataclasses.replace(privacy, noise_multiplier=plan.dp.noise_multiplier)
    return dataclasses.replace(config, rounds=rounds, privacy=privacy, evaluate_every=1, run_dir=str(folder))


def _after(played_s: float, times: _Times) -> float:
    """Time of the short run that neither a round nor an evaluation took."""
    return max(0.0, played_s - sum(times.rounds_s) - sum(times.scores_s))


def _extrapolated(
    prepared: Prepared, plan: Plan, result: Result, times: _Times, *, rounds: int, around_s: float
) -> Forecast:
    config = prepared.config
    every = config.evaluate_every
    settled = [plan.training_number(n) for n in range(1, plan.rounds + 1) if plan.settles(n)]
    scored = len([done for done in settled if every and (done % every == 0 or done == settled[-1])])
    round_s = statistics.median(times.rounds_s)
    score_s = statistics.median(times.scores_s) if times.scores_s else 0.0
    summed = [entry for entry in result.history if entry["sites"]]
    per_site = statistics.median([size for entry in summed for size in entry["bytes_out"].values()])
    # A sample draws as many in every round; of groups each site is in one.
    answers = plan.rounds * config.cohort.sample if config.cohort.sample else plan.queries * len(prepared.sites)
    return Forecast(
        rounds=plan.rounds,
        measured_rounds=rounds,
        sites=len(prepared.sites),
        epsilon=epsilon_after(plan, plan.rounds),
        noise_multiplier=None if plan.dp is None else plan.dp.noise_multiplier,
        bytes_out_per_site=round(per_site * plan.queries),
        bytes_out=round(per_site * answers),
        round_s=round_s,
        wall_s=around_s + plan.rounds * round_s + scored * score_s,
        peak_mb=peak_mb(),
        held_out_loss=loss_range(times.losses, rounds=plan.training_rounds),
    )


def loss_range(losses: list[float], *, rounds: int) -> tuple[float, float] | None:
    """Bound the held-out loss at the end by two extrapolations.

    Args:
        losses: after round 0, 1, ..., or empty.
        rounds: of the planned run.
    Returns:
        low and high: the gain of round t falls as 1 / t from the last one on, and there is no further gain.
    """
    if len(losses) < 2:
        return None
    played = len(losses) - 1
    gain = max(0.0, (losses[0] - losses[-1]) / sum(1 / t for t in range(1, played + 1)))
    further = gain * sum(1 / t for t in range(played + 1, rounds + 1))
    return max(0.0, losses[-1] - further), losses[-1]
