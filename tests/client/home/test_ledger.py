"""A site that lost its ledger goes on with the budget that is left, not with a whole one."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.budget.books import Books
from partsong.client.budget.carried import read_export
from partsong.client.budget.chain import Entry
from partsong.client.budget.ledger import Claim, Ledger
from partsong.client.budget.ledger_export import to_json, verify
from partsong.client.home.layout import SiteHome
from partsong.client.home.ledger import carry, open_ledger, write_spent
from partsong.client.home.lock import held
from partsong.client.home.site_files import open_ledger as look
from partsong.common.build import to_tree
from partsong.common.errors import DataError, InputError, Refused, TryAgain
from partsong.common.privacy.accounting import StepEvents

EVENTS = (StepEvents(sampling_rate=0.05, noise_multiplier=1.0, steps=20),)


def claim(context: str, *, holding: str = "ward") -> Claim:
    return Claim(
        holding=holding, context=context, purpose="train", run="r", coordinator="c", fingerprint="f", events=EVENTS
    )


def worked(folder: Path, *contexts: str) -> SiteHome:
    """Give a site whose ledger committed these."""
    folder.mkdir(exist_ok=True)
    home = SiteHome(folder)
    with contextlib.closing(open_ledger(home)) as ledger:
        ledger.set_ceiling("ward", epsilon=8.0, delta=1e-5)
        for context in contexts:
            ledger.reserve(claim(context))
            ledger.commit(context)
    return home


def exported(home: SiteHome, file: Path) -> Path:
    with contextlib.closing(open_ledger(home)) as ledger:
        file.write_text(to_json(ledger))
    return file


def spent(home: SiteHome) -> float:
    with contextlib.closing(open_ledger(home)) as ledger:
        verify(ledger)
        return ledger.spent("ward").epsilon


def lose(home: SiteHome) -> None:
    home.ledger.unlink()
    home.ledger_head.unlink()


@settings(max_examples=10, deadline=None)
@given(ends=st.lists(st.sampled_from(["reserved", "committed", "released"]), max_size=3))
def test_what_counted_as_spent_counts_on(ends: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """To the last digit; what was released does not, what is in doubt does."""
    old = worked(tmp_path_factory.mktemp("old"))
    with contextlib.closing(open_ledger(old)) as ledger:
        for number, end in enumerate(ends):
            ledger.reserve(claim(str(number)))
            if end != "reserved":
                getattr(ledger, {"committed": "commit", "released": "release"}[end])(str(number))
    new = SiteHome(tmp_path_factory.mktemp("new"))

    carry(new, exported(old, new.path / "export.json"), incomplete=False)

    assert spent(new) == spent(old)
    with contextlib.closing(open_ledger(new)) as ledger:
        assert ledger.holding("ward").ceiling == 8.0
        assert {ledger.state(str(n)) for n, end in enumerate(ends) if end != "released"} <= {"committed"}


def test_a_lost_ledger_does_not_give_the_budget_back(tmp_path: Path) -> None:
    """What it allowed no more stays refused; a new ledger, the control, would allow it."""
    home = worked(tmp_path / "site", "1", "2")
    with contextlib.closing(open_ledger(home)) as ledger:
        ledger.set_ceiling("ward", epsilon=ledger.spent("ward").epsilon, delta=1e-5)
    export = exported(home, tmp_path / "export.json")
    lose(home)

    carry(home, export, incomplete=False)

    with contextlib.closing(open_ledger(home)) as ledger, pytest.raises(Refused, match="over_budget"):
        ledger.reserve(claim("again"))
    with contextlib.closing(Ledger(tmp_path / "control.sqlite")) as ledger:
        ledger.set_ceiling("ward", epsilon=spent(home), delta=1e-5)
        ledger.reserve(claim("again"))


def test_no_context_of_a_lost_ledger_is_used_again(tmp_path: Path) -> None:
    """A round that was sealed is never reserved a second time."""
    home = worked(tmp_path / "site", "1")
    export = exported(home, tmp_path / "export.json")
    lose(home)

    carry(home, export, incomplete=False)

    with contextlib.closing(open_ledger(home)) as ledger, pytest.raises(Refused, match="context_used"):
        ledger.reserve(claim("1"))


def test_an_export_that_ends_before_the_last_commit_needs_a_word_of_the_operator(tmp_path: Path) -> None:
    """Only the site's own memory knows that something is missing; nothing changes before the word is given."""
    home = worked(tmp_path / "site", "1")
    export = exported(home, tmp_path / "export.json")
    worked(home.path, "2")
    home.ledger.unlink()

    with pytest.raises(Refused, match="entry 7 of its ledger, the export ends at 4"):
        carry(home, export, incomplete=False)
    assert not home.ledger.exists()

    carry(home, export, incomplete=True)
    with contextlib.closing(open_ledger(home)) as ledger:
        assert (ledger.state("1"), ledger.state("2")) == ("committed", None)


def test_a_ledger_with_claims_of_its_own_is_not_replaced(tmp_path: Path) -> None:
    """Nor is one that is in use by a daemon."""
    home, other = worked(tmp_path / "site", "1"), worked(tmp_path / "other", "2")
    export = exported(other, tmp_path / "export.json")

    with pytest.raises(Refused, match="ledger_begun"):
        carry(home, export, incomplete=True)
    with held(home.lock), pytest.raises(TryAgain):
        carry(home, export, incomplete=True)
    assert spent(home) == spent(other)  # one claim each, as before
    with contextlib.closing(open_ledger(home)) as ledger:
        assert ledger.state("2") is None


def test_a_newer_export_takes_the_place_of_an_older_one_and_not_the_other_way(tmp_path: Path) -> None:
    """After a restore with what the backup knew; nothing of this ledger's own is lost by it."""
    old = worked(tmp_path / "old", "1")
    first = exported(old, tmp_path / "first.json")
    second = exported(worked(old.path, "2"), tmp_path / "second.json")
    new = SiteHome(tmp_path / "new")
    new.path.mkdir()
    carry(new, first, incomplete=False)

    carry(new, second, incomplete=False)

    assert spent(new) == spent(old)
    with pytest.raises(Refused, match="older_export"):
        carry(new, first, incomplete=True)
    assert spent(new) == spent(old)


def test_a_ledger_can_be_lost_twice(tmp_path: Path) -> None:
    """The export of a ledger that was carried over holds what it inherited."""
    home = worked(tmp_path / "site", "1")
    for number in (2, 3):
        export = exported(home, tmp_path / f"{number}.json")
        lose(home)
        home.spent.unlink(missing_ok=True)
        carry(home, export, incomplete=False)
        worked(home.path, str(number))

    with contextlib.closing(open_ledger(home)) as ledger:
        assert {ledger.state(context) for context in "123"} == {"committed"}


def test_a_ledger_that_is_made_beside_its_own_export_is_left_alone(tmp_path: Path) -> None:
    """A backup leaves the file behind; the ledger that it is of goes on as before."""
    home = worked(tmp_path / "site", "1")
    write_spent(home)
    before = verify_entries(home)

    with contextlib.closing(open_ledger(home)) as ledger:
        assert not ledger.only_inherited

    assert verify_entries(home) == before


def test_claims_are_carried_only_into_a_ledger_that_has_none(tmp_path: Path) -> None:
    """And once: a second lost ledger would stand beside the first unseen."""
    home, other = worked(tmp_path / "site", "1"), worked(tmp_path / "other", "2")
    past = read_export(exported(other, tmp_path / "export.json").read_text(), place="export")

    with contextlib.closing(open_ledger(home)) as ledger:
        before = ledger.head
        with pytest.raises(Refused, match="ledger_begun"):
            ledger.carry(past)
        assert ledger.head == before


@pytest.mark.parametrize(
    "story",
    [
        ("opened", "ceiling", "reserved", "inherits"),
        ("opened", "ceiling", "carried"),
        ("opened", "inherits", "inherits"),
    ],
)
def test_a_carrying_that_cannot_have_happened_is_damage(story: tuple[str, ...]) -> None:
    """After a claim of the ledger's own, from nowhere, or twice; in the right order, the control, it is read."""
    bodies = {
        "opened": {"ledger": "a"},
        "ceiling": {"holding": "ward", "epsilon": 8.0, "delta": 1e-5},
        "reserved": to_tree(claim("1")),
        "carried": to_tree(claim("2")),
        "inherits": {"ledger": "b"},
    }

    def read(kinds: tuple[str, ...]) -> None:
        books = Books()
        for number, kind in enumerate(kinds, start=1):
            books.apply(Entry(number=number, time_ms=1, kind=kind, body=json.dumps(bodies[kind]), digest=""))

    read(("opened", "inherits", "ceiling", "carried", "reserved"))
    with pytest.raises(Refused, match="ledger_damaged"):
        read(story)


def test_looking_at_a_lost_ledger_does_not_begin_one(tmp_path: Path) -> None:
    """What an old backup left behind would pass for the ledger, and plans that were answered since for unpaid."""
    home = worked(tmp_path / "site", "1")
    write_spent(home)
    worked(home.path, "2")
    lose(home)

    with pytest.raises(InputError):
        look(home.path)

    assert not home.ledger.exists()


def verify_entries(home: SiteHome) -> int:
    with contextlib.closing(open_ledger(home)) as ledger:
        return verify(ledger).entries


def without_claims(tree: dict[str, Any]) -> None:
    tree["entries"] = [line for line in tree["entries"] if line["kind"] != "reserved"]


def cheaper(tree: dict[str, Any]) -> None:
    next(line for line in tree["entries"] if line["kind"] == "reserved")["body"]["events"][0]["steps"] = 1


def shorter(tree: dict[str, Any]) -> None:
    del tree["entries"][2:]


@pytest.mark.parametrize("change", [without_claims, cheaper, shorter, dict.clear], ids=lambda change: change.__name__)
def test_an_export_that_was_changed_is_refused(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    """And nothing is begun with it; the unchanged one is read."""
    home = worked(tmp_path / "site", "1")
    export = exported(home, tmp_path / "export.json")
    assert len(read_export(export.read_text(), place="export").claims) == 1
    tree = json.loads(export.read_text())
    change(tree)
    export.write_text(json.dumps(tree))
    lose(home)

    with pytest.raises(DataError):
        carry(home, export, incomplete=True)

    assert not home.spent.exists()


def test_no_export_is_said_so(tmp_path: Path) -> None:
    """A file that is not there, and one that is no text."""
    home = SiteHome(tmp_path / "site")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")

    for name in ("none", "bytes"):
        with pytest.raises(InputError):
            carry(home, tmp_path / name, incomplete=False)
