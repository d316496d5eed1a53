"""Blocks have budgets side by side only if nobody stands in two of them."""

import os
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.budget.blocks import Block, assign, assign_for_good, check_layout
from partsong.client.secure_sum.vault import MemoryVault
from partsong.common.errors import Refused

KEY = bytes(range(32))
YEARS = tuple(Block(name=str(year), first=f"{year}-01-01", last=f"{year}-12-31") for year in (2022, 2023, 2024))


def day(text: str) -> date:
    return date.fromisoformat(text)


def test_each_row_goes_to_the_block_of_its_date() -> None:
    """First and last day belong to the block."""
    rows = [("a", day("2022-01-01")), ("b", day("2023-12-31")), ("a", day("2022-12-31")), ("c", day("2024-02-29"))]

    names, kept = assign(YEARS, rows, known={}, key=KEY)

    assert names == ("2022", "2023", "2022", "2024")
    assert sorted(kept.values()) == ["2022", "2023", "2024"]


def test_a_unit_with_dates_in_two_blocks_is_refused() -> None:
    """It would spend two budgets; with its dates in one block it passes."""
    straddling = [("a", day("2022-12-31")), ("a", day("2023-01-01"))]

    with pytest.raises(Refused, match="unit_in_two_blocks"):
        assign(YEARS, straddling, known={}, key=KEY)

    assert assign(YEARS, straddling[:1], known={}, key=KEY)[0] == ("2022",)


def test_a_date_outside_every_block_is_refused() -> None:
    """A record without a block would have no budget."""
    with pytest.raises(Refused, match=r"date_in_no_block.*row 2"):
        assign(YEARS, [("a", day("2022-01-01")), ("b", day("2025-01-01"))], known={}, key=KEY)


def test_a_date_that_was_changed_since_the_last_time_is_refused() -> None:
    """The attack: spend one block, move the patients to the next by their date, spend again."""
    _, kept = assign(YEARS, [("a", day("2022-06-01"))], known={}, key=KEY)

    with pytest.raises(Refused, match="unit_moved"):
        assign(YEARS, [("a", day("2023-06-01"))], known=kept, key=KEY)

    assert assign(YEARS, [("a", day("2022-07-01"))], known=kept, key=KEY)[0] == ("2022",)


def test_blocks_redrawn_over_known_units_are_refused() -> None:
    """New borders that give old units a fresh budget; borders that only add a year pass."""
    _, kept = assign(YEARS, [("a", day("2022-06-01"))], known={}, key=KEY)
    fresh = (Block(name="fresh", first="2022-01-01", last="2024-12-31"),)
    longer = (*YEARS, Block(name="2025", first="2025-01-01", last="2025-12-31"))

    with pytest.raises(Refused, match="unit_moved"):
        assign(fresh, [("a", day("2022-06-01"))], known=kept, key=KEY)

    assert assign(longer, [("a", day("2022-06-01")), ("b", day("2025-03-01"))], known=kept, key=KEY)[0][1] == "2025"


def test_a_unit_that_is_gone_for_a_while_is_remembered() -> None:
    """Leaving it out once does not wash it clean."""
    _, kept = assign(YEARS, [("a", day("2022-06-01"))], known={}, key=KEY)
    _, kept = assign(YEARS, [("b", day("2023-06-01"))], known=kept, key=KEY)

    with pytest.raises(Refused, match="unit_moved"):
        assign(YEARS, [("a", day("2024-06-01"))], known=kept, key=KEY)


def test_names_of_units_are_kept_under_a_key_only() -> None:
    """What is kept holds neither the name nor a hash that anyone could try names against."""
    _, kept = assign(YEARS, [("patient-7", day("2022-06-01"))], known={}, key=KEY)
    _, other = assign(YEARS, [("patient-7", day("2022-06-01"))], known={}, key=bytes(32))

    assert "patient-7" not in str(kept)
    assert set(kept).isdisjoint(other)
    with pytest.raises(ValueError, match="32 bytes"):
        assign(YEARS, [], known={}, key=b"short")


def test_a_refusal_names_no_unit() -> None:
    """The row is named, the patient is not."""
    rows = [("patient-7", day("2022-06-01")), ("patient-7", day("2023-06-01"))]

    with pytest.raises(Refused) as error:
        assign(YEARS, rows, known={}, key=KEY)

    assert "patient-7" not in str(error.value)
    assert "row 2" in str(error.value)


@pytest.mark.parametrize(
    "blocks",
    [
        (YEARS[0], YEARS[0]),
        (YEARS[0], Block(name="late", first="2022-12-31", last="2023-01-31")),
        (Block(name="all", first="2000-01-01", last="2030-01-01"), YEARS[1]),
    ],
)
def test_blocks_that_share_a_day_or_a_name_are_refused(blocks: tuple[Block, ...]) -> None:
    """One day, one block."""
    with pytest.raises(ValueError, match=r"different names|day in common"):
        check_layout(blocks)
    check_layout(YEARS)  # control


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": "2022-1-1"},
        {"first": "soon"},
        {"first": "2023-01-01", "last": "2022-01-01"},
        {"name": "a/b"},
        {"name": ""},
        {"name": "a\n"},
    ],
)
def test_a_block_that_is_none_is_refused(wrong: dict[str, str]) -> None:
    """Days are written one way, in order; a name fits behind a slash."""
    with pytest.raises(ValueError, match="block"):
        Block(**{"name": "a", "first": "2022-01-01", "last": "2022-12-31"} | wrong)


def test_where_a_unit_is_outlives_the_process() -> None:
    """The vault remembers; another holding starts anew; a memory that is lost after spending stops everything."""
    vault = MemoryVault()

    def place(text: str, *, holding: str = "ward", spent: bool = True) -> tuple[str, ...]:
        rows = [("a", day(text))]
        return assign_for_good(YEARS, rows, holding=holding, vault=vault, spent=spent, entropy=os.urandom)

    with pytest.raises(Refused, match="blocks_forgotten"):
        place("2022-06-01")
    assert place("2022-06-01", spent=False) == ("2022",)
    assert place("2022-07-01") == ("2022",)
    with pytest.raises(Refused, match="unit_moved"):
        place("2023-06-01")
    assert place("2023-06-01", holding="lab", spent=False) == ("2023",)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1095)), max_size=12),
    again=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1095)), max_size=12),
)
def test_whatever_passes_keeps_every_unit_in_one_block_for_ever(
    rows: list[tuple[str, int]], again: list[tuple[str, int]]
) -> None:
    """Over two calls: no unit is ever given two names of blocks."""
    seen: dict[str, set[str]] = {}
    known: dict[str, str] = {}
    for batch in (rows, again):
        dated = [(unit, day("2022-01-01") + timedelta(days=days)) for unit, days in batch]
        try:
            names, known = assign(YEARS, dated, known=known, key=KEY)
        except Refused:
            continue
        for (unit, _), name in zip(dated, names, strict=True):
            seen.setdefault(unit, set()).add(name)

    assert all(len(names) == 1 for names in seen.values())
