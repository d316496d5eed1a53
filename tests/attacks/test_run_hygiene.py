"""After a real run, nothing that the coordinator had, wrote, said or still holds in memory is a site's secret.

Searched for: identity, vault, group and pair keys, mask seeds that no sum opened, and of each update its float32 and
float64 bytes and its encoded words, all in windows of 16 bytes at any offset.
Public by the protocol, and not searched for once their round is open: own-mask seeds of sites in the sum, and the
seeds of their pairs with sites that dropped out. Also public: sums, and adapters that follow from them.
"""

import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

with warnings.catch_warnings():
    # typer, which flwr imports, still asks click for a name that click deprecates.
    warnings.filterwarnings("ignore", message="'click", category=DeprecationWarning)
    import typer  # noqa: F401

from flwr.app import Error, Message
from rich.console import Console

from partsong.client import site
from partsong.client.app import make_app
from partsong.common import wire
from partsong.common.build import to_tree
from partsong.common.config import SimulationConfig
from partsong.common.files import write_json
from partsong.server.adapter_file import keep_start
from partsong.server.app import GridExchange
from partsong.server.exchange import Parcel
from partsong.server.rounds import Loss
from partsong.simulations.configure import compose_simulation
from partsong.simulations.consortium import found
from partsong.simulations.engine import one_process
from partsong.simulations.federation import draft, fresh_adapter
from partsong.simulations.local_grid import LocalGrid
from partsong.simulations.marks import marks
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.simulate import simulate
from partsong.simulations.sites import make_site

FIXTURES = Path(__file__).parents[1] / "fixtures"
DRIVER = Path(__file__).with_name("coordinator_alone.py")

_SPEC = importlib.util.spec_from_file_location("known_secrets", Path(__file__).with_name("known_secrets.py"))
known_secrets = importlib.util.module_from_spec(_SPEC)
sys.modules["known_secrets"] = known_secrets  # dataclasses look their module up
_SPEC.loader.exec_module(known_secrets)
LOST, NAMES, Known, Needles = known_secrets.LOST, known_secrets.NAMES, known_secrets.Known, known_secrets.Needles
memory_of, overheard, read_disks = known_secrets.memory_of, known_secrets.overheard, known_secrets.read_disks

pytestmark = pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="memory is read through /proc")


class LosesReply:
    """The report of one site in round 2 is lost on the way, after the site has masked."""

    def __init__(self, app):
        self.app = app

    def __call__(self, message, context):
        reply = self.app(message, context)
        header = message.content["partsong"]["header"]
        if wire.kind_of(header) == wire.Roster.kind:
            lost = wire.decode(header, wire.Roster).round == 2 and context.node_config["site"] == NAMES[LOST]
            if lost:
                return Message(Error(5, "scripted loss"), reply_to=message)
        return reply


def configured(folder: Path, *overrides: str) -> SimulationConfig:
    records = folder / "prompts.jsonl"
    words = ["fracture of the wrist", "itching rash", "ringing ear", "stiff back"]
    rows = [{"prompt": f"Case {i}: {words[i % 4]}\nGroup:", "completion": f" {i % 4}"} for i in range(60)]
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compose_simulation(
        [
            "model=local",
            f"model.source={FIXTURES / 'tiny-llama'}",
            "model.threads=1",
            "data=local",
            f"data.path={records}",
            "data.max_length=48",
            "partition.kind=iid",
            "sites=5",
            "rounds=3",
            "training.steps_per_round=1",
            "privacy=none",
            "privacy.sampling_rate=0.4",
            "seed=7",
            "secure_sum.check_window=2",
            f"run_dir={folder / 'runs'}",
            *overrides,
        ]
    )


@dataclass(kw_only=True, repr=False)
class Alone:
    """A run whose coordinator was a process of its own."""

    known: Known
    run: RunDir
    contexts: list[object]
    handed: bytes = b""
    """Every parcel in both directions."""
    found: dict[str, set[str]] = field(default_factory=dict)
    """By moment, the secrets in the memory of the coordinator's process."""
    scanned: dict[str, int] = field(default_factory=dict)
    """By moment, bytes of memory."""
    code: int | None = None

    def search(self, pid: int, moment: str, secrets: dict[str, bytes]) -> None:
        needles = Needles(secrets)
        self.found[moment], self.scanned[moment] = set(), 0
        for region in memory_of(pid):
            self.scanned[moment] += len(region)
            self.found[moment] |= needles.found_in(region)


def heard(child: subprocess.Popen[bytes]) -> tuple[str, dict[int, Parcel]]:
    """Read what the coordinator's process asks of its sites next."""
    parcels: dict[int, Parcel] = {}
    while "end" not in (line := json.loads(child.stdout.readline())):
        header, vector, note = (child.stdout.read(size) for size in line["sizes"])
        parcels[line["address"]] = Parcel(header=header, vector=vector, note=note)
    return line["end"], parcels


def result(run: RunDir, number: int) -> dict[str, bytes]:
    """Something public that the coordinator's process has to hold, so that its image is known to be one."""
    file = run.coordinator / "results" / f"{number:06d}.result"
    return {f"public: result {number}": file.read_bytes()} if file.exists() else {}


def answer(child: subprocess.Popen[bytes], address: int, parcel: Parcel | Loss) -> bytes:
    """Give it one answer; the bytes of it."""
    is_lost = isinstance(parcel, Loss)
    parts = () if is_lost else (parcel.header, parcel.vector, parcel.note)
    line = {"address": address, "sizes": [len(part) for part in parts], **({"lost": parcel.value} if is_lost else {})}
    child.stdin.write(json.dumps(line).encode() + b"\n" + b"".join(parts))
    return b"".join(parts)


def play_alone(folder: Path, known: Known, *overrides: str, plant: str = "") -> Alone:
    """Sites here, coordinator there; its memory is searched in round 2 before UNMASK, and at the end.

    Args:
        folder: for files.
        known: takes up what the sites keep secret.
        overrides: of the configuration.
        plant: file that the coordinator's process reads and keeps.
    """
    config = configured(folder, *overrides)
    prepared = prepare(config)
    run = RunDir.create(config, marks=marks(config))
    plan, _ = draft(prepared, NAMES, run="alone")
    consortium = found(NAMES, config, run) if plan.masked else None
    start_P, frozen_F = fresh_adapter(prepared)
    keep_start(run.start, prepared.host.layout, trained_P=start_P, frozen_F=frozen_F)
    write_json(run.plan, to_tree(plan))
    made = {name: make_site(name, prepared, run, consortium, watch=site.Watch()) for name in NAMES}
    grid = LocalGrid(LosesReply(make_app(lambda context: made[str(context.node_config["site"])][0])), NAMES)
    exchange, handed, rounds = GridExchange(grid), [], 0
    alone = Alone(known=known, run=run, contexts=list(grid._contexts.values()))
    command = [sys.executable, "-P", str(DRIVER), str(run.path), *([plant] if plant else [])]
    said = run.path / "coordinator" / "said.txt"
    with (
        said.open("wb") as stderr,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr) as child,
    ):
        while (asked := heard(child))[0] != "over":
            phase, parcels = asked
            rounds += phase == "open"
            if phase == "unmask" and rounds == 2:
                alone.search(child.pid, "before UNMASK", known.secrets(opened=1) | result(run, 1))
            nodes = exchange.addresses()
            handed += [part for p in parcels.values() for part in (p.header, p.vector, p.note)]
            for node, parcel in exchange.ask({nodes[a]: p for a, p in parcels.items()}, phase=phase, timeout_s=60):
                handed.append(answer(child, nodes.index(node), parcel))
            child.stdin.write(b'{"end": true}\n')
            child.stdin.flush()
        if consortium is not None:
            read_disks(run, known)
        alone.search(child.pid, "at the end", known.secrets(opened=3) | result(run, 3))
        child.stdin.close()
    grid.close()
    for _, ledger in made.values():
        ledger.close()
    alone.handed = b"\0".join(handed)
    alone.code = child.returncode
    return alone


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """A masked run with a lost report, the coordinator in a process of its own."""
    with overheard() as known:
        return play_alone(tmp_path_factory.mktemp("alone"), known)


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The control: a run without the secure sum, whose coordinator was given a key as well."""
    folder = tmp_path_factory.mktemp("careless")
    with overheard() as known:
        known.keys["planted key"] = key = os.urandom(32)
        (folder / "planted").write_bytes(key)
        return play_alone(folder, known, "secure_sum=off", "rounds=2", plant=str(folder / "planted"))


@dataclass(frozen=True, kw_only=True, repr=False)
class Whole:
    """A run as `partsong simulate` plays it."""

    known: Known
    run: Path
    said: str
    messages: bytes
    """Of Flower, in both directions, as bytes."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """With a lost report, on a terminal that is recorded, logs included."""
    config = configured(tmp_path_factory.mktemp("whole"))
    terminal, log, messages = io.StringIO(), io.StringIO(), []
    push, pull = LocalGrid.push_messages, LocalGrid.pull_messages

    def listening_push(grid, out):
        out = list(out)
        messages.extend(out)
        return push(grid, out)

    def listening_pull(grid, ids):
        got = pull(grid, ids)
        messages.extend(got)
        return got

    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    with overheard() as known, pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_process, "make_client_app", lambda site_of: LosesReply(make_app(site_of)))
        patch.setattr(LocalGrid, "push_messages", listening_push)
        patch.setattr(LocalGrid, "pull_messages", listening_pull)
        with redirect_stdout(log), redirect_stderr(log):
            done = simulate(config, console=Console(file=terminal, force_terminal=True, width=160))
    logging.getLogger().removeHandler(handler)
    logging.getLogger().setLevel(level)
    read_disks(done.run, known)
    return Whole(
        known=known,
        run=done.run.path,
        said=terminal.getvalue() + log.getvalue(),
        messages=b"\0".join(map(content, messages)),
    )


def content(message: Message) -> bytes:
    """Everything that rides in a Flower message."""
    if message.has_error():
        return str(message.error.reason).encode()
    parts = [array.data for record in message.content.array_records.values() for array in record.values()]
    parts += [value for record in message.content.config_records.values() for value in record.values()]
    return b"\0".join(parts)


def test_the_memory_of_the_coordinator_holds_no_secret(alone: Alone) -> None:
    """In the middle of a round, with its masked vectors just taken, and at the end; freed memory is searched too."""
    secrets = alone.known.secrets(opened=3)

    assert alone.code == 0
    assert alone.found == {"before UNMASK": {"public: result 1"}, "at the end": {"public: result 3"}}
    assert min(alone.scanned.values()) > 20 << 20
    assert f"own-mask seed of site {LOST} in round 2" in secrets
    assert sum(name.startswith("words ") for name in secrets) == 15
    assert sum(name.startswith(("identity key", "vault key")) and "," not in name for name in secrets) == 10


def test_the_search_finds_what_is_there(careless: Alone) -> None:
    """The words of every site where the secure sum is off, and a key that the coordinator was given."""
    found_there = careless.found["at the end"]

    assert "planted key" in found_there
    assert any(name.startswith("words ") for name in found_there)
    assert {n for n in Needles(careless.known.updates).found_in(careless.handed) if n.startswith("words")} == {
        name for name in careless.known.updates if name.startswith("words ") and name != "words of update 6, round 2"
    }


def test_what_the_coordinator_is_handed_holds_no_secret(alone: Alone) -> None:
    """Every parcel of the run, to it and from it; the search finds a secret behind an odd number of bytes."""
    needles = Needles(alone.known.secrets(opened=3))
    name, words = next((n, w) for n, w in alone.known.updates.items() if n.startswith("words "))

    found_here = needles.found_in(alone.handed)

    assert len(alone.handed) > 15 * len(words)
    assert found_here == set()
    assert needles.found_in(alone.handed + b"odd" + words[16:48]) == {name}


def test_flower_keeps_no_state_of_a_site(alone: Alone) -> None:
    """The contexts that Flower would store between messages are as empty as at the start."""
    assert len(alone.contexts) == 5
    for context in alone.contexts:
        assert list(context.state) == []
        assert context.run_config == {}
        assert list(context.node_config) == ["site"]


def test_flower_messages_hold_no_secret(whole: Whole) -> None:
    """All that a Flower SuperLink would store and forward."""
    found_here = Needles(whole.known.secrets(opened=3)).found_in(whole.messages)

    assert len(whole.messages) > 15 * len(next(iter(whole.known.updates.values())))
    assert found_here == set()


def test_terminal_and_logs_hold_no_secret(whole: Whole) -> None:
    """Neither as bytes, hex or base64, nor a number of an update as text."""
    needles = Needles(whole.known.secrets(opened=3))
    updates = [np.frombuffer(u, np.float32) for name, u in whole.known.updates.items() if name.startswith("float32")]
    numbers = {repr(float(value)) for update in updates for value in update[update != 0][:200]}
    key = whole.known.keys["group key"]

    assert "5 of 5 sites recomputed the adapter" in whole.said
    assert needles.found_in(whole.said.encode()) == set()
    assert [number for number in numbers if number in whole.said] == []
    assert needles.found_in(f"{whole.said} key={key.hex()}".encode()) == {"group key, in hex"}


def test_the_run_directory_outside_the_sites_holds_no_secret(whole: Whole) -> None:
    """Checkpoints, results, masked vectors, shares, report, adapter; the sites' own folders hold keys, and only they."""
    needles = Needles(whole.known.secrets(opened=3))
    files = [file for file in whole.run.rglob("*") if file.is_file()]
    sites = whole.run / "sites"
    public = [file for file in files if sites not in file.parents]

    leaked = {str(file.relative_to(whole.run)): needles.found_in(file.read_bytes()) for file in public}

    assert len(public) > 20
    assert {name for name, names in leaked.items() if names} == set()
    assert "identity key of site-1" in needles.found_in((sites / "site-1" / "identity.key").read_bytes())


def test_opened_seeds_are_no_longer_secret(alone: Alone) -> None:
    """The own-mask seeds of the sites in a sum come out with it; that of a site whose report was lost does not."""
    opened = alone.known.opened_seeds()

    assert len(opened) == 14
    assert f"opened 2 {LOST}" not in opened
    assert not set(opened.values()) & set(alone.known.secrets(opened=3).values())
    assert set(opened.values()) <= set(alone.known.secrets(opened=0).values())
