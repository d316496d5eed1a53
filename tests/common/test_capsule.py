"""A capsule tells what failed and nothing of whose record it failed on."""

import getpass
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.build import build, canonical_json, to_tree
from partsong.common.capsule import (
    MOST_BYTES,
    REMEDIES,
    Capsule,
    Environment,
    capsule_words,
    decode,
    encode,
    look_around,
    make_capsule,
    release,
)
from partsong.common.capsule_shelf import MOST_KEPT, CapsuleShelf
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.deployment import SiteConfig
from partsong.common.errors import (
    ConfigError,
    DataError,
    InputError,
    ModelError,
    Refused,
    RoundAborted,
    TryAgain,
    WireError,
)

SECRET = "fracture of the left wrist"
AROUND = Environment(
    python="3.11.7",
    system="Linux",
    machine="x86_64",
    versions={"partsong": "0.1.0", "torch": "2.13.0+cpu"},
    gpu=False,
    memory_gb=16,
    disk_gb=64,
)


def _capsule(error: BaseException | None = None, **changes: Any) -> Capsule:
    made = make_capsule(
        error or ValueError(SECRET),
        site="north",
        run="study 1",
        round_id=3,
        phase="training",
        environment=AROUND,
        entropy=bytes,
        clock=lambda: 1.5,
    )
    return replace(made, **changes)


def _raised() -> BaseException:
    try:
        build(Environment, {"python": SECRET, SECRET: "x"})
    except ConfigError as err:
        return err
    raise AssertionError


def test_a_capsule_names_type_place_round_and_remedy() -> None:
    """By hand: what was raised in `build` comes out with its module, the run's name as a word, and the advice."""
    capsule = _capsule(_raised())

    assert (capsule.id, capsule.time_ms, capsule.run, capsule.round) == ("0" * 16, 1500, "study_1", 3)
    assert capsule.errors == ("ConfigError",)
    assert capsule.places[0].startswith("common.build:")
    assert capsule.remedy == REMEDIES["settings"]


@settings(deadline=None, max_examples=100)
@given(text=st.text(min_size=4, max_size=60).filter(lambda t: not set(t) <= set("0123456789abcdef. ")))
def test_no_message_of_any_exception_is_in_a_capsule(text: str) -> None:
    """Two capsules of the same failure with different texts are the same to the byte."""
    chained = ValueError(text)
    chained.__cause__ = Refused("budget", reason=text, remedy=text)
    other = ValueError("")
    other.__cause__ = Refused("budget", reason="", remedy="")

    assert encode(_capsule(chained)) == encode(_capsule(other))


def test_the_control_has_the_text_in_the_exception() -> None:
    """What is kept out was there to be taken."""

    assert SECRET in str(_raised())
    assert SECRET.encode() not in encode(_capsule(_raised()))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (Refused("r", reason="a", remedy="b"), "refusal"),
        (ConfigError("a", found="b", expected="c"), "settings"),
        (DataError("a", found="b", expected="c"), "data"),
        (ModelError("a", found="b", expected="c"), "model"),
        (WireError("a"), "message"),
        (TryAgain("a"), "later"),
        (MemoryError(), "memory"),
        (type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})(), "memory"),
        (ConnectionResetError(), "network"),
        (TimeoutError(), "network"),
        (OSError(28, "x"), "disk"),
        (RoundAborted("a"), "unknown"),
        (KeyError(SECRET), "unknown"),
    ],
)
def test_the_remedy_follows_from_the_kind_of_error(error: Exception, advice: str) -> None:
    """It comes from a closed list, never from the exception."""

    assert _capsule(error).advice == advice


def test_bytes_come_back_as_the_capsule_they_were() -> None:
    """Encoding and decoding are inverse, and the bytes stay far below the cap."""
    capsule = _capsule(_raised())

    assert decode(encode(capsule)) == capsule
    assert len(encode(capsule)) < MOST_BYTES // 4


def _changed(**changes: Any) -> bytes:
    return canonical_json(to_tree(_capsule()) | changes)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 5000,
        b" " * (MOST_BYTES + 1),
        encode(_capsule()) + b" ",
        json.dumps(to_tree(_capsule())).encode(),
        _changed(text=SECRET),
        _changed(id="../../etc"),
        _changed(errors=[]),
        _changed(errors=["ValueError"] * 5),
        _changed(errors=[SECRET]),
        _changed(places=["/srv/ward.py:3"]),
        _changed(places=["client.train:1"] * 13),
        _changed(advice=SECRET),
        _changed(site=""),
        _changed(round=-1),
        _changed(round=True),
        _changed(time_ms=1 << 60),
        _changed(rule=SECRET),
        _changed(environment=to_tree(AROUND) | {"memory_gb": 17}),
        _changed(environment=to_tree(AROUND) | {"memory_gb": -1}),
        _changed(environment=to_tree(AROUND) | {"disk_gb": 1 << 20}),
        _changed(environment=to_tree(AROUND) | {"versions": {"hostname": "ward-3"}}),
        _changed(environment=to_tree(AROUND) | {"versions": {"torch": SECRET}}),
    ],
)
def test_what_is_no_capsule_is_refused_without_its_content(data: bytes) -> None:
    """Another format, order, size, field or form is dropped, and nothing of it is repeated."""
    with pytest.raises(WireError) as no:
        decode(data)

    assert SECRET not in str(no.value)


@settings(deadline=None, max_examples=200)
@given(data=st.binary(max_size=200), at=st.integers(0, 300), flip=st.integers(1, 255))
def test_changed_bytes_are_another_capsule_or_none(data: bytes, at: int, flip: int) -> None:
    """No input makes the decoder fail in another way, and what it takes has one form."""
    whole = bytearray(encode(_capsule()))
    whole[at % len(whole)] ^= flip
    for candidate in (bytes(whole), data):
        try:
            found = decode(candidate)
        except WireError:
            continue

        assert encode(found) == candidate


def test_nothing_of_the_machine_but_its_kind_is_told(tmp_path: Path) -> None:
    """A real look around names no host, user or folder, and only powers of two."""
    around = look_around(tmp_path)

    text = canonical_json(around).decode()
    assert around.versions.keys() >= {"numpy", "cryptography", "flwr"}
    assert not [word for word in (socket.gethostname(), str(tmp_path), str(Path.home())) if word in text]
    assert f'"{getpass.getuser()}"' not in text
    assert all(size & (size - 1) == 0 for size in (around.memory_gb, around.disk_gb))


@pytest.mark.parametrize("releases", [True, False])
def test_a_capsule_leaves_only_where_the_site_says_so(*, releases: bool) -> None:
    """The site's settings decide, and their default is no."""
    config = SiteConfig(
        name="north",
        coordinator="localhost:7443",
        model=ModelConfig(source="base"),
        data=DataConfig(),
        **({"release_capsules": True} if releases else {}),
    )

    assert release(_capsule(), config=config) == (encode(_capsule()) if releases else None)


def test_the_words_show_all_of_it() -> None:
    """What an operator reads names site, error, round, remedy and id."""
    words = capsule_words(_capsule(Refused("budget", reason=SECRET, remedy=SECRET)))

    assert all(
        part in words for part in ("north", "Refused", "round 3", "training", "budget", REMEDIES["refusal"], "0" * 16)
    )
    assert SECRET not in words


def test_a_shelf_keeps_the_newest_and_finds_them(tmp_path: Path) -> None:
    """Beyond the limit the oldest go; ids come newest first; a capsule is found by the beginning of its id."""
    shelf = CapsuleShelf(tmp_path / "capsules")
    assert shelf.ids() == ()

    for number in range(MOST_KEPT + 3):
        shelf.keep(_capsule(id=f"{number:016x}", time_ms=number, run=f"run-{number % 2}"))

    assert shelf.ids()[0] == f"{MOST_KEPT + 2:016x}"
    assert len(shelf.ids()) == MOST_KEPT
    assert shelf.read(f"{MOST_KEPT + 2:016x}").time_ms == MOST_KEPT + 2
    assert {c.run for c in shelf.of_run("run-1")} == {"run-1"}
    assert len(shelf.of_run("run-1")) == MOST_KEPT // 2
    for wrong in ("0", "", "zz"):
        with pytest.raises(InputError, match="capsule"):
            shelf.read(wrong)


def test_a_damaged_capsule_is_named_and_hides_no_other(tmp_path: Path) -> None:
    """Reading it says so; the rest of its run is still shown."""
    shelf = CapsuleShelf(tmp_path)
    shelf.keep(_capsule(id="a" * 16, time_ms=1))
    shelf.keep(_capsule(id="b" * 16, time_ms=2))
    (tmp_path / f"{1:016d}-{'a' * 16}.json").write_bytes(b"{" * 100_000)

    with pytest.raises(DataError, match="damaged"):
        shelf.read("a" * 16)

    assert [c.id for c in shelf.of_run("study_1")] == ["b" * 16]
