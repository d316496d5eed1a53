"""A federation in one process: the coordinator's ServerApp and the sites' ClientApp over a local Grid.

What runs here is what runs in production; only the transport, the clock of drop-outs and the randomness of seeded
tests differ.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict

from partsong.client.app import make_app as make_client_app
from partsong.client.consent import Rules
from partsong.client.dp.sampler import SeededRandomness, SystemRandomness
from partsong.client.model.host import Scores
from partsong.client.model.lora import public_start
from partsong.client.site import Chance, Site
from partsong.client.train import Progress, score
from partsong.common import events
from partsong.common.adapter import FloatVec, flatten
from partsong.common.errors import PartsongError, RoundAborted
from partsong.common.files import write_json
from partsong.common.methods import ServerState
from partsong.common.plan import Plan
from partsong.server.app import make_app as make_server_app
from partsong.server.checkpoint import Checkpoints, Saved
from partsong.server.coordinator import Coordinator
from partsong.server.exchange import Exchange
from partsong.server.planning import Base, epsilon_after, make_plan
from partsong.server.studies.train import Step, train
from partsong.simulations.faults import Faulty, parse_drop
from partsong.simulations.local_grid import LocalGrid
from partsong.simulations.prepare import Prepared
from partsong.simulations.run_dir import RunDir

SiteError = Callable[[str, PartsongError], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a federation ended with."""

    plan: Plan
    trained_P: FloatVec
    frozen_F: FloatVec
    history: list[dict[str, Any]]
    """One entry a round: who, loss, epsilon, bytes, held-out scores."""
    epsilon: float | None


class Federation:
    """One run, from its plan to its last round."""

    def __init__(
        self,
        prepared: Prepared,
        run: RunDir,
        *,
        sites: tuple[str, ...] | None = None,
        listen: events.Listener = lambda _: None,
        on_site_error: SiteError = lambda _s, _e: None,
    ) -> None:
        """Set the run up; nothing is trained yet.

        Args:
            prepared: model, records and configuration.
            run: where checkpoints and journals go.
            sites: which of the prepared sites take part; None: all.
            listen: told what happens.
            on_site_error: told what went wrong at a site, with the site's own words.
        """
        self._prepared, self._run, self._listen, self._on_site_error = prepared, run, listen, on_site_error
        self._names = tuple(sorted(prepared.sites)) if sites is None else sites
        self._checkpoints = Checkpoints(run.path)
        self._bytes: dict[str, int] = {}
        host, config = prepared.host, prepared.config
        # The start depends on the public seed only, whatever was trained on this host before.
        self._start_P, self._frozen_F = fresh_adapter(prepared)
        self.plan = make_plan(
            config,
            run=run.name,
            max_sites=len(self._names),
            base=Base(sha256=host.files.sha256, lora=host.lora_options, layout=host.layout),
            labels=self._labels,
            frozen_F=self._frozen_F,
        )
        self._drops = tuple(parse_drop(d, sites=self._names, rounds=config.rounds) for d in config.drop)

    def run(self) -> Result:
        """Run from the newest checkpoint, or from the start, to the last round.

        Guarantees:
            - with the noise off and a seed, a run that was killed and resumed ends with the same adapter as one
              that was not;
            - under differential privacy a round whose query went out counts as spent, finished or not.
        Raises:
            RunNotStarted: too few sites accepted the plan.
            TryAgain: the disk is full; resume later.
        """
        saved = self._checkpoints.load()
        if saved is None:
            saved = Saved(round=0, state=ServerState(adapter_P=self._start_P.astype(np.float64)), facts={"history": []})
            if self._prepared.config.evaluate_every:
                self._evaluate(0, self._start_P)
        history = list(saved.facts["history"])
        self._run.rewrite_metrics(history)
        sites = {name: self._site(name) for name in self._names}
        app = make_client_app(lambda context: sites[str(context.node_config["site"])])
        grid = LocalGrid(Faulty(app, self._drops), self._names, on_error=self._on_site_error)
        last: list[ServerState] = []
        server = make_server_app(lambda exchange: last.append(self._drive(exchange, saved, history)))
        try:
            server(grid, _no_context())
        finally:
            grid.close()
        trained_P = last[0].adapter_P.astype(np.float32)
        if not any(line["sites"] for line in history):
            raise RoundAborted(f"run {self._run.name}: no round ended with a sum; there is no adapter")
        return Result(
            plan=self.plan, trained_P=trained_P, frozen_F=self._frozen_F, history=history, epsilon=self._spent(history)
        )

    def _drive(self, exchange: Exchange, saved: Saved, history: list[dict[str, Any]]) -> ServerState:
        """Answer the study's queries until it is done."""
        coordinator = Coordinator(
            exchange, self.plan, timeout_s=self._prepared.config.cohort.report_timeout_s, listen=self._hear
        )
        coordinator.propose(self._frozen_F)
        study = train(
            saved.state,
            self._prepared.config.optimizer,
            rounds=self.plan.rounds,
            first=saved.round + 1,
            attempts=self._checkpoints.attempts(),
            spend_attempts=self.plan.dp is not None,
            keep=lambda step: self._keep(step, history),
        )
        try:
            query = next(study)
            while True:
                self._checkpoints.note_opened(number=query.round, attempt=query.attempt)
                self._started = time.monotonic()
                query = study.send(coordinator.run(query))
        except StopIteration as end:
            state: ServerState = end.value
        return state

    def _keep(self, step: Step, history: list[dict[str, Any]]) -> None:
        """Score, record and save a finished round; then tell."""
        outcome = step.outcome
        entry: dict[str, Any] = {
            "round": step.round,
            "sites": list(outcome.state.reported) if outcome.opened else [],
            "lost": {site: why.value for site, why in sorted(outcome.state.lost.items())},
            "loss": outcome.opened.loss if outcome.opened else None,
            "epsilon": epsilon_after(self.plan, step.round),
            "update_norm": step.update_norm,
            "bytes_out": outcome.bytes_out,
            "reason": outcome.state.reason,
            "seconds": round(time.monotonic() - self._started, 3),
        }
        if outcome.opened is not None:
            self._listen(
                events.RoundSummed(
                    round=step.round,
                    sites=outcome.state.reported,
                    loss=outcome.opened.loss,
                    epsilon=entry["epsilon"],
                    update_norm=step.update_norm,
                )
            )
        every = self._prepared.config.evaluate_every
        if every and (step.round % every == 0 or step.round == self.plan.rounds):
            entry["held_out"] = self._evaluate(step.round, step.state.adapter_P.astype(np.float32))
        history.append(entry)
        self._checkpoints.save(Saved(round=step.round, state=step.state, facts={"history": history}))
        self._run.rewrite_metrics(history)

    def _evaluate(self, number: int, adapter_P: FloatVec) -> dict[str, float] | None:
        if self._prepared.held_out is None:
            return None
        scores = score_adapter(self._prepared, adapter_P, self._frozen_F)
        found = {"loss": float(scores.loss_N.mean()), "exact": float(scores.hit_N.mean())}
        self._listen(events.Evaluated(round=number, **found))
        return found

    def _site(self, name: str) -> Site:
        config = self._prepared.config
        return Site(
            name=name,
            host=self._prepared.host,
            encoded=self._prepared.sites[name],
            labels=self._labels,
            rules=Rules(
                max_epsilon=config.privacy.epsilon,
                allow_without_privacy=config.privacy.mode == "none",
                minimum_cohort=config.cohort.minimum,
                minimum_records=1,
            ),
            journal=self._run.journal(name),
            chance=lambda plan, number: chance(name, plan, number),
            on_step=lambda number, progress: self._step(name, number, progress),
        )

    def _step(self, site: str, number: int, progress: Progress) -> None:
        self._listen(
            events.SiteProgress(
                site=site, round=number, step=progress.step, steps=progress.steps, local_loss=progress.local_loss
            )
        )

    def _hear(self, event: events.Event) -> None:
        self._listen(event)

    def _spent(self, history: list[dict[str, Any]]) -> float | None:
        opened = max((line["round"] for line in history), default=0)
        return epsilon_after(self.plan, opened)

    @property
    def _labels(self) -> tuple[str, ...]:
        return self._prepared.tables.labels if self._prepared.host.is_classifier else ()


def chance(site: str, plan: Plan, number: int) -> Chance:
    """Randomness of one round at one site: the operating system's, or repeatable where the plan has a seed.

    A plan with differential privacy has no seed, so its samples and noise never come from here.
    """
    if plan.seed is None:
        return Chance(samples=SystemRandomness(), rounding=np.random.default_rng())
    seed = hashlib.sha256(f"partsong test seed\0{plan.seed}\0{site}\0{number}".encode()).digest()
    return Chance(samples=SeededRandomness(seed), rounding=np.random.default_rng(int.from_bytes(seed[:8], "big")))


def fresh_adapter(prepared: Prepared) -> tuple[FloatVec, FloatVec]:
    """Draw the adapter's start from the public seed: trained and frozen part."""
    layout = prepared.host.layout
    start = public_start(layout, prepared.config.adapter)
    return flatten(start, layout.trained), flatten(start, layout.frozen)


def score_adapter(prepared: Prepared, trained_P: FloatVec, frozen_F: FloatVec) -> Scores:
    """Score an adapter on the held-out records."""
    if prepared.held_out is None:
        raise AssertionError("the caller has checked that there are held-out records")
    prepared.host.put(frozen_F, trained=False)
    prepared.host.put(trained_P)
    batch_size = prepared.config.training.per_device_eval_batch_size
    return score(prepared.host, prepared.held_out.records, batch_size=batch_size)


def record_partition(prepared: Prepared, run: RunDir) -> None:
    """Write down who got how many records, and what tokenising did to them."""
    sites = {
        name: {**prepared.tables.manifest.get(name, {}), "encoding": dataclasses.asdict(encoded.report)}
        for name, encoded in prepared.sites.items()
    }
    write_json(run.path / "partition.json", sites)


def _no_context() -> Context:
    return Context(run_id=0, node_id=1, node_config={}, state=RecordDict(), run_config={})
