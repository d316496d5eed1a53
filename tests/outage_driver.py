"""Plays runs of a canary over real daemons that are killed, stopped and started again; tells what became of them.

A program of its own: forking is safe in it. Its argument is the number of sites; each line of standard input is a
`Play`, answered with one of facts. Processes are real and speak TLS over loopback; a network in between may be given.
"""

import contextlib
import dataclasses
import datetime as dt
import functools
import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from partsong.client.budget.ledger import Ledger
from partsong.client.budget.ledger_export import verify
from partsong.client.home.layout import SiteHome
from partsong.client.home.opened import OpenedSite, open_site
from partsong.client.membership import charter_pins
from partsong.client.secure_sum.file_vault import FileVault
from partsong.common.adapters.adapter import AdapterLayout, FloatVec, TensorSpec
from partsong.common.canary import NO_MODEL, canary_update
from partsong.common.config import CohortConfig, ModelConfig, PrivacyConfig
from partsong.common.deployment import CoordinatorConfig, JobConfig
from partsong.common.identity import keys, wrapped_secret
from partsong.common.identity.wrapped_secret import unwrap
from partsong.server.daemon.canary import make_canary
from partsong.server.daemon.carry import Pace
from partsong.server.daemon.deployed_run import OPEN_STATES, DeployedRun, submit
from partsong.server.daemon.job import BaseFacts, Job, write_job
from partsong.server.membership import onboarding as at_coordinator
from partsong.server.membership.home import CoordinatorHome
from partsong.server.membership.opened import OpenedCoordinator, open_coordinator, open_identity

PASSPHRASE = b"correct horse battery"


def _beside(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


children: Any = _beside("outage_children")
ceremony: Any = _beside("ceremony")


@dataclass(frozen=True, kw_only=True)
class Play:
    """One run and what happens to it."""

    rounds: int
    size: int = 40
    timeout_s: float = 10.0
    minimum: int = 3
    traps: list[Any] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    start_timeout_s: float = 60.0
    settle_s: float = 1.0
    kills: int = 0
    """How often somebody is killed, whoever it is."""
    kill_every_s: float = 1.0
    """Mean time between two of these."""
    absent: list[str] = field(default_factory=list)
    """Sites whose daemons are never started."""
    via: dict[str, int] = field(default_factory=dict)
    """Ports through which sites reach the coordinator, where they are not its own."""
    port: int = 0
    """The coordinator's own; 0: any free one."""
    limit_s: float = 120.0


class Consortium:
    """Everybody's directories as onboarding made them, and what is unlocked of them."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names
        home = CoordinatorHome(folder / children.COORDINATOR)
        config = CoordinatorConfig(consortium="outages", host="127.0.0.1", names=("localhost", "127.0.0.1"))
        at_coordinator.init(home, config, suite="A", passphrase=PASSPHRASE, own_ca=False, now=ceremony.NOW)
        made = ceremony.Ceremony(folder=folder, signers={}, coordinator=open_identity(home, PASSPHRASE))
        for name in names:
            made.join(name)
        charter = made.agree(made.draft(), tuple(names))
        for name in names:
            charter_pins.pin(made.site(name), charter)
        self._coordinator = open_coordinator(home, PASSPHRASE)
        self._sites = {name: open_site(SiteHome(folder / name), PASSPHRASE) for name in names}
        self._vault_keys = {
            name: unwrap(
                SiteHome(folder / name).vault_key.read_bytes(),
                kind="vault",
                owner=opened.signer.public_key,
                passphrase=PASSPHRASE,
            )
            for name, opened in self._sites.items()
        }

    def coordinator(self, folder: Path, port: int) -> tuple[CoordinatorHome, OpenedCoordinator]:
        """The coordinator's directory in a copy of the folder."""
        home = CoordinatorHome(folder / children.COORDINATOR)
        tls = _moved(self._coordinator.tls, self.folder, folder)
        config = dataclasses.replace(self._coordinator.config, port=port)
        return home, dataclasses.replace(self._coordinator, tls=tls, config=config)

    def site(self, folder: Path, name: str, port: int) -> tuple[SiteHome, OpenedSite]:
        """A site's directory in a copy of the folder."""
        home, opened = SiteHome(folder / name), self._sites[name]
        config = dataclasses.replace(opened.config, coordinator=f"localhost:{port}")
        vault = FileVault(home.vault, key=self._vault_keys[name], entropy=os.urandom)
        tls = _moved(opened.tls, self.folder, folder)
        return home, dataclasses.replace(opened, tls=tls, config=config, vault=vault)


class Stage:
    """One play: its directories, its processes, and what is found at the end."""

    def __init__(self, made: Consortium, play: Play, folder: Path) -> None:
        shutil.copytree(made.folder, folder)
        self.made, self.play, self.folder = made, play, folder
        self.notes = children.Notes(folder / "notes")
        self.traps = [children.Trap(**trap) for trap in play.traps]
        self.port = play.port or _free_port()
        self.living: dict[str, int] = {}
        self.back: dict[str, tuple[float, int]] = {}
        """Who is away: when it comes back, and its process where that was only stopped."""
        self.run = self._asked()
        self.plan = self.run.read_plan()
        self.sizes: dict[int, list[tuple[int, int]]] = {}
        self.born: dict[int, int] = {}
        """How many rounds had ended when a process was first seen."""
        self.random = random.Random(1)
        self.killed, self.next_kill_s = 0, time.monotonic() + 3 * play.kill_every_s

    def _asked(self) -> DeployedRun:
        """Ask for a run before the daemon is up, and put a canary's plan in the place of the training."""
        play, names = self.play, self.made.names
        home, opened = self.made.coordinator(self.folder, self.port)
        layout = AdapterLayout(tensors=(TensorSpec(name="canary.weight", shape=(play.size,), trained=True),))
        config = JobConfig(
            model=ModelConfig(source="none"), privacy=PrivacyConfig(mode="none"), rounds=play.rounds, max_length=2,
            cohort=CohortConfig(minimum=play.minimum, report_timeout_s=play.timeout_s),
            expected_sites=tuple(play.expected), start_timeout_s=play.start_timeout_s,
        )  # fmt: skip
        base = BaseFacts(name="none", sha256=NO_MODEL, lora={"r": 1}, layout=layout, peft={"r": 1})
        nothing, zeros = np.zeros(0, np.float32), np.zeros(play.size, np.float32)
        write_job(self.folder / "job", Job(config=config, base=base, start_P=zeros, frozen_F=nothing))
        assert opened.charter is not None
        run = submit(home.runs, self.folder / "job", opened.charter, now=dt.datetime.now(dt.UTC))
        minimum = run.read_plan().minimum_cohort
        run.plan.unlink()
        run.keep_plan(
            make_canary(
                run=run.name, size=play.size, rounds=play.rounds, max_sites=len(names), minimum_cohort=minimum, seed=7
            )
        )  # fmt: skip
        return run

    def start(self, who: str) -> None:
        """Start a process, new or after its death."""
        life = children.Life(who, self.traps, self.notes)
        if who == children.COORDINATOR:
            pace = Pace(settle_s=self.play.settle_s, retry_s=0.5)
            body = functools.partial(life.be_coordinator, *self.made.coordinator(self.folder, self.port), pace)
        else:
            port = self.play.via.get(who, self.port)
            body = functools.partial(life.be_site, *self.made.site(self.folder, who, port))
        self.living[who] = children.fork(body, self.folder / "errors")

    def act(self) -> None:
        """Play it to its end, and end every process that was started here."""
        try:
            for who in (children.COORDINATOR, *self.made.names):
                if who not in self.play.absent:
                    self.start(who)
            ends_s = time.monotonic() + self.play.limit_s
            while self.run.told().state in OPEN_STATES and time.monotonic() < ends_s:
                self._look_after_children()
                self._measure()
                self._kill_somebody()
                time.sleep(0.02)
        finally:
            for child in (*self.living.values(), *(child for _, child in self.back.values() if child)):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)

    def _kill_somebody(self) -> None:
        if self.killed == self.play.kills or time.monotonic() < self.next_kill_s or not self.living:
            return
        self.next_kill_s = time.monotonic() + self.random.expovariate(1 / self.play.kill_every_s)
        os.kill(self.living[self.random.choice(sorted(self.living))], signal.SIGKILL)
        self.killed += 1

    def _look_after_children(self) -> None:
        """Notice who was killed or stopped, and bring back whoever has been away for long enough."""
        for who, child in list(self.living.items()):
            found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if not found:
                continue
            if os.WIFEXITED(status):
                raise AssertionError(f"{who} ended by itself: {(self.folder / 'errors').read_text()}")
            del self.living[who]
            self.back[who] = (time.monotonic() + self._down_s(who), child if os.WIFSTOPPED(status) else 0)
        for who, (when_s, child) in list(self.back.items()):
            if time.monotonic() < when_s:
                continue
            del self.back[who]
            if child:
                os.kill(child, signal.SIGCONT)
                self.living[who] = child
            else:
                self.start(who)

    def _down_s(self, who: str) -> float:
        sprung = self.notes.sprung()
        return max((t.down_s for n, t in enumerate(self.traps) if t.who == who and n in sprung), default=0.0)

    def _measure(self) -> None:
        """Note memory in MB and descriptors of each process at the end of each round that it has lived through."""
        rounds = len(self.run.metrics.read_text().splitlines()) if self.run.metrics.exists() else 0
        for child in self.living.values():
            seen, lived = self.sizes.setdefault(child, []), rounds - self.born.setdefault(child, rounds)
            if len(seen) < lived:
                with contextlib.suppress(OSError, IndexError):  # killed meanwhile: gone, or without memory
                    status = Path(f"/proc/{child}/status").read_text()
                    memory = int(status.split("VmRSS:")[1].split()[0]) // 1024
                    seen += [(memory, len(list(Path(f"/proc/{child}/fd").iterdir())))] * (lived - len(seen))

    def facts(self) -> dict[str, Any]:
        """What is on everybody's disk."""
        told, file = self.run.told(), self.run.metrics
        rounds = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        adapter = self.run.adapter / "adapter_model.safetensors"
        right = wrong = None
        if told.state == "finished":
            (found_P,) = load_file(adapter).values()
            right = bool(np.allclose(found_P.ravel(), self._expected(rounds, without=""), atol=0.01))
            wrong = bool(np.allclose(found_P.ravel(), self._expected(rounds, without=self.made.names[0]), atol=0.01))
        return {
            "state": told.state, "reason": told.reason,
            "rounds": [{key: entry[key] for key in ("round", "sites", "lost", "reason", "seconds")} for entry in rounds],
            "right": right, "right without a site": wrong, "ledgers": self._ledgers(),
            "traps": self.notes.read("trap"), "killed": self.killed, "phases": self.notes.read("phase"),
            "twice": {what: _different(self.notes.read(what)) for what in ("sent", *children.SECRETS.values())},
            "masked": len(self.notes.read("masked")), "sizes": [seen for seen in self.sizes.values() if seen],
            "told": sorted({f"{who} {what}" for who, what in self.notes.read("told")}),
            "errors": (self.folder / "errors").read_text()[-2000:] if (self.folder / "errors").exists() else "",
        }  # fmt: skip

    def _expected(self, rounds: list[dict[str, Any]], *, without: str) -> FloatVec:
        """The adapter that follows from public numbers and the names of those who contributed."""
        total_P = np.zeros(self.play.size)
        for entry in rounds:
            sites = [site for site in entry["sites"] if site != without]
            for site in sites:
                total_P += canary_update(self.plan, number=entry["round"], site=site) / len(sites)
        return total_P.astype(np.float32)

    def _ledgers(self) -> dict[str, str]:
        """For each site what is wrong with its ledger; nothing where it is valid and nothing is reserved."""
        said = {}
        for name in self.made.names:
            file = SiteHome(self.folder / name).ledger
            if file.exists():
                ledger = Ledger(file)
                verify(ledger)
                said[name] = f"{len(ledger.outstanding())} reserved" if ledger.outstanding() else ""
                ledger.close()
        return said


def _different(seen: list[list[str]]) -> list[str]:
    """Keys under which two different values were seen."""
    values: dict[str, set[str]] = {}
    for key, value in seen:
        values.setdefault(key, set()).add(value)
    return sorted(key for key, found in values.items() if len(found) > 1)


def _moved(files: Any, source: Path, target: Path) -> Any:
    """The same dataclass of paths, in another folder."""
    names = [field.name for field in dataclasses.fields(files)]
    return type(files)(**{name: target / getattr(files, name).relative_to(source) for name in names})


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class _Cheap:
    """Stands where Argon2id stands: guesses at passphrases are not what is tried here."""

    def __init__(self, *, salt: bytes, length: int, **_: Any) -> None:
        self._salt, self._length = salt, length

    def derive(self, passphrase: bytes) -> bytes:
        return hashlib.pbkdf2_hmac("sha256", passphrase, self._salt, 1, self._length)


@contextlib.contextmanager
def cheap_passphrases() -> Iterator[None]:
    """Open and close key files in no time."""
    before = keys.Argon2id
    keys.Argon2id = wrapped_secret.Argon2id = _Cheap  # type: ignore[misc, assignment]
    yield
    keys.Argon2id = wrapped_secret.Argon2id = before  # type: ignore[misc]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a short name: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="po-") as name:
        yield Path(name)


def main() -> None:
    """Play what is asked for, one after the other."""
    names = [f"s{number:02}" for number in range(int(sys.argv[1]))]
    with scratch() as folder, cheap_passphrases():
        made = Consortium(folder / "made", names)
        for number, line in enumerate(sys.stdin):
            began_s = time.monotonic()
            stage = Stage(made, Play(**json.loads(line)), folder / str(number))
            stage.act()
            facts = stage.facts() | {"took_s": round(time.monotonic() - began_s, 2)}
            shutil.rmtree(stage.folder)
            sys.stdout.write(json.dumps(facts) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
