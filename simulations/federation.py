"""A federation in one process: the coordinator's ServerApp and the sites' ClientApp over a local Grid.

What runs here is what runs in production; only the transport, the clock of drop-outs and the randomness of seeded
tests differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from partsong.client.budget.ledger import Ledger
from partsong.client.encoders.encoder import LocalUpdate, Progress
from partsong.client.model.host import Scores
from partsong.client.model.lora import public_start
from partsong.client.site import Site, Watch
from partsong.client.training.train import score
from partsong.common import events
from partsong.common.adapters.adapter import FloatVec, flatten
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, PartsongError
from partsong.common.files import write_bytes, write_json
from partsong.common.identity.keys import Signer, verified_once
from partsong.common.plan import Plan
from partsong.server.adapter_file import read_end
from partsong.server.exchange import Exchange
from partsong.server.planning import Base
from partsong.server.questions.planning import plan_of_purpose
from partsong.server.run import Diverged, Result, Run, Terms
from partsong.server.run_files import RunFiles
from partsong.simulations.consortium import found, sum_floors
from partsong.simulations.engine.choose import engine_of
from partsong.simulations.engine.engine import Engine
from partsong.simulations.engine.processes import ProcessCrew
from partsong.simulations.faults.clock import VirtualClock
from partsong.simulations.faults.exchange import CoordinatorKilled, Director, FaultyExchange
from partsong.simulations.faults.script import Script, draw, parse_drop, read_script, write_script
from partsong.simulations.in_the_clear import InTheClear
from partsong.simulations.own_tests import own_test, used_records
from partsong.simulations.partition_plot import partition_plot
from partsong.simulations.prepare import Prepared, labels_of
from partsong.simulations.run_dir import RunDir
from partsong.simulations.shortcuts import shortcuts
from partsong.simulations.sites import StandIn, honest, make_site
from partsong.simulations.stacked.choose import company_of, in_company, require_stackable

SiteError = Callable[[str, PartsongError], None]


class Stopped(Exception):
    """Ends a site's training when the run is stopped; never seen outside its thread."""


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
        stand_in: StandIn = honest,
        crew: ProcessCrew | None = None,
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
            stand_in: gives what a site computes with in place of its own encoder, in studies of sites that cheat; only
                for sites that are played in this process.
            crew: worker processes of this configuration that were started before. None: the run starts what it needs.
        """
        self._prepared, self._dir, self._listen, self._on_site_error = prepared, run, listen, on_site_error
        self._stand_in = stand_in
        self._names = tuple(sorted(prepared.sites)) if sites is None else sites
        self._stopping = threading.Event()
        # The start depends on the public seed only, whatever was trained on this host before.
        start_P, self._frozen_F = fresh_adapter(prepared)
        self.plan, script = draft(prepared, self._names, run=run.name)
        if script.faults:
            write_script(script, run.path)
        config = prepared.config
        with shortcuts():
            self._consortium = found(self._names, config, run) if self.plan.masked else None
        terms = Terms(
            plan=self.plan,
            adapter=lambda: (start_P, self._frozen_F),
            trust=None if self._consortium is None else self._consortium.trust,
            report_timeout_s=config.cohort.report_timeout_s,
            check_window=config.secure_sum.check_window,
            sample=config.cohort.sample,
            floors=sum_floors(config, sites=len(self._names)) if config.secure_sum.mode == "sum-only" else None,
        )
        self._clear = (
            InTheClear(self.plan, start_P=start_P, frozen_F=self._frozen_F) if config.measure_aggregation else None
        )
        self._summed: tuple[str, ...] = ()
        self._terms, self._clock, self._company = terms, VirtualClock(), company_of(prepared)
        signer = None if self._consortium is None else self._consortium.trust.signer
        self._director = Director(script, restart=self._restart, clock=self._clock, signer=signer)
        self._engine = self._chosen_engine(crew)
        self._run = self._coordinator()

    @property
    def signer(self) -> Signer | None:
        """With the coordinator's key of the charter; None for an unmasked run, which has neither."""
        return None if self._consortium is None else self._consortium.trust.signer

    def run(self) -> Result:
        """Run from the newest checkpoint, or from the start, to the last round.

        Guarantees:
            - with the noise off and a seed, a run that was killed and resumed ends with the same adapter as one
              that was not;
            - what `partsong.server.run` promises.
        Raises:
            DataError: the directory holds a run of another plan; nothing was trained.
            RunNotStarted: too few sites accepted the plan.
            RoundAborted: no round had a sum, so there is no adapter.
            Diverged: the global adapter is useless; the last good checkpoint stands.
            TryAgain: the disk is full; resume later.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(shortcuts())
            self._run.begin()
            stack.callback(self._engine.close)
            stack.callback(self._stopping.set)
            if self._prepared.config.engine.verify_once:
                stack.enter_context(verified_once())
            self._engine.start()
            return self._play()

    def _play(self) -> Result:
        """Let coordinator and sites talk until the last round is done, however often the script kills the former."""
        results: list[Result] = []

        def main(exchange: Exchange) -> None:
            faulty = FaultyExchange(exchange, self._director, site_at=self._engine.site_at)
            results.append(self._run.play(faulty))

        while not results:
            try:
                self._engine.play(main)
            except CoordinatorKilled:
                self._run = self._coordinator()
                self._run.begin()
        return results[0]

    def _chosen_engine(self, crew: ProcessCrew | None) -> Engine:
        """Prepare what plays the sites."""
        return engine_of(
            self._prepared,
            self._names,
            self._dir,
            start=self._start,
            company=self._company,
            crew=crew,
            clock_of=self._clock.of,
            listen=self._listen,
            on_error=self._on_site_error,
        )

    def _coordinator(self) -> Run:
        """Start the coordinator's process on its disk."""
        return Run(self._terms, self._dir, listen=self._hear, score=self._score, clock=self._clock)

    def _start(self, name: str) -> tuple[Site, Ledger]:
        return make_site(
            name,
            self._prepared,
            self._dir,
            self._consortium,
            watch=self._watch(name),
            clock=self._clock.of(name),
            stand_in=lambda site, encoder: self._stand_in(site, in_company(self._company, encoder)),
        )

    def _restart(self, name: str) -> None:
        """End a site's process and start it on its disk."""
        self._engine.restart(name)

    def _score(self, number: int, adapter_P: FloatVec) -> dict[str, Any]:
        """Score the held-out records in the rounds that ask for it."""
        every = self._prepared.config.evaluate_every
        settled = self.plan.question is None and self.plan.settles(number)
        done = self.plan.training_number(number)
        due = settled and every and (done % every == 0 or number == self.plan.rounds)
        found: dict[str, Any] = {"held_out": self._evaluate(number, adapter_P)} if due else {}
        if self._clear is not None and number:
            found |= self._clear.measure(number, adapter_P, sites=self._summed)
        self._summed = ()
        return found

    def _hear(self, event: events.Event) -> None:
        """Remember who is in a sum, and pass on."""
        if isinstance(event, events.RoundSummed):
            self._summed = event.sites
        self._listen(event)

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
            update=lambda number, update: self._look(name, number, update),
        )

    def _look(self, site: str, number: int, update: LocalUpdate) -> None:
        if self._clear is not None:
            self._clear.note(site, number, update.update_P)

    def _step(self, site: str, number: int, progress: Progress) -> None:
        if self._stopping.is_set():
            raise Stopped
        self._listen(
            events.SiteProgress(
                site=site, round=number, step=progress.step, steps=progress.steps, local_loss=progress.local_loss
            )
        )


def draft(prepared: Prepared, names: tuple[str, ...], *, run: str) -> tuple[Plan, Script]:
    """Turn a configuration into the plan and the scripted faults of a run of `names`; writes nothing.

    Raises:
        ConfigError: fewer sites than the floor, sites that cannot be stacked, a delta that a site cannot accept, noise
            that does not keep the budget, or a fault for a site or round that does not exist.
    """
    config, host = prepared.config, prepared.host
    require_stackable(prepared)
    if len(names) < config.cohort.minimum:
        raise ConfigError(
            "cohort.minimum",
            found=f"{config.cohort.minimum} with {len(names)} sites",
            expected="at most the number of sites",
            remedy="a sum of few sites hides little: rather take more sites than a lower floor",
        )
    unit = config.privacy.unit
    largest = max(used_records(prepared, name).encoded.count(unit) or 0 for name in names)
    if config.privacy.mode == "dp" and config.privacy.delta * largest >= 1:
        raise ConfigError(
            "privacy.delta", found=f"{config.privacy.delta:g} with {largest} {unit}s", expected=f"below {1 / largest:g}"
        )
    if config.vote.mode == "holdout" and config.purpose == "train":
        for name in names:
            own_test(prepared, name)
    start_P, frozen_F = fresh_adapter(prepared)
    floors = sum_floors(config, sites=len(names))
    try:
        plan = plan_of_purpose(
            config,
            # The plan's digest seeds the rotation, so runs of one seed agree only if the plan names no time.
            run=run if config.seed is None else f"{config.study}-seed-{config.seed}",
            max_sites=min(len(names), config.cohort.sample or len(names)),
            base=Base(sha256=host.files.sha256, lora=host.lora_options, layout=host.layout),
            labels=labels_of(prepared),
            frozen_F=frozen_F,
            start_P=start_P,
            floors=floors,
            names=names,
        )
    except ValueError as err:
        raise ConfigError("secure_sum", found="an encoding that cannot be", expected=str(err)) from err
    return plan, _script(config, names, rounds=plan.rounds)


def _script(config: SimulationConfig, names: tuple[str, ...], *, rounds: int) -> Script:
    """Draw the faults of a run."""
    asked = Script() if config.faults is None else read_script(Path(config.faults))
    drops = tuple(parse_drop(text, sites=names, rounds=rounds) for text in config.drop)
    return draw(dataclasses.replace(asked, faults=(*asked.faults, *drops)), sites=names, rounds=rounds)


def fresh_adapter(prepared: Prepared) -> tuple[FloatVec, FloatVec]:
    """Give the adapter that a run begins with, trained and frozen part: drawn from the public seed, or under question.

    Raises:
        DataError: the run whose adapter is in question has none of this layout.
    """
    layout, evaluated = prepared.host.layout, prepared.config.evaluation.run
    if prepared.config.purpose == "evaluate" and evaluated is not None:
        return read_end(RunFiles(Path(evaluated)), layout)
    start = public_start(prepared.host.model, layout, prepared.config.adapter)
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
    """Write down who got how many records, and what tokenising did to them; and draw it."""
    sites = {
        name: {**prepared.tables.manifest.get(name, {}), "encoding": dataclasses.asdict(encoded.report)}
        for name, encoded in prepared.sites.items()
    }
    write_json(run.path / "partition.json", sites)
    if (picture := partition_plot(sites)) is not None:
        write_bytes(run.path / "partition.svg", picture.encode())
