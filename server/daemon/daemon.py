"""The coordinator's daemon: takes jobs, carries them out one after the other, and goes on after a crash.

Covers: what it was asked for and how far it came lies on disk before it is acted on, so after `kill -9` in any phase
the next start goes on: the plan is the same, checkpoints and sums decide where. A run that stopped, failed or finished
is left alone until somebody resumes it by name.
Does not cover: the round that was under way. Under differential privacy it is spent, and named.

It loads no model and no torch.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from pathlib import Path

from partsong.common.control.feed import Feed
from partsong.common.errors import ConfigError, InputError, PartsongError, TryAgain
from partsong.common.facts import word
from partsong.common.identity.charter import SignedCharter
from partsong.common.identity.keys import Signer
from partsong.server.daemon.carry import Link, Means, Pace, carry_out, exchange_for, hand_over
from partsong.server.daemon.deployed_run import OPEN_STATES, DeployedRun, State, all_runs, find_run, submit
from partsong.server.daemon.explain import incomplete
from partsong.server.membership.home import CoordinatorHome
from partsong.server.run import RunStopped

_IDLE_S = 1.0
_STORE_S = 600.0
"""How long a site that connects again may take to fetch and store an adapter."""


class CoordinatorDaemon:
    """One daemon on one directory. `start` and `close` once each; the other methods from any thread."""

    def __init__(
        self,
        home: CoordinatorHome,
        link: Link,
        *,
        signer: Signer,
        charter: Callable[[], SignedCharter | None],
        pace: Pace | None = None,
    ) -> None:
        """Prepare; nothing is read, written or sent yet.

        Args:
            home: the coordinator's directory.
            link: carries messages; it is started and stopped by the caller.
            signer: with the coordinator's key of the charter.
            charter: gives the newest charter that all have signed; None: none yet.
            pace: how long to wait for what.
        """
        self._home, self._link, self._charter = home, link, charter
        self.feed = Feed()
        self._means = Means(
            link=link,
            signer=signer,
            charter=self._newest,
            feed=self.feed,
            pace=pace or Pace(),
            stopping=self._is_to_stop,
            pause=self._pause,
        )
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._ending = threading.Event()
        self._to_stop: set[str] = set()
        self._held: set[str] = set()
        """Runs whose end could not be written down: not taken up again before a restart."""
        self._current = ""
        self._served: set[str] = set()
        """Sites that were offered the published adapters since they connected."""
        self._thread = threading.Thread(target=self._work, name="runs", daemon=True)

    def start(self) -> None:
        """Take up what is there, and wait for jobs in a thread.

        Raises:
            DataError: a run's files are damaged; nothing was begun.
        """
        self.take_up()
        self._thread.start()

    def take_up(self) -> None:
        """Let the run that was under way when the daemon ended wait for its turn again; it is the first.

        Raises:
            DataError: a run's files are damaged; nothing was begun.
        """
        for run in all_runs(self._home.runs):
            if run.told().state == "running":
                run.tell("waiting")

    def close(self, *, timeout_s: float = 3.0) -> None:
        """End. A run that is under way goes on at the next start; everything that it needs is on the disk already."""
        self._ending.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self.feed.close()

    @property
    def alive(self) -> bool:
        """Whether the thread that carries runs out is there."""
        return self._thread.is_alive()

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._ending.is_set()

    @property
    def current(self) -> str:
        """Name of the run that is carried out; empty for none."""
        return self._current

    def submit(self, job: Path) -> DeployedRun:
        """Make the job in a folder a run; it waits its turn.

        Raises:
            InputError: there is no such job, no charter, or no run of this job under it; there is no new run.
        """
        with self._lock:
            run = submit(self._home.runs, job, self._newest(), now=dt.datetime.now(dt.UTC))
        self._told(run, "waiting")
        self._wake.set()
        return run

    def stop(self, name: str) -> DeployedRun:
        """End a run after the round that is under way; at once where none is.

        Raises:
            InputError: no run of this name is waiting or running.
        """
        run = find_run(self._home.runs, name)
        with self._lock:
            _require(run, *OPEN_STATES)
            if name == self._current:
                self._to_stop.add(name)
            else:
                run.tell("stopped", reason="stopped while it waited for its turn")
        self._wake.set()
        return run

    def resume(self, name: str) -> DeployedRun:
        """Go on with a run that was stopped or has failed.

        Raises:
            InputError: no run of this name was stopped or has failed.
        """
        run = find_run(self._home.runs, name)
        with self._lock:
            _require(run, "stopped", "failed")
            self._held.discard(name)
            run.tell("waiting")
        self._told(run, "waiting")
        self._wake.set()
        return run

    def _work(self) -> None:
        """Carry out one run after the other; between them, offer what is published."""
        while not self._ending.is_set():
            try:
                if self.step():
                    continue
            except PartsongError as err:  # a damaged file; `status` says which
                self.feed.tell("runs_not_readable", error=type(err).__name__)
            self._wake.wait(_IDLE_S)
            self._wake.clear()

    def step(self) -> bool:
        """Carry out the run that waits longest; where none waits, offer what is published.

        Returns:
            whether there was a run.
        Raises:
            DataError: a run's files are damaged.
        """
        run = self._next()
        if run is None:
            self._offer()
        else:
            self._carry(run)
        return run is not None

    def _next(self) -> DeployedRun | None:
        """Take the run that waits longest."""
        with self._lock:
            waiting = (r for r in all_runs(self._home.runs) if r.name not in self._held and r.told().state == "waiting")
            run = next(waiting, None)
            self._current = "" if run is None else run.name
        return run

    def _carry(self, run: DeployedRun) -> None:
        """Carry a run out and write down how it ended."""
        state: State = "failed"
        try:
            result = carry_out(run, self._means)
            state, reason = "finished", incomplete(result.history)
        except RunStopped as err:
            state, reason = "stopped", str(err)
        except TryAgain as err:
            state, reason = "stopped", str(err)
        except PartsongError as err:
            reason = str(err)
        except Exception as err:  # noqa: BLE001 - one run's defect is not the end of the daemon; its text may hold anything
            reason = f"an error that nobody foresaw ({type(err).__name__}); please report it"
        with self._lock:
            self._to_stop.discard(run.name)
            self._current = ""
            if not self._ending.is_set():
                self._end(run, state, reason)

    def _end(self, run: DeployedRun, state: State, reason: str) -> None:
        try:
            run.tell(state, reason=reason)
        except TryAgain:  # the disk is full: the run is left alone until a restart
            self._held.add(run.name)
        self._told(run, state)

    def _pause(self, name: str, seconds: float) -> bool:
        """Wait so long.

        Raises:
            RunStopped: the run was told to stop meanwhile.
        """
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            if self._is_to_stop(name):
                raise RunStopped(f"run {name}: stopped while it waited for its sites")
            self._wake.wait(min(left_s, _IDLE_S))
            self._wake.clear()
        return False

    def _is_to_stop(self, name: str) -> bool:
        return self._ending.is_set() or name in self._to_stop

    def _offer(self) -> None:
        """Offer the published adapters to sites that have connected since."""
        there = set(self._link.connected())
        new, self._served = there - self._served, there
        if not new:
            return
        finished = [run for run in all_runs(self._home.runs) if run.told().state == "finished"]
        if finished:
            hand_over(exchange_for(finished[-1], self._means), finished, self.feed, timeout_s=_STORE_S)

    def _newest(self) -> SignedCharter:
        signed = self._charter()
        if signed is None:
            raise ConfigError(
                "charter",
                found="none that all sites have signed",
                expected="one",
                remedy="enrol the sites and collect their signatures first",
            )
        return signed

    def _told(self, run: DeployedRun, state: State) -> None:
        self.feed.tell("run_state", run=word(run.name), state=state)


def _require(run: DeployedRun, *states: State) -> None:
    state = run.told().state
    if state not in states:
        raise InputError("run", found=f"{run.name} is {state}", expected=f"one that is {' or '.join(states)}")
