"""A federation in one process: the coordinator's ServerApp and the sites' ClientApp over a local Grid.

What runs here is what runs in production; only the transport, the clock of drop-outs and the randomness of seeded
tests differ.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict

from partsong.client.app import make_app as make_client_app
from partsong.client.encoders.encoder import Progress
from partsong.client.model.host import Scores
from partsong.client.model.lora import public_start
from partsong.client.site import Watch
from partsong.client.train import score
from partsong.common import events
from partsong.common.adapter import FloatVec, flatten
from partsong.common.build import to_tree
from partsong.common.errors import ConfigError, DataError, PartsongError, RoundAborted
from partsong.common.files import write_json
from partsong.common.methods import ServerState
from partsong.common.plan import Plan
from partsong.server.app import make_app as make_server_app
from partsong.server.checkpoint import Checkpoints, Saved
from partsong.server.coordinator import Coordinator
from partsong.server.exchange import Exchange
from partsong.server.planning import Base, epsilon_after, make_plan
from partsong.server.report import SumFacts
from partsong.server.secure_sum.masked_sums import MaskedSums
from partsong.server.secure_sum.sum_journal import SumJournal
from partsong.server.studies.train import Step, step_of, train
from partsong.simulations.consortium import floors_of, found
from partsong.simulations.faults import Drop, Faulty, parse_drop
from partsong.simulations.local_grid import LocalGrid
from partsong.simulations.prepare import Prepared, labels_of
from partsong.simulations.run_dir import RunDir
from partsong.simulations.sites import make_site

SiteError = Callable[[str, PartsongError], None]


class Diverged(PartsongError):
    """The global adapter or its held-out loss is not finite; the round that made it was not saved."""

    def __init__(self, number: int, what: str) -> None:
        """Name the round, and what of it is not finite."""
        super().__init__(
            f"round {number}: found {what} that is not finite, expected finite numbers; the round was not saved; "
            "lower training.learning_rate or optimizer.learning_rate"
        )


class Stopped(Exception):
    """Ends a site's training when the run is stopped; never seen outside its thread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a federation ended with."""

    plan: Plan
    trained_P: FloatVec
    frozen_F: FloatVec
    history: list[dict[str, Any]]
    """One entry a round: who, loss, epsilon, bytes, held-out scores."""
    epsilon: float | None
    secure_sum: SumFacts | None
    """None: the run was unmasked."""


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
        """Set the run up: keys and charter are written, nothing is trained yet.

        Raises:
            ConfigError: the run that is configured cannot be; see `draft`.

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
        self._stopping = threading.Event()
        self._checked_by: tuple[str, ...] = ()
        self._started = time.monotonic()
        # The start depends on the public seed only, whatever was trained on this host before.
        self._start_P, self._frozen_F = fresh_adapter(prepared)
        self.plan, self._drops = draft(prepared, self._names, run=run.name)
        self._consortium = found(self._names, prepared.config, run) if self.plan.masked else None

    def run(self) -> Result:
        """Run from the newest checkpoint, or from the start, to the last round.

        Guarantees:
            - with the noise off and a seed, a run that was killed and resumed ends with the same adapter as one
              that was not;
            - under differential privacy a round whose query went out counts as spent, finished or not; one that did
              not finish stands in the history with the reason.
        Raises:
            DataError: the directory holds a run of another plan; nothing was trained.
            RunNotStarted: too few sites accepted the plan.
            RoundAborted: no round had a sum, so there is no adapter.
            Diverged: the global adapter is useless; the last good checkpoint stands.
            TryAgain: the disk is full; resume later.
        """
        self._keep_plan()
        saved = self._checkpoints.load()
        if saved is None:
            saved = Saved(round=0, state=ServerState(adapter_P=self._start_P.astype(np.float64)), facts={"history": []})
            if self._prepared.config.evaluate_every:
                self._evaluate(0, self._start_P)
        sums = self._masked_sums()
        recovered = [] if sums is None else sums.recovered(after=saved.round)
        lost = self._lost_rounds(after=saved.round, recovered={outcome.state.number for outcome in recovered})
        for entry in lost:
            self._listen(events.RoundAbandoned(round=entry["round"], reason=entry["reason"]))
        history = [*saved.facts["history"], *lost]
        self._run.rewrite_metrics(history)
        state, done = saved.state, saved.round
        for outcome in recovered:
            step = step_of(state, outcome, self._prepared.config.optimizer)
            self._keep(step, history)
            state, done = step.state, step.round
        saved = Saved(round=done, state=state, facts={})
        trained_P = self._play(saved, history, sums).adapter_P.astype(np.float32)
        if not any(line["sites"] for line in history):
            raise RoundAborted(f"run {self._run.name}: no round ended with a sum; there is no adapter")
        return Result(
            plan=self.plan,
            trained_P=trained_P,
            frozen_F=self._frozen_F,
            history=history,
            epsilon=self._spent(),
            secure_sum=None if self._consortium is None else self._consortium.facts(checked_by=self._checked_by),
        )

    def _masked_sums(self) -> MaskedSums | None:
        if self._consortium is None:
            return None
        return MaskedSums(
            self._consortium.trust,
            self.plan,
            journal=SumJournal(self._run.coordinator),
            check_window=self._prepared.config.secure_sum.check_window,
        )

    def _play(self, saved: Saved, history: list[dict[str, Any]], sums: MaskedSums | None) -> ServerState:
        """Let coordinator and sites talk until the last round is done."""
        made = {
            name: make_site(name, self._prepared, self._run, self._consortium, watch=self._watch(name))
            for name in self._names
        }
        app = make_client_app(lambda context: made[str(context.node_config["site"])][0])
        grid = LocalGrid(Faulty(app, self._drops), self._names, on_error=self._on_site_error)
        last: list[ServerState] = []
        server = make_server_app(lambda exchange: last.append(self._drive(exchange, saved, history, sums)))
        try:
            server(grid, Context(run_id=0, node_id=1, node_config={}, state=RecordDict(), run_config={}))
        finally:
            self._stopping.set()
            grid.close()
            for _, ledger in made.values():
                ledger.close()
        return last[0]

    def _keep_plan(self) -> None:
        """Write the plan down, or find that it is the one that was."""
        file, tree = self._run.plan, json.loads(json.dumps(to_tree(self.plan)))
        if not file.exists():
            write_json(file, tree)
        elif json.loads(file.read_text()) != tree:
            raise DataError(
                str(file),
                found="another plan than this model and configuration give now",
                expected="the same one",
                remedy="resume with the model and the versions that began the run (run.json), or start a new run",
            )

    def _lost_rounds(self, *, after: int, recovered: set[int]) -> list[dict[str, Any]]:
        """Rounds whose query went out but which never finished. Spent, so they are not asked again."""
        if self.plan.dp is None:
            return []
        return [
            {
                "round": number,
                "sites": [],
                "lost": {},
                "loss": None,
                "epsilon": epsilon_after(self.plan, number),
                "update_norm": 0.0,
                "bytes_out": {},
                "reason": f"round {number}: lost, the run was stopped after its query went out; its budget is spent",
                "seconds": 0.0,
            }
            for number in sorted(self._checkpoints.attempts())
            if number > after and number not in recovered
        ]

    def _drive(
        self, exchange: Exchange, saved: Saved, history: list[dict[str, Any]], sums: MaskedSums | None
    ) -> ServerState:
        """Answer the study's queries until it is done."""
        config = self._prepared.config
        coordinator = Coordinator(
            exchange, self.plan, timeout_s=config.cohort.report_timeout_s, listen=self._listen, sums=sums
        )
        coordinator.propose(self._frozen_F, self._start_P)
        study = train(
            saved.state,
            config.optimizer,
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
        self._checked_by = coordinator.close(state.adapter_P.astype(np.float32))
        return state

    def _keep(self, step: Step, history: list[dict[str, Any]]) -> None:
        """Score, record and save a finished round; then tell."""
        outcome = step.outcome
        entry: dict[str, Any] = {
            "round": step.round,
            "sites": list(outcome.state.survivors) if outcome.opened else [],
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
                    sites=outcome.state.survivors,
                    loss=outcome.opened.loss,
                    epsilon=entry["epsilon"],
                    update_norm=step.update_norm,
                )
            )
        adapter_P = _single(step)
        every = self._prepared.config.evaluate_every
        if every and (step.round % every == 0 or step.round == self.plan.rounds):
            entry["held_out"] = self._evaluate(step.round, adapter_P)
        history.append(entry)
        self._checkpoints.save(Saved(round=step.round, state=step.state, facts={"history": history}))
        self._run.rewrite_metrics(history)

    def _evaluate(self, number: int, adapter_P: FloatVec) -> dict[str, float] | None:
        if self._prepared.held_out is None:
            return None
        scores = score_adapter(self._prepared, adapter_P, self._frozen_F)
        found = {"loss": float(scores.loss_N.mean()), "exact": float(scores.hit_N.mean())}
        if not math.isfinite(found["loss"]):
            raise Diverged(number, "a held-out loss of the global adapter")
        self._listen(events.Evaluated(round=number, **found))
        return found

    def _watch(self, name: str) -> Watch:
        return Watch(
            step=lambda number, progress: self._step(name, number, progress),
            refusal=lambda refused: self._on_site_error(name, refused),
        )

    def _step(self, site: str, number: int, progress: Progress) -> None:
        if self._stopping.is_set():
            raise Stopped
        self._listen(
            events.SiteProgress(
                site=site, round=number, step=progress.step, steps=progress.steps, local_loss=progress.local_loss
            )
        )

    def _spent(self) -> float | None:
        """By the rounds whose query went out, not by those that finished."""
        return epsilon_after(self.plan, len(self._checkpoints.attempts()))


def _single(step: Step) -> FloatVec:
    """The global adapter in single precision, as it is sent and published."""
    with np.errstate(over="ignore"):
        adapter_P = step.state.adapter_P.astype(np.float32)
    if not np.isfinite(adapter_P).all():
        raise Diverged(step.round, "a global adapter")
    return adapter_P


def draft(prepared: Prepared, names: tuple[str, ...], *, run: str) -> tuple[Plan, tuple[Drop, ...]]:
    """Turn a configuration into the plan and the scripted faults of a run of `names`; writes nothing.

    Raises:
        ConfigError: fewer sites than the floor, a delta that a site cannot accept, noise that does not keep the
            budget, or a fault for a site or round that does not exist.
    """
    config, host = prepared.config, prepared.host
    if len(names) < config.cohort.minimum:
        raise ConfigError(
            "cohort.minimum",
            found=f"{config.cohort.minimum} with {len(names)} sites",
            expected="at most the number of sites",
            remedy="a sum of few sites hides little: rather take more sites than a lower floor",
        )
    unit = config.privacy.unit
    largest = max(prepared.sites[name].count(unit) or 0 for name in names)
    if config.privacy.mode == "dp" and config.privacy.delta * largest >= 1:
        raise ConfigError(
            "privacy.delta", found=f"{config.privacy.delta:g} with {largest} {unit}s", expected=f"below {1 / largest:g}"
        )
    start_P, frozen_F = fresh_adapter(prepared)
    if config.secure_sum.mode == "full":
        floors_of(config, sites=len(names))
    try:
        plan = make_plan(
            config,
            # The plan's digest seeds the rotation, so runs of one seed agree only if the plan names no time.
            run=run if config.seed is None else f"{config.study}-seed-{config.seed}",
            max_sites=len(names),
            base=Base(sha256=host.files.sha256, lora=host.lora_options, layout=host.layout),
            labels=labels_of(prepared),
            frozen_F=frozen_F,
            start_P=start_P,
        )
    except ValueError as err:
        raise ConfigError("secure_sum", found="an encoding that cannot be", expected=str(err)) from err
    return plan, tuple(parse_drop(d, sites=names, rounds=config.rounds) for d in config.drop)


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
