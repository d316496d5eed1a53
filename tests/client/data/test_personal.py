"""What is found in made-up records, and what is not."""

import importlib.util
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import iban, luhn

from partsong.client.data.personal import has_details, require_libraries, text_has_details
from partsong.client.data.schema import Row
from partsong.client.rules.consent import NotAgreed
from partsong.common.questions.question import Question, equal_parts

ASKS = Question(parts=equal_parts("units", "table", "personal_details"), most_units=10, loss_clip=8.0)
HOLDS = (
    "Write to jane.doe@clinic.example.org.",
    "<mailto:jane+ward3@klinik.example>",
    "Sister reachable under +49 30 901820, evenings.",
    "call +1 (212) 555-0123",
    "Account DE89 3704 0044 0532 0130 00, paid.",
    "GB82WEST12345698765432",
    "card 4111 1111 1111 1111 exp 11/29",
    "4111111111111111",
)
HOLDS_NOT = (
    "",
    "Sinus rhythm, 72/min, QTc 410 ms; metoprolol 47.5 mg 1-0-1.",
    "Admitted 2024-11-03 at 14:30, discharged 2024-11-07.",
    "HbA1c 7.2 %, Na 139, K 4.1, Krea 0.9; GFR > 60.",
    "patient @ ward 3, seen by r@d",
    "Account DE88 3704 0044 0532 0130 00, refused.",
    "card 4111 1111 1111 1112 was refused",
    "J45.0 J45.1 J45.8 1234 5678",
    "Jane Doe, born in May, lives in Example Street 7",
)


@pytest.mark.parametrize("text", HOLDS)
def test_a_detail_that_can_be_checked_is_found(text: str) -> None:
    """Wherever it stands in the text, with or without spaces."""
    assert text_has_details(text, region=None)


@pytest.mark.parametrize("text", HOLDS_NOT)
def test_text_without_one_is_left_alone(text: str) -> None:
    """Values, dates and wrong check digits; and a name with a street, which nothing here can find."""
    assert not text_has_details(text, region=None)


def test_a_national_number_is_found_where_its_country_is_named() -> None:
    """Without the country it could be anything."""
    assert text_has_details("Tel. (030) 901820", region="DE")
    assert not text_has_details("Tel. (030) 901820", region=None)


def test_all_texts_of_a_record_are_looked_through_but_its_label() -> None:
    """Either side of a dialogue; a class may be called what it likes."""
    asked = Row(number=1, parts=(("user", "Who is it?"), ("assistant", "jane.doe@clinic.example.org")), unit=None)
    labelled = Row(number=1, parts=(("text", "no"), ("label", "jane.doe@clinic.example.org")), unit=None)

    assert has_details(asked, region=None)
    assert not has_details(labelled, region=None)


GROUPED = st.integers(0, 3)


@settings(deadline=None, max_examples=60)
@given(st.text("0123456789", min_size=15, max_size=15), GROUPED, st.sampled_from(["paid by", "on the", "x"]))
def test_any_card_number_is_found_in_any_grouping(digits: str, grouping: int, before: str) -> None:
    """Fifteen digits and the one that checks them."""
    number = digits + luhn.calc_check_digit(digits)
    written = (
        number,
        " ".join(number[i : i + 4] for i in range(0, 16, 4)),
        f"{number[:6]} {number[6:]}",
        f"({number})",
    )

    assert text_has_details(f"{before} {written[grouping]} today", region=None)


@settings(deadline=None, max_examples=60)
@given(st.text("0123456789", min_size=18, max_size=18), st.sampled_from([4, 30]))
def test_any_iban_is_found(digits: str, group: int) -> None:
    """In groups of four, or as one."""
    number = "DE" + iban.calc_check_digits("DE00" + digits) + digits
    written = " ".join(number[i : i + group] for i in range(0, len(number), group))

    assert text_has_details(f"to {written} please", region=None)


def test_a_site_without_the_libraries_refuses_before_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name; a survey that does not ask is none of their business."""
    found: Any = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "stdnum" else found(name, *more))  # fmt: skip

    with pytest.raises(NotAgreed, match=r"partsong\[survey\]"):
        require_libraries(ASKS)

    require_libraries(Question(parts=equal_parts("units", "table"), most_units=10, loss_clip=8.0))
