"""Checkpoints: whole or previous, never damaged."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.adapters.methods import ServerState, server_step
from partsong.common.config import ServerOptimizerConfig
from partsong.common.errors import DataError
from partsong.server.checkpoint import Checkpoints, Saved


def state_after(rounds: int, optimizer: str = "fedadam") -> ServerState:
    """A state with the memory of an optimizer."""
    state = ServerState(adapter_P=np.linspace(-1, 1, 5))
    for number in range(rounds):
        mean_P = np.random.default_rng(number).standard_normal(5)
        state = server_step(state, mean_P, ServerOptimizerConfig(name=optimizer))
    return state


def saved(rounds: int, optimizer: str = "fedadam") -> Saved:
    return Saved(
        round=rounds, state=state_after(rounds, optimizer), facts={"history": [{"round": i} for i in range(rounds)]}
    )


def same(a: Saved | None, b: Saved) -> bool:
    """Bit for bit."""
    return (
        a is not None
        and (a.round, a.facts, a.state.steps) == (b.round, b.facts, b.state.steps)
        and a.state.adapter_P.tobytes() == b.state.adapter_P.tobytes()
        and {k: v.tobytes() for k, v in a.state.memory.items()} == {k: v.tobytes() for k, v in b.state.memory.items()}
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 4), st.sampled_from(["fedavg", "fedavgm", "nesterov", "fedadam"]))
def test_what_is_saved_is_loaded_with_the_optimizers_memory(
    tmp_path_factory: pytest.TempPathFactory, rounds: int, optimizer: str
) -> None:
    """Adapter, memory, step count and history come back bit for bit, and go on as if nothing had happened."""
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run") / "not" / "yet")
    assert checkpoints.load() is None

    checkpoints.save(saved(rounds, optimizer))

    loaded = checkpoints.load()
    assert loaded is not None
    assert same(loaded, saved(rounds, optimizer))
    step = (np.ones(5), ServerOptimizerConfig(name=optimizer))
    assert (
        server_step(loaded.state, *step).adapter_P == server_step(state_after(rounds, optimizer), *step).adapter_P
    ).all()


def test_the_comparison_would_notice_a_lost_memory() -> None:
    """Control: without its memory FedAdam goes another way."""
    full = state_after(2)
    bare = ServerState(adapter_P=full.adapter_P, steps=full.steps)
    step = (np.ones(5), ServerOptimizerConfig(name="fedadam"))

    assert not same(Saved(round=2, state=bare, facts={}), Saved(round=2, state=full, facts={}))
    assert (server_step(bare, *step).adapter_P != server_step(full, *step).adapter_P).any()


def test_the_newest_round_counts(tmp_path: Path) -> None:
    """Older files stay beside it."""
    checkpoints = Checkpoints(tmp_path)
    for rounds in (1, 2, 3):
        checkpoints.save(saved(rounds))

    assert same(checkpoints.load(), saved(3))
    assert sorted(f.name for f in (tmp_path / "checkpoint").iterdir()) == [
        "latest.json", "round-0001.safetensors", "round-0002.safetensors", "round-0003.safetensors",
    ]  # fmt: skip


def damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "a bit":
        file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    else:
        file.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "other": b"[1, 2]"}[how])


@pytest.mark.parametrize("how", ["gone", "a bit", "empty", "cut", "other"])
def test_a_damaged_adapter_file_is_refused(tmp_path: Path, how: str) -> None:
    """Nothing is resumed from it, and the error says what to do."""
    Checkpoints(tmp_path).save(saved(2))
    damage(tmp_path / "checkpoint" / "round-0002.safetensors", how)

    with pytest.raises(DataError, match=r"round-0002.*found a damaged file.*restore the run directory"):
        Checkpoints(tmp_path).load()


@pytest.mark.parametrize("how", ["empty", "cut", "other"])
def test_a_damaged_pointer_is_refused(tmp_path: Path, how: str) -> None:
    """A user's error text instead of a traceback."""
    Checkpoints(tmp_path).save(saved(2))
    damage(tmp_path / "checkpoint" / "latest.json", how)

    with pytest.raises(DataError, match=r"latest\.json: found a damaged file"):
        Checkpoints(tmp_path).load()


@pytest.mark.parametrize("key", ["round", "file", "sha256", "steps", "facts"])
def test_a_pointer_without_one_of_its_keys_is_refused(tmp_path: Path, key: str) -> None:
    """Each of them is needed."""
    Checkpoints(tmp_path).save(saved(2))
    pointer = tmp_path / "checkpoint" / "latest.json"
    tree = json.loads(pointer.read_text())
    del tree[key]
    pointer.write_text(json.dumps(tree))

    with pytest.raises(DataError, match=r"latest\.json"):
        Checkpoints(tmp_path).load()


@pytest.mark.parametrize("at", ["first", "second"])
def test_a_kill_between_or_in_the_two_writes_leaves_the_previous_checkpoint(tmp_path: Path, at: str) -> None:
    """kill -9 before the adapter file takes its name, or before the pointer does."""
    Checkpoints(tmp_path).save(saved(1))
    code = f"""
    import os, signal
    from pathlib import Path
    import numpy as np
    from partsong.common.adapters.methods import ServerState
    from partsong.server.checkpoint import Checkpoints, Saved
    calls = []
    def replace(self, target):
        calls.append(target)
        if len(calls) == {1 if at == "first" else 2}:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.replace(self, target)
    Path.replace = replace
    Checkpoints(Path({str(tmp_path)!r})).save(Saved(round=2, state=ServerState(adapter_P=np.zeros(5)), facts={{}}))
    """

    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code)], check=False)

    assert done.returncode == -signal.SIGKILL
    assert same(Checkpoints(tmp_path).load(), saved(1))
    assert (tmp_path / "checkpoint" / "round-0002.safetensors").exists() is (at == "second")
    Checkpoints(tmp_path).save(saved(2))
    assert same(Checkpoints(tmp_path).load(), saved(2))


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    """Exit code 75, and the run can be resumed from the round before."""
    Checkpoints(tmp_path).save(saved(1))
    code = f"""
    import resource, signal, sys
    from pathlib import Path
    import numpy as np
    from partsong.common.errors import TryAgain
    from partsong.common.adapters.methods import ServerState
    from partsong.server.checkpoint import Checkpoints, Saved
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    big = Saved(round=2, state=ServerState(adapter_P=np.zeros(5_000)), facts={{}})
    try:
        Checkpoints(Path({str(tmp_path)!r})).save(big)
    except TryAgain as err:
        sys.exit(err.exit_code)
    """

    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code)], check=False)

    assert done.returncode == 75
    assert same(Checkpoints(tmp_path).load(), saved(1))
    assert sorted(f.name for f in (tmp_path / "checkpoint").iterdir()) == ["latest.json", "round-0001.safetensors"]


def test_opened_rounds_are_counted_also_past_a_torn_line(tmp_path: Path) -> None:
    """What went out is on record before it did; a record that was cut off was never acted on."""
    checkpoints = Checkpoints(tmp_path / "run")
    for number, attempt in ((1, 1), (2, 1), (2, 2)):
        checkpoints.note_opened(number=number, attempt=attempt)
    with (tmp_path / "run" / "opened.jsonl").open("ab") as file:
        file.write(b'{"round": 3')
    checkpoints.note_opened(number=4, attempt=1)

    assert dict(checkpoints.attempts()) == {1: 1, 2: 2, 4: 1}
    assert Checkpoints(tmp_path / "other").attempts() == {}


def test_a_damaged_record_of_opened_rounds_is_refused(tmp_path: Path) -> None:
    """What was spent would be unknown."""
    (tmp_path / "opened.jsonl").write_text('{"rund": 1}\n')

    with pytest.raises(DataError, match=r"opened\.jsonl: found a damaged file"):
        Checkpoints(tmp_path).attempts()
