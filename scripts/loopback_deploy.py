"""Follow docs/deploy.md on this machine, as its reader would: python scripts/loopback_deploy.py [PAGE]

Each numbered block is run, in the page's order, where the page has it typed: what names `--dir hub` in the
coordinator's folder, what names `--dir north` in the folder of every site. A file passes from one folder to another
only when a later command of the page names it. Exchanged are the things that the reader has too: the address, the
model, the size of the run, the fingerprints that were heard, the plan's hash. Under `## The adapter` the results are
looked at. Any command that fails, any file that nobody made and any step that is missing stops with exit code 1.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "deploy.md"
BASE = ROOT / "tests" / "fixtures" / "tiny-llama"
PARTSONG = (sys.executable, "-P", "-m", "partsong")
SITES = ("north", "south", "west")
MOST_COMMANDS = 12
COMMAND_LIMIT_S, RUN_LIMIT_S, END_LIMIT_S, LOOK_S = 300.0, 600.0, 30.0, 0.1
STEP = re.compile(r"^## (\d+)\. .*\n\n```sh\n(.*)\n```", re.MULTILINE)
AFTER = re.compile(r"^## The adapter\n(.*?)^## ", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```sh\n(.*?)\n```", re.MULTILINE | re.DOTALL)
HEARD = re.compile(r"^fingerprint of \S+:\n  (.+)$", re.MULTILINE)
HUB, SITE, INSTALL = "--dir hub", "--dir north", "pip install partsong"


class PageWrong(Exception):
    """What the page says does not lead to where it says."""


def steps(text: str) -> tuple[str, ...]:
    """List the commands of the numbered sections.

    Raises:
        PageWrong: the numbers do not run from 1 up, or there are more than a newcomer is promised.
    """
    found = STEP.findall(text)
    if [int(number) for number, _ in found] != list(range(1, len(found) + 1)) or not 0 < len(found) <= MOST_COMMANDS:
        raise PageWrong(f"sections numbered {[number for number, _ in found]}, expected 1 to at most {MOST_COMMANDS}")
    return tuple(command for _, command in found)


def looks(text: str) -> tuple[str, ...]:
    """List the commands that look at the results."""
    section = AFTER.search(text)
    return () if section is None else tuple(line for block in BLOCK.findall(section[1]) for line in block.splitlines())


def free_port() -> int:
    """Find a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_records(file: Path, *, first: int, count: int = 120) -> None:
    """Write question and answer records that differ from site to site."""
    lines = (
        f'{{"prompt": "Code of case {n}?", "completion": " J{n % 90:02d}"}}\n' for n in range(first, first + count)
    )
    file.write_text("".join(lines))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One of the machines of the page: a folder, and the commands typed in it."""

    name: str
    folder: Path
    environment: Mapping[str, str]
    before: tuple[str, ...] = ()
    """Put before every command, such as `ip netns exec NAME`."""

    def argv(self, command: str) -> list[str]:
        """Split a command of the page into words."""
        words = shlex.split(command)
        if words[0] != "partsong":
            raise PageWrong(f"{command}: not a command of partsong")
        return [*self.before, *PARTSONG, *words[1:]]

    def do(self, command: str) -> str:
        """Run a command to its end.

        Returns:
            what it printed.
        Raises:
            PageWrong: it failed.
        """
        ended = subprocess.run(
            self.argv(command),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        if ended.returncode != 0:
            raise PageWrong(f"{self.name}: exit code {ended.returncode} from: {command}\n{ended.stdout}{ended.stderr}")
        return ended.stdout

    def begin(self, command: str, out: IO[str]) -> subprocess.Popen[str]:
        """Start a command and leave it running; it writes to `out`."""
        return subprocess.Popen(
            self.argv(command),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
        )


@dataclass
class Running:
    """A command that was left running."""

    machine: Machine
    command: str
    process: subprocess.Popen[str]
    out: Path

    def wait_for(self, there: Callable[[], bool], *, limit_s: float) -> None:
        """Wait until something is there.

        Raises:
            PageWrong: the command ended before, or it took too long.
        """
        end_s = time.monotonic() + limit_s
        while not there():
            if self.process.poll() is not None or time.monotonic() > end_s:
                how = "too slow" if self.process.poll() is None else f"exit code {self.process.returncode}"
                raise PageWrong(f"{self.machine.name}: {how}: {self.command}\n{self.out.read_text()}")
            time.sleep(LOOK_S)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What stands on this machine for the things that a reader of the page has."""

    address: str = "localhost"
    port: int = field(default_factory=free_port)
    base: Path = BASE
    sites: tuple[str, ...] = SITES
    run: str = "rounds=2 training.steps_per_round=1 model.threads=1 max_length=64"
    before: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By machine: put before each of its commands."""
    init: Mapping[str, str] = field(default_factory=dict)
    """By site: further settings of it."""

    def exchanges(self) -> tuple[tuple[str, str], ...]:
        """List what of the page is exchanged. Each has to be found in it."""
        return (
            ("--name hub.example", f"--name {self.address} --port {self.port}"),
            ("--model /srv/model", f"--model {self.base}"),
            ("model.source=/srv/model", f"model.source={self.base}"),
            ("rounds=10 max_length=512", self.run),
            (" ".join(f"--site {site}" for site in SITES), " ".join(f"--site {site}" for site in self.sites)),
            (",".join(SITES), ",".join(self.sites)),
            *(
                (self._files("{}." + kind, SITES), self._files("{}." + kind, self.sites))
                for kind in ("request.json", "cosigned.json")
            ),
        )

    @staticmethod
    def _files(name: str, sites: Sequence[str]) -> str:
        return " ".join(name.format(site) for site in sites)


class Rehearsal:
    """The machines of the page in folders below `folder`, and the page played on them. A context manager."""

    def __init__(self, folder: Path, text: str, setting: Setting | None = None) -> None:
        """Make the folders, the records and the passphrase's file.

        Raises:
            PageWrong: the page lacks something that is exchanged, or is longer than promised.
        """
        self.setting = setting or Setting()
        self.running: list[Running] = []
        self.run: Running | None = None
        self._plans: dict[str, str] = {}
        self._heard: list[str] = []
        self._text = self._exchanged(text)
        self.steps, self.looks = steps(self._text), looks(self._text)
        passphrase = folder / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text("seven words that nobody else would say")
        environment = {**os.environ, "PARTSONG_PASSPHRASE_FILE": str(passphrase), "OMP_NUM_THREADS": "1"}
        self.hub, *sites = (
            Machine(
                name=name,
                folder=folder / name,
                environment=environment,
                before=tuple(self.setting.before.get(name, ())),
            )
            for name in ("hub", *self.setting.sites)
        )
        self.sites = tuple(sites)
        for number, machine in enumerate((self.hub, *self.sites)):
            machine.folder.mkdir()
            if machine is not self.hub:
                write_records(machine.folder / "notes.jsonl", first=1000 * number)

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End whatever still runs; the coordinator last, so that the sites can take their leave."""
        for is_hub in (False, True):
            group = [one.process for one in self.running if (one.machine is self.hub) is is_hub]
            for process in group:
                process.terminate()
            for process in group:
                try:
                    process.wait(END_LIMIT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def play(self, step: str) -> None:
        """Do what one command of the page says, wherever it is typed.

        Raises:
            PageWrong: it does not work.
        """
        if step == INSTALL:
            self.hub.do("partsong --version")
        elif SITE in step:
            with ThreadPoolExecutor(max_workers=2) as pool:
                list(pool.map(lambda site: self._at_site(site, step), self.sites))
        elif HUB in step:
            self._at_hub(step)
        else:
            raise PageWrong(f"{step}: nobody can tell where this is typed")

    def look(self) -> None:
        """Wait for the run, then look at its results as the page does.

        Raises:
            PageWrong: the run did not finish, or a result is wrong.
        """
        if self.run is None or not self.looks:
            raise PageWrong("the page asks for no run with --wait, or does not look at its results")
        run = self.run.process
        self.run.wait_for(lambda: run.poll() == 0, limit_s=RUN_LIMIT_S)
        for command in self.looks:
            for machine in self.sites if SITE in command else (self.hub,):
                machine.do(self._own(command, machine).replace("RUN", self.run_path.name))

    @property
    def run_path(self) -> Path:
        """Directory of the one run, besides canaries."""
        (path,) = (p for p in (self.hub.folder / "hub" / "runs").iterdir() if not (p / "job" / "canary.yaml").exists())
        return path

    def _exchanged(self, text: str) -> str:
        for shown, here in self.setting.exchanges():
            if shown not in text:
                raise PageWrong(f"the page does not show {shown!r}")
            text = text.replace(shown, here)
        return text

    def _at_hub(self, step: str) -> None:
        self._post(self.hub, step)
        if " enrol " in step:
            step += "".join(f" --fingerprint '{words}'" for words in self._heard)
        if " up " in step:
            self._up(self.hub, step)
        elif "--wait" in step:
            self.run = self._begun(self.hub, step)
        else:
            self.hub.do(step)

    def _at_site(self, site: Machine, step: str) -> None:
        step = self._own(step, site)
        self._post(site, step)
        if " up " in step:
            self._up(site, step)
        elif " plans " in step:
            self._plans[site.name] = self._waiting_plan(site, step)
        elif ".draft.json" in step:
            site.do(f"{step} --yes-i-compared")
        else:
            step += f" {self.setting.init.get(site.name, '')}" if " init " in step else ""
            said = site.do(step.replace("PLAN", self._plans.get(site.name, "PLAN")))
            self._heard += HEARD.findall(said)

    def _own(self, step: str, machine: Machine) -> str:
        """Put a site's own name where the page says `north`."""
        return step if machine is self.hub else re.sub(r"\bnorth\b", machine.name, step)

    def _waiting_plan(self, site: Machine, step: str) -> str:
        """Wait for a plan, and take the beginning of its hash from where the page has a person read it."""
        if self.run is None:
            raise PageWrong(f"{step}: no run was asked for")
        approvals = site.folder / site.name / "approvals"
        self.run.wait_for(lambda: any(approvals.glob("*.json")), limit_s=RUN_LIMIT_S)
        return site.do(step).split()[0]

    def _up(self, machine: Machine, step: str) -> None:
        daemon = self._begun(machine, step)
        daemon.wait_for(lambda: "control " in daemon.out.read_text(), limit_s=COMMAND_LIMIT_S)

    def _begun(self, machine: Machine, step: str) -> Running:
        out = machine.folder / f"said-{len(self.running)}.txt"
        with out.open("w") as file:
            begun = Running(machine=machine, command=step, process=machine.begin(step, file), out=out)
        self.running.append(begun)
        return begun

    def _post(self, machine: Machine, step: str) -> None:
        """Bring the letters here that the command names and another machine has written.

        Raises:
            PageWrong: nobody has written one of them.
        """
        for word in shlex.split(step):
            if not word.endswith(".json") or (machine.folder / word).exists():
                continue
            written = [file for other in (self.hub, *self.sites) for file in self._letters(other, word)]
            if not written:
                raise PageWrong(f"{step}: nobody has written {word}")
            shutil.copy(written[0], machine.folder / word)

    @staticmethod
    def _letters(machine: Machine, name: str) -> Iterator[Path]:
        """Letters lie where their author works, or in the folder `mail` there."""
        return (file for file in (machine.folder / name, machine.folder / "mail" / name) if file.is_file())


def main(page: Path = PAGE) -> int:
    """Play the page and look at the results."""
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="partsong-deploy-") as scratch:
        try:
            with Rehearsal(Path(scratch), page.read_text()) as rehearsal:
                for number, step in enumerate(rehearsal.steps, start=1):
                    print(f"{number}. {step}", flush=True)
                    rehearsal.play(step)
                rehearsal.look()
        except PageWrong as err:
            print(f"{page}: {err}", file=sys.stderr)
            return 1
    print(f"{len(rehearsal.steps)} steps led to an adapter at {len(SITES)} sites in {time.monotonic() - begun_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
