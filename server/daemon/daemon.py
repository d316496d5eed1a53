"""The coordinator's daemon: takes jobs, carries them out one after the other, and goes on after a crash.

Canaries have a lane of their own: the way is tried while a run waits for its sites, or for days of training.

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
from typing import Literal, get_args

from partsong.common.control.feed import Feed
from partsong.common.errors import ConfigError, InputError, PartsongError, TryAgain
from partsong.common.facts import word
from partsong.common.identity.charter import SignedCharter
from partsong.common.identity.keys import Signer
from partsong.server.daemon.carry import Link, Means, Pace, carry_out, exchange_for, hand_over
from partsong.server.daemon.deployed_run import OPEN_STATES, DeployedRun, State, all_runs, find_run, submit
from partsong.server.daemon.explain import incomplete
from partsong.server.daemon.rolling_back import published_in
from partsong.server.membership.home import CoordinatorHome
from partsong.server.run import RunStopped

Lane = Literal["runs", "canaries"]
"""Where a run waits for those that were asked for before it."""
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
        self._lock = threading.Lock()
        self._wakes: dict[Lane, threading.Event] = {lane: threading.Event() for lane in get_args(Lane)}
        self._ending = threading.Event()
        self._to_stop: set[str] = set()
        self._held: set[str] = set()
        """Runs whose end could not be written down: not taken up again before a restart."""
        self._current: dict[Lane, str] = {}
        self._served: set[str] = set()
        """Sites that were offered the published adapters since they connected."""
        self._published = published_in(home.runs)
        """When the facts were written that the served sites were offered."""
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=lane, daemon=True) for lane in get_args(Lane)
        ]

    def start(self) -> None:
        """Take up what is there, and wait for jobs in a thread for each lane.

        Raises:
            DataError: a run's files are damaged; nothing was begun.
        """
        self.take_up()
        for thread in self._threads:
            thread.start()

    def take_up(self) -> None:
        """Let what was under way when the daemon ended wait for its turn again; it is the first.

        Raises:
            DataError: a run's files are damaged; nothing was begun.
        """
        for run in all_runs(self._home.runs):
            if run.told().state == "running":
                run.tell("waiting")

    def close(self, *, timeout_s: float = 3.0) -> None:
        """End. A run that is under way goes on at the next start; everything that it needs is on the disk already."""
        self._ending.set()
        self._ring()
        end_s = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, end_s - time.monotonic()))
        self.feed.close()

    @property
    def alive(self) -> bool:
        """Whether the threads that carry runs out are there."""
        return all(thread.is_alive() for thread in self._threads)

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._ending.is_set()

    @property
    def current(self) -> str:
        """Name of the run that is carried out; empty for none, and for a canary."""
        return self._current.get("runs", "")

    def submit(self, job: Path) -> DeployedRun:
        """Make the job in a folder a run; it waits its turn.

        Raises:
            InputError: there is no such job, no charter, or no run of this job under it; there is no new run.
        """
        with self._lock:
            run = submit(self._home.runs, job, self._newest(), now=dt.datetime.now(dt.UTC))
        self._told(run, "waiting")
        self._ring()
        return run

    def stop(self, name: str) -> DeployedRun:
        """End a run after the round that is under way; at once where none is.

        Raises:
            InputError: no run of this name is waiting or running.
        """
        run = find_run(self._home.runs, name)
        with self._lock:
            _require(run, *OPEN_STATES)
            if name in self._current.values():
                self._to_stop.add(name)
            else:
                run.tell("stopped", reason="stopped while it waited for its turn")
        self._ring()
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
        self._ring()
        return run

    def _ring(self) -> None:
        """Have both lanes look again."""
        for wake in self._wakes.values():
            wake.set()

    def _work(self, lane: Lane) -> None:
        """Carry out one run after the other; between them, offer what is published."""
        wake = self._wakes[lane]
        while not self._ending.is_set():
            try:
                if self.step(lane):
                    continue
            except PartsongError as err:  # a damaged file; `status` says which
                self.feed.tell("runs_not_readable", error=type(err).__name__)
            wake.wait(_IDLE_S)
            wake.clear()

    def step(self, lane: Lane = "runs") -> bool:
        """Carry out the run that waits longest in a lane; where none waits among the runs, offer what is published.

        Returns:
            whether there was a run.
        Raises:
            DataError: a run's files are damaged.
        """
        run = self._next(lane)
        if run is not None:
            self._carry(run, lane)
        elif lane == "runs":
            self._offer()
        return run is not None

    def _next(self, lane: Lane) -> DeployedRun | None:
        """Take the run that waits longest."""
        with self._lock:
            own = (run for run in all_runs(self._home.runs) if run.is_canary == (lane == "canaries"))
            waiting = (run for run in own if run.name not in self._held and run.told().state == "waiting")
            run = next(waiting, None)
            self._current[lane] = "" if run is None else run.name
        return run

    def _carry(self, run: DeployedRun, lane: Lane) -> None:
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
            self._current[lane] = ""
            # What a run has published, it has handed over itself. A rollback of another run meanwhile, nobody has.
            own = {name: at for name, at in published_in(self._home.runs).items() if name == run.name}
            self._published = self._published | own
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
        wake = self._wakes["canaries" if name == self._current.get("canaries") else "runs"]
        while (left_s := end_s - time.monotonic()) > 0:
            if self._is_to_stop(name):
                raise RunStopped(f"run {name}: stopped while it waited for its sites")
            wake.wait(min(left_s, _IDLE_S))
            wake.clear()
        return False

    def _is_to_stop(self, name: str) -> bool:
        return self._ending.is_set() or name in self._to_stop

    def _offer(self) -> None:
        """Offer the published adapters to sites that have connected since; after a rollback, to all of them."""
        there, published = set(self._link.connected()), published_in(self._home.runs)
        if published != self._published:
            self._served, self._published = set(), published
        new, self._served = there - self._served, there
        if not new:
            return
        finished = [run for run in all_runs(self._home.runs) if not run.is_canary and run.told().state == "finished"]
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
