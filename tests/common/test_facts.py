"""Only facts with a name, a type and a form are told."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.errors import InputError
from partsong.common.facts import FIELDS, LONGEST_WORD, checked, word


def test_facts_of_the_list_pass_sorted() -> None:
    """A word, a count, a number and a yes come back as they are, by name."""

    facts = checked({"site": "north", "round": 3, "took_s": 1, "ok": True})

    assert list(facts.items()) == [("ok", True), ("round", 3), ("site", "north"), ("took_s", 1.0)]


def test_an_unlisted_field_is_refused_without_its_value() -> None:
    """The text of the refusal names the field alone."""
    with pytest.raises(InputError, match="the field record_text") as no:
        checked({"record_text": "fracture"})

    assert "fracture" not in str(no.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("site", 3),
        ("round", "3"),
        ("round", True),
        ("round", 1.0),
        ("ok", 1),
        ("took_s", float("nan")),
        ("loss", float("inf")),
        ("place", "/home/ward/records.jsonl"),
        ("error", "two words"),
        ("rule", "x\nforged: line"),
        ("state", ""),
        ("run", "x" * (LONGEST_WORD + 1)),
    ],
)
def test_a_value_of_another_type_or_form_is_refused(name: str, value: object) -> None:
    """No sentence, path, line break, infinity or yes-for-a-number passes, and none is repeated."""
    with pytest.raises(InputError, match=f"fact {name}") as no:
        checked({name: value})  # type: ignore[dict-item]

    assert str(value) not in str(no.value) or str(value) in ("", "3", "1", "1.0", "True")


def test_a_fact_cannot_be_changed_afterwards() -> None:
    """What was checked is what is told."""
    facts = checked({"round": 1})

    with pytest.raises(TypeError):
        facts["round"] = 2  # type: ignore[index]


@settings(deadline=None, max_examples=200)
@given(text=st.text(max_size=300))
def test_every_name_becomes_a_word(text: str) -> None:
    """Whatever a stranger called a run, its word is a fact."""

    assert checked({"run": word(text)})["run"] == word(text)


@settings(deadline=None, max_examples=100)
@given(name=st.text(alphabet=string.ascii_letters + string.digits + "_", min_size=1, max_size=LONGEST_WORD))
def test_a_plain_name_stays_itself(name: str) -> None:
    """A name that has the form is not changed."""

    assert word(name) == name


def test_no_field_is_named_after_what_must_stay() -> None:
    """The list names no record, text, key, share, update or message."""

    assert not {"text", "record", "message", "key", "share", "update", "path", "local_loss"} & FIELDS.keys()
