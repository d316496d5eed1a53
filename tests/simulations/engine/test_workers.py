"""A run whose sites are played elsewhere ends with the bytes of one whose sites are all here."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from partsong.common import events
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, TryAgain
from partsong.simulations.engine import processes
from partsong.simulations.engine.frames import LENGTH_BYTES
from partsong.simulations.engine.processes import ProcessCrew, crew_of
from partsong.simulations.engine.worker import serve
from partsong.simulations.federation import Federation, Result
from partsong.simulations.marks import VERIFIED_ONCE, marks
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.simulate import resume

Configure = Callable[..., SimulationConfig]
Play = Callable[..., Result]
SMALL = ("rounds=2", "sites=3", "training.steps_per_round=1", "evaluate_every=0")


def carried(configured: Configure, *overrides: str) -> tuple[Result, RunDir, set[str]]:
    """A run of five sites one of which is killed, and which of them were seen to train."""
    config, seen = configured(*SMALL, *overrides), set[str]()
    run = RunDir.create(config, marks=marks(config))

    def listen(event: events.Event) -> None:
        if isinstance(event, events.SiteProgress):
            seen.add(event.site)

    return Federation(prepare(config), run, listen=listen).run(), run, seen


@pytest.mark.parametrize("workers", [2, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_run_is_bit_identical_for_any_number_of_workers(configured: Configure, tmp_path: Path, workers: int) -> None:
    """Also where a site's process is killed; training is told as if it were here."""
    script = tmp_path / "faults.yaml"
    script.write_text("faults:\n  - {kind: kill, sites: [site-2], rounds: [1], phases: [open], moment: after}\n")
    usual = ("sites=5", f"faults={script}")
    here, _, _ = carried(configured, *usual)

    there, run, seen = carried(configured, *usual, f"engine.workers={workers}", "engine.verify_once=true")

    assert here.trained_P.any()
    assert here.trained_P.tobytes() == there.trained_P.tobytes()
    assert [entry["sites"] for entry in here.history] == [entry["sites"] for entry in there.history]
    assert here.history[0]["sites"] == ["site-1", "site-3", "site-4", "site-5"]
    assert seen == {f"site-{i}" for i in range(1, 6)}
    assert VERIFIED_ONCE in json.loads((run.path / "run.json").read_text())["marks"]


def test_workers_that_were_started_before_the_run_end_with_the_same_bytes(configured: Configure) -> None:
    """They have loaded what the configuration names while the run was prepared, and are gone after it."""
    here, _, _ = carried(configured)
    config = configured(*SMALL, "engine.workers=2")

    with crew_of(config) as crew:
        assert crew is not None
        (process,) = crew._processes
        there = Federation(prepare(config), RunDir.create(config, marks=()), crew=crew).run()

    assert here.trained_P.tobytes() == there.trained_P.tobytes()
    assert process.returncode == 0


def test_workers_that_were_started_for_another_configuration_load_their_own(configured: Configure) -> None:
    """What a run does follows from its directory; what was loaded for another configuration is not used."""
    here, _, _ = carried(configured)

    with crew_of(configured(*SMALL, "engine.workers=1", "adapter.r=2", "seed=99")) as crew:
        config = configured(*SMALL, "engine.workers=1")
        there = Federation(prepare(config), RunDir.create(config, marks=()), crew=crew).run()

    assert here.trained_P.tobytes() == there.trained_P.tobytes()


def test_what_is_wrong_is_said_by_the_run_alone(tmp_path: Path) -> None:
    """Workers that warm up for records that are not there say nothing; the run's error is as without them."""
    program = "import sys; from partsong.simulations.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", program, "simulate", "data=local"]
    command += [f"data.path={tmp_path / 'nothing.jsonl'}", "engine.workers=1", f"run_dir={tmp_path}"]

    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.stderr.count("nothing.jsonl") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.nightly
def test_workers_end_with_the_process_that_started_them(configured: Configure) -> None:
    """Killed, it says nothing more: its pipes end, and with them whoever waits for the run."""
    crew = ProcessCrew(configured(*SMALL, "engine.workers=2"))
    crew.warm_up()
    (process,) = crew._processes

    process.stdin.close()

    assert process.wait(timeout=120) == 0
    crew.close()


@pytest.mark.parametrize(
    ("device", "platform", "driver", "expected"),
    [
        ("cpu", "linux", True, True),
        ("auto", "linux", False, True),
        ("auto", "linux", True, False),
        ("cuda", "linux", False, False),
        ("cpu", "darwin", False, False),
    ],
)
def test_a_process_divides_itself_only_where_no_driver_may_be_awake(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, platform: str, *, driver: bool, expected: bool
) -> None:
    """Elsewhere each worker is a process from its start."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(processes, "_DRIVERS", (str(tmp_path if driver else tmp_path / "none"),))

    assert processes.divides(device) is expected


@pytest.mark.nightly
def test_workers_that_cannot_divide_are_processes_from_their_start(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each loads for itself; the bytes are the same."""
    here, _, _ = carried(configured, "rounds=1")
    monkeypatch.setattr(processes, "divides", lambda _: False)
    config = configured(*SMALL, "rounds=1", "engine.workers=2")

    with crew_of(config) as crew:
        assert crew is not None
        assert len(crew._processes) == 2
        there = Federation(prepare(config), RunDir.create(config, marks=()), crew=crew).run()

    assert here.trained_P.tobytes() == there.trained_P.tobytes()


def test_another_seed_gives_other_bytes(play: Play) -> None:
    """Control: equality of bytes is not for free."""
    assert play(*SMALL, "rounds=1").trained_P.tobytes() != play(*SMALL, "rounds=1", "seed=8").trained_P.tobytes()


def children_of(pid: int) -> list[int]:
    """Numbers of the processes that a process has divided itself into."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system does not tell a process's children")
def test_a_worker_that_dies_alone_is_missed(configured: Configure) -> None:
    """Nobody else holds its pipe open, so the run ends instead of waiting, and its neighbour ends with it."""
    config = configured(*SMALL, "engine.workers=2")
    crew, neighbours = ProcessCrew(config), list[int]()

    def listen(event: events.Event) -> None:
        if isinstance(event, events.RoundOpened) and event.round == 2:
            first, *others = children_of(crew._processes[0].pid)
            neighbours.extend(others)
            os.kill(first, signal.SIGKILL)

    with pytest.raises(TryAgain, match="worker 0 ended"):
        Federation(prepare(config), RunDir.create(config, marks=()), listen=listen, crew=crew).run()

    assert len(neighbours) == 1
    assert not any(
        Path(f"/proc/{pid}/cmdline").is_file() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in neighbours
    )


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_die_end_the_run_so_that_it_can_be_resumed(configured: Configure, workers: int) -> None:
    """What their sites had on their disks stands."""
    config = configured(*SMALL, f"engine.workers={workers}")
    run = RunDir.create(config, marks=marks(config))
    crews: list[ProcessCrew] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.RoundOpened) and event.round == 2:
            os.killpg(crews[0]._processes[0].pid, signal.SIGKILL)

    federation = Federation(prepare(config), run, listen=listen)
    crews.append(federation._engine._crew)
    with pytest.raises(TryAgain, match="resume"):
        federation.run()

    assert len(resume(run.path, console=Console(quiet=True)).result.history) == 2


def test_a_run_whose_updates_are_watched_is_refused_with_workers(configured: Configure) -> None:
    """Only one process sees every update."""
    config = configured(*SMALL, "engine.workers=1", "measure_aggregation=true")

    with pytest.raises(ConfigError, match=r"engine\.workers"):
        Federation(prepare(config), RunDir.create(config, marks=()))


@pytest.mark.parametrize("wrong", [["engine.name=ray"], ["engine.workers=-1"], ["engine.gpus=0.5"]])
def test_an_engine_that_cannot_be_is_refused(configured: Configure, wrong: list[str]) -> None:
    """Ray without workers, fewer than none, and a setting that this engine would ignore."""
    with pytest.raises(ConfigError):
        configured(*wrong)


def test_frames_are_answered_in_order_until_they_end() -> None:
    """Each frame is as long as it says."""
    frames = b"".join(len(data).to_bytes(LENGTH_BYTES, "big") + data for data in (b"a", b"", b"bc"))
    out = io.BytesIO()

    serve(lambda data: data + data, io.BytesIO(frames), out)

    assert out.getvalue() == b"".join(len(d).to_bytes(LENGTH_BYTES, "big") + d for d in (b"aa", b"", b"bcbc"))


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_its_engine_is_refused_by_name(configured: Configure) -> None:
    """The remedy names the extra."""
    config = configured(*SMALL, "engine.name=ray", "engine.workers=1")

    with pytest.raises(ConfigError, match=r"partsong\[ray\]"):
        Federation(prepare(config), RunDir.create(config, marks=()))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install partsong[ray]")
def test_the_ray_engine_ends_with_the_bytes_of_this_process(play: Play) -> None:
    """Two actors on a cluster of this machine."""
    here = play(*SMALL)

    there = play(*SMALL, "engine.name=ray", "engine.workers=2", "engine.cpus=0.5")

    assert here.trained_P.tobytes() == there.trained_P.tobytes()
