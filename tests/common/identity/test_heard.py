"""Fingerprints as people type them: with or without whose they are, with or without spaces."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.errors import InputError
from partsong.common.identity.heard import parse_heard, spoken_for
from partsong.common.identity.keys import fingerprint

KEYS = {name: fingerprint(name.encode()) for name in ("lyon", "porto", "turku")}


@settings(max_examples=50, deadline=None)
@given(key=st.binary(max_size=200), named=st.booleans(), upper=st.booleans(), spaced=st.booleans())
def test_every_fingerprint_is_read_in_every_way_of_writing_it(
    key: bytes, *, named: bool, upper: bool, spaced: bool
) -> None:
    """It speaks for the key that it is of, and for no other."""
    text = fingerprint(key)
    shown = text if spaced else text.replace(" ", "")

    heard = parse_heard(("porto=" if named else "") + (shown.upper() if upper else shown), known=KEYS)

    assert heard.fits("porto", text)
    assert heard.fits("lyon", text) is not named
    assert not heard.fits("porto", KEYS["porto"])


def test_with_a_name_it_speaks_for_that_one_alone() -> None:
    """The key of one site under the name of another is heard of nobody."""
    named, bare = (parse_heard(text + KEYS["porto"], known=KEYS) for text in ("lyon=", ""))

    assert spoken_for((named,), KEYS) == frozenset()
    assert spoken_for((bare,), KEYS) == {"porto"}
    assert spoken_for((bare, parse_heard(f"lyon={KEYS['lyon']}", known=KEYS)), KEYS) == {"porto", "lyon"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prto=" + KEYS["porto"], r"did you mean porto=\.\.\.\?"),
        ("qqqqqqqq=" + KEYS["porto"], r"expected one of lyon, porto, turku$"),
        (KEYS["porto"][:4], r"4 of 32 letters and digits.*in quotes"),
        ("porto=" + KEYS["porto"][:-1], "31 of 32"),
        (KEYS["porto"] + "a", "33 of 32"),
        ("porto=" + "1" * 32, "WHO=FINGERPRINT or a fingerprint"),
        ("", "WHO=FINGERPRINT"),
        ("=" + KEYS["porto"], "found one of ''"),
    ],
)
def test_what_is_none_is_refused_with_what_was_meant(text: str, words: str) -> None:
    """A name that nobody has, a group that lost its quotes, one letter less and one more, another alphabet."""
    with pytest.raises(InputError, match=words):
        parse_heard(text, known=KEYS)
