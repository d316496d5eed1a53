"""Names that data bring along become ids that a charter takes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partsong.common.errors import DataError
from partsong.common.identity.charter import Member
from partsong.simulations.site_ids import site_ids


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("site-a", "site-a"),
        ("Hospital_A", "hospital-a"),
        ("CancerGov", "cancergov"),
        (" Ward 3 (east) ", "ward-3-east"),
        ("Zürich", "zurich"),
        ("a" * 62 + "-b", "a" * 62),
    ],
)
def test_a_name_becomes_an_id(name: str, expected: str) -> None:
    """Worked by hand."""
    assert site_ids([name], place="data") == {name: expected}


@given(st.text(min_size=1, max_size=80))
def test_every_id_is_one_that_a_charter_takes_and_stays_itself(name: str) -> None:
    """Or the name is refused."""
    try:
        (chosen,) = site_ids([name], place="data").values()
    except DataError:
        return

    assert Member(id=chosen, key="00").id == chosen
    assert site_ids([chosen], place="data") == {chosen: chosen}


@pytest.mark.parametrize("names", [["\u4e2d"], ["---"], ["Ward A", "ward_a"]])
def test_names_that_give_no_id_or_one_id_twice_are_refused(names: list[str]) -> None:
    """Before a site is made."""
    with pytest.raises(DataError, match=r"sites? named"):
        site_ids(names, place="data")


def test_a_name_as_it_comes_would_be_refused() -> None:
    """Control: the charter does not take what files are called."""
    with pytest.raises(ValueError, match="lower-case"):
        Member(id="Hospital_A", key="00")
