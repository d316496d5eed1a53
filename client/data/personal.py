"""Whether a record holds a personal detail of a kind that can be checked: an address, a number with its own rules.

Covers: e-mail addresses of valid form; telephone numbers that a country gives out, written internationally, or as it is
usual in the country that the site names; IBANs and payment cards whose check digits are right, with or without spaces.
Does not cover: names, streets, dates of birth, record numbers and whatever else only a reader recognises; a text in
which nothing is found can still name a person. A long number is taken for a card once in ten times by chance, and a
laboratory value or a date for a telephone number now and then.

What is found is counted; it is neither kept nor told to anybody.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

from partsong.client.data.schema import Row
from partsong.client.rules.consent import NotAgreed
from partsong.common.questions.question import PERSONAL, Question

_LIBRARIES = ("email_validator", "phonenumbers", "stdnum")
_AROUND = str.maketrans(dict.fromkeys("<>()[]{}|,;:\"'", " "))
"""What stands around an address or a number and is never in one that is checked here."""
_LONGEST_IBAN, _CARD = 34, range(13, 20)
"""Characters: ISO 13616; ISO/IEC 7812."""


def require_libraries(question: Question | None) -> None:
    """Find out whether a question can be answered here, before it costs anything.

    Raises:
        NotAgreed: `data`: personal details are asked for, and a library is not installed; nothing was read.
    """
    if asks_personal(question) and not all(map(importlib.util.find_spec, _LIBRARIES)):
        raise NotAgreed(
            "data",
            "personal details are found by packages that are not installed: pip install 'partsong[survey]'",
            rule="personal_details",
        )


def asks_personal(question: Question | None) -> bool:
    """Whether the texts have to be looked through."""
    return question is not None and PERSONAL in {part.name for part in question.parts}


def has_details(row: Row, *, region: str | None) -> bool:
    """Look a record's texts through, its label aside.

    Args:
        row: of a table.
        region: country whose usual way of writing telephone numbers is read too (ISO 3166-1, such as DE); None: only
            numbers that begin with + and the code of their country.
    """
    return any(text_has_details(text, region=region) for name, text in row.parts if name != "label")


def text_has_details(text: str, *, region: str | None) -> bool:
    """Look one text through; see `has_details`."""
    words = [word.strip(".") for word in text.translate(_AROUND).split()]
    return any(map(_is_address, words)) or _has_number(words) or _has_telephone(text, region)


def _is_address(word: str) -> bool:
    if "@" not in word:
        return False
    from email_validator import EmailNotValidError, validate_email  # noqa: PLC0415 - only where it is asked for

    try:
        validate_email(word, check_deliverability=False, test_environment=True)
    except EmailNotValidError:
        return False
    return True


def _has_telephone(text: str, region: str | None) -> bool:
    from phonenumbers import PhoneNumberMatcher  # noqa: PLC0415

    return bool(PhoneNumberMatcher(text, region).has_next())


def _has_number(words: Sequence[str]) -> bool:
    from stdnum import iban, luhn  # noqa: PLC0415

    return any(
        (len(whole) in _CARD and whole.isdecimal() and luhn.is_valid(whole)) or iban.is_valid(whole)
        for start in range(len(words))
        for whole in _joined(words, start)
    )


def _joined(words: Sequence[str], start: int) -> Iterator[str]:
    """Give the words from `start` on as one, two, three and so on of them, while they may be one number in groups."""
    whole = ""
    for word in words[start:]:
        whole += word
        is_number = whole.isalnum() and whole.isascii() and any(map(str.isdecimal, word))
        if not is_number or len(whole) > _LONGEST_IBAN:
            return
        if len(whole) >= min(_CARD):
            yield whole
