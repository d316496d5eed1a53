"""Unfinished work on disk: there after a crash, and only there, and only once."""

import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from partsong.client.encoders.encoder import LocalUpdate
from partsong.client.encoders.halfway import Halfway, SoFar
from partsong.client.secure_sum.file_vault import FileVault
from partsong.client.secure_sum.vault import MemoryVault
from partsong.client.training.unfinished import UnfinishedError, UnfinishedWork
from partsong.common.errors import InputError, TryAgain

SIZE = 1000
PLAN, OTHER_PLAN = "a1" * 32, "b2" * 32
CONTEXT, ADAPTER = f"{PLAN}:3:1", "c3" * 32
MARKER = np.frombuffer(b"mark" * SIZE, np.float32)


def after(step: int, vector_P: np.ndarray = MARKER) -> Halfway:
    """A round after a step."""
    return Halfway(so_far=SoFar(step=step, tokens=7), adapter_P=vector_P, slots=(("exp_avg", vector_P),))


def update() -> LocalUpdate:
    """One that is complete."""
    return LocalUpdate(update_P=MARKER, loss=0.5, visits=1, tokens=2, nonfinite=0, events=())


class Clock:
    """Seconds that pass when they are told to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


Open = Callable[..., UnfinishedWork]


@pytest.fixture
def vault() -> MemoryVault:
    return MemoryVault()


@pytest.fixture
def start(tmp_path: Path, vault: MemoryVault) -> Iterator[Open]:
    """Open the folder as a new process would; the one before is gone."""
    made: list[UnfinishedWork] = []

    def make(*, clock: Callable[[], float] = lambda: 0.0, most_share: float = math.inf) -> UnfinishedWork:
        if made:
            made.pop().close()
        made.append(UnfinishedWork(tmp_path / "unfinished", vault=vault, clock=clock, most_share=most_share))
        return made[-1]

    yield make
    for work in made:
        work.close()


def file_of(folder: Path) -> Path:
    return folder / "unfinished" / f"{PLAN}.unfinished"


def test_the_next_process_reads_the_last_note(start: Open) -> None:
    """Of the context that was begun, and of no other; a complete update takes the place of the round."""
    work = start()
    work.begin(CONTEXT, adapter_sha256=ADAPTER)
    work.keep(CONTEXT, after(1))
    work.keep(CONTEXT, after(2))

    found, others = start(), [f"{PLAN}:3:2", f"{PLAN}:2:1", f"{OTHER_PLAN}:3:1"]

    noted = found.read(CONTEXT, size=SIZE)
    assert isinstance(noted, Halfway)
    assert noted.so_far == SoFar(step=2, tokens=7)
    assert noted.adapter_P.tobytes() == MARKER.tobytes()
    assert [found.read(other, size=SIZE) for other in others] == [None] * 3
    assert found.contexts() == (CONTEXT,)
    found.keep(CONTEXT, update())
    assert isinstance(start().read(CONTEXT, size=SIZE), LocalUpdate)
    assert start().bookmark(CONTEXT, size=SIZE).read() is None


def test_a_context_that_was_begun_stands_at_its_first_step(start: Open) -> None:
    """And what was of its plan before is gone; another plan's stays."""
    work = start()
    work.begin(f"{OTHER_PLAN}:1:1", adapter_sha256=ADAPTER)
    work.begin(CONTEXT, adapter_sha256=ADAPTER)
    work.keep(CONTEXT, after(2))

    work.begin(f"{PLAN}:4:1", adapter_sha256=ADAPTER)

    noted = start().bookmark(f"{PLAN}:4:1", size=SIZE).read()
    assert noted is not None
    assert noted.so_far == SoFar()
    assert start().contexts() == (f"{PLAN}:4:1", f"{OTHER_PLAN}:1:1")
    assert start().read(CONTEXT, size=SIZE) is None


def test_a_round_from_another_adapter_is_another_round(start: Open) -> None:
    """The same context with another start is not gone on with."""
    work = start()
    work.begin(CONTEXT, adapter_sha256=ADAPTER)

    assert work.starts_from(CONTEXT, adapter_sha256=ADAPTER)
    assert not work.starts_from(CONTEXT, adapter_sha256="d4" * 32)
    assert not work.starts_from(f"{PLAN}:3:2", adapter_sha256=ADAPTER)


def test_nothing_on_the_disk_can_be_read_without_the_vault(start: Open, tmp_path: Path, vault: MemoryVault) -> None:
    """Neither numbers nor names of slots, and equal notes look different; the vault opens them."""
    work = start()
    work.begin(CONTEXT, adapter_sha256=ADAPTER)
    work.keep(CONTEXT, after(1))
    first = file_of(tmp_path).read_bytes()
    work.keep(CONTEXT, after(1))

    second = file_of(tmp_path).read_bytes()

    for data in (first, second):
        assert b"markmark" not in data
        assert b"exp_avg" not in data
        assert ADAPTER.encode() not in data
    assert len(first) == len(second) > 2 * 4 * SIZE
    assert not {first[i : i + 16] for i in range(0, len(first), 16)} & {
        second[i : i + 16] for i in range(0, len(second), 16)
    }
    assert stat.S_IMODE(file_of(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "unfinished").stat().st_mode) == 0o700


@pytest.mark.parametrize("place", [0, 11, 12, 500, -1])
def test_a_changed_note_is_refused(start: Open, tmp_path: Path, place: int) -> None:
    """A bit of the nonce, of the text, of the tag; and a note that was cut."""
    work = start()
    work.begin(CONTEXT, adapter_sha256=ADAPTER)
    work.keep(CONTEXT, after(1))
    whole = file_of(tmp_path).read_bytes()
    flipped = bytearray(whole)
    flipped[place] ^= 1

    for wrong in (bytes(flipped), whole[:place], b""):
        file_of(tmp_path).write_bytes(wrong)
        with pytest.raises(UnfinishedError, match="does not open"):
            work.read(CONTEXT, size=SIZE)
    file_of(tmp_path).write_bytes(whole)
    assert work.read(CONTEXT, size=SIZE) is not None
    with pytest.raises(UnfinishedError):
        work.read(CONTEXT, size=SIZE + 1)


def test_an_old_copy_of_an_erased_note_opens_no_more(start: Open, tmp_path: Path) -> None:
    """Its key is gone: a new process erases it, and a later context of the plan does not take it for its own."""
    work = start()
    work.begin(CONTEXT, adapter_sha256=ADAPTER)
    work.keep(CONTEXT, after(2))
    copy = file_of(tmp_path).read_bytes()
    work.erase(PLAN)
    assert not file_of(tmp_path).exists()
    file_of(tmp_path).write_bytes(copy)

    assert start().contexts() == ()
    assert not file_of(tmp_path).exists()
    again = start()
    again.begin(CONTEXT, adapter_sha256=ADAPTER)
    file_of(tmp_path).write_bytes(copy)
    with pytest.raises(UnfinishedError):
        again.read(CONTEXT, size=SIZE)


def test_erasing_overwrites_the_file_before_it_is_removed(start: Open, tmp_path: Path) -> None:
    """Seen through a second name of the same file; what was half written goes at the next start."""
    work = start()
    work.begin(CONTEXT, adapter_sha256=ADAPTER)
    work.keep(CONTEXT, after(1))
    (tmp_path / "second name").hardlink_to(file_of(tmp_path))
    half = file_of(tmp_path).with_name(f".{PLAN}.unfinished.part")
    half.write_bytes(b"half")
    before = (tmp_path / "second name").stat().st_size

    work.erase(PLAN)
    start()

    assert (tmp_path / "second name").read_bytes() == bytes(before)
    assert [f.name for f in (tmp_path / "unfinished").iterdir()] == [".lock"]


def test_two_processes_do_not_share_the_folder(start: Open, tmp_path: Path, vault: MemoryVault) -> None:
    """The second is told to wait; once the first is gone it may."""
    start()

    with pytest.raises(TryAgain, match="another process"):
        UnfinishedWork(tmp_path / "unfinished", vault=vault)

    start()


def test_notes_take_no_more_than_their_share_of_the_time(start: Open) -> None:
    """A note of 1 s at 2 %: the next one after 50 s; every step is noted where notes cost nothing."""
    clock = Clock()
    work = start(clock=clock, most_share=0.02)
    work.begin(CONTEXT, adapter_sha256=ADAPTER)
    bookmark, noted = work.bookmark(CONTEXT, size=SIZE), list[int]()

    def take(step: int) -> Halfway:
        noted.append(step)
        clock.now_s += 1.0
        return after(step)

    for step in range(1, 21):
        clock.now_s += 10.0
        bookmark.put(lambda step=step: take(step))

    assert noted == [1, 6, 11, 16]
    found = work.read(CONTEXT, size=SIZE)
    assert isinstance(found, Halfway)
    assert found.so_far.step == 16
    free, steps = work.bookmark(CONTEXT, size=SIZE), list[int]()
    for step in (21, 22):
        free.put(lambda step=step: steps.append(step) or after(step))
    assert steps == [21, 22]


def test_a_vault_on_disk_keeps_the_keys(tmp_path: Path) -> None:
    """A second vault object over the same folder opens what the first one's site has noted; another key does not."""
    (tmp_path / "vault").mkdir()
    key = bytes(32)
    first = UnfinishedWork(tmp_path / "u", vault=FileVault(tmp_path / "vault", key=key, entropy=os.urandom))
    first.begin(CONTEXT, adapter_sha256=ADAPTER)
    first.keep(CONTEXT, update())
    first.close()

    second = UnfinishedWork(tmp_path / "u", vault=FileVault(tmp_path / "vault", key=key, entropy=os.urandom))

    found = second.read(CONTEXT, size=SIZE)
    assert isinstance(found, LocalUpdate)
    assert found.update_P.tobytes() == MARKER.tobytes()
    second.close()
    other = FileVault(tmp_path / "vault", key=b"k" * 32, entropy=os.urandom)
    with pytest.raises(InputError):
        UnfinishedWork(tmp_path / "u", vault=other)
