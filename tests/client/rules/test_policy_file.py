"""A policy file says what it seems to say, or it is refused as a whole."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.rules.policy import Policy
from partsong.client.rules.policy_file import LARGEST_FILE_BYTES, parse_policy, read_policy
from partsong.common.errors import ConfigError

EXAMPLE = Path(__file__).parents[3] / "docs" / "policy.md"


def test_an_empty_file_is_the_closed_policy(tmp_path: Path) -> None:
    """Nothing, comments and an empty document are the same."""
    file = tmp_path / "policy.yaml"
    for text in ("", "# nothing yet\n", "---\n", "{}"):
        file.write_text(text)
        assert read_policy(file) == Policy()


def test_numbers_dates_and_switches_are_what_people_mean() -> None:
    """`1e-6` is a number although YAML 1.1 takes it for text; a date stays text."""
    found = parse_policy(
        """
        holdings:
          ward:
            epsilon: 8
            delta: 1e-6
            per_quarter: 2.5E+0
            blocks: [{name: "2024", first: 2024-01-01, last: 2024-12-31}]
        privacy: {allow_secure_sum_off: off, units: [patient]}
        """
    )

    ward = found.holdings["ward"]
    assert (ward.epsilon, ward.delta, ward.per_quarter) == (8.0, 1e-6, 2.5)
    assert ward.blocks[0].first == "2024-01-01"
    assert found.privacy.units == ("patient",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("holdigns: {}", r"policy: holdigns: found an unknown key.*did you mean 'holdings'\?"),
        ("privacy: {max_epsilom: 1}", r"policy: privacy\.max_epsilom: .*did you mean 'privacy\.max_epsilon'\?"),
        (
            "purposes: {trian: {}}",
            r"found 'trian', expected one of train, evaluate, survey, canary; did you mean 'train'\?",
        ),
        ("purposes: {train: {approval: automatic}}", r"purposes\.train\.approval.*did you mean"),
        ("holdings: {w: {epsilon: 8}}", r"holdings\.w\.delta: found nothing, expected a float"),
        ("holdings: {w: {epsilon: eight, delta: 1e-6}}", r"found 'eight', expected a float"),
        ("holdings: {w: {epsilon: .inf, delta: 1e-6}}", r"found inf, expected a float"),
        ("holdings: {w: {epsilon: yes, delta: 1e-6}}", r"found True, expected a float"),
        ("data: {minimum_records: 100.5}", r"data\.minimum_records: found 100\.5, expected a int"),
        ("privacy: {units: [patients]}", r"did you mean 'patient'\?"),
        ("privacy: {}\ndata: {}\nprivacy: {}", r"found 'privacy' a second time in line 3, expected each key once"),
        ("privacy: {max_epsilon: 1, max_epsilon: 9}", r"found 'max_epsilon' a second time"),
        ("privacy: &p {}\ndata: *p", r"found an alias, expected every value written out"),
        ("1: 2", r"found 1 as a key in line 1, expected keys that are text"),
        ("privacy: [", r"policy, line 1: found text that is not YAML"),
        ("a\tb: {\n\t- x", r"found text that is not YAML"),
        ("- privacy", r"expected the keys of Policy"),
        ("!!python/object/apply:os.getcwd []", r"found text that is not YAML"),
        ("privacy: \x07", r"found text that is not YAML"),
        (
            "holdings: {w: {epsilon: 8, delta: 1e-6, blocks: [{name: a, first: 2024-13-01, last: 2025-01-01}]}}",
            r"days of block a as 2024-01-31",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, words: str) -> None:
    """The place, what was found, what was expected, and the closest known word where there is one."""
    with pytest.raises(ConfigError, match=words) as error:
        parse_policy(text)

    assert error.value.exit_code == 2


def test_a_file_that_cannot_be_read_is_no_policy(tmp_path: Path) -> None:
    """Missing, a folder, not UTF-8 or endless: never the empty policy by accident, never a half-read one."""
    (tmp_path / "latin").write_bytes(b"data: {} # \xff")
    (tmp_path / "large").write_bytes(b"#" * (LARGEST_FILE_BYTES + 1))
    for name in ("missing", ".", "latin", "large"):
        with pytest.raises(ConfigError, match="expected a policy"):
            read_policy(tmp_path / name)


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(codec="utf-8") | st.sampled_from("{}[]:,-&*!|>'\"%@`\n \t#?"), max_size=60))
def test_no_text_whatever_does_more_than_be_refused(text: str) -> None:
    """Any text is a policy or one kind of error."""
    try:
        found = parse_policy(text)
    except ConfigError:
        return

    assert isinstance(found, Policy)


def test_the_example_of_the_docs_is_a_policy() -> None:
    """The one example that operators copy from is read here, and allows what the page says."""
    example = EXAMPLE.read_text().partition("```yaml\n")[2].partition("```")[0]

    found = parse_policy(example)

    assert found.approval("train") == "manual"
    assert not found.privacy.allow_without_privacy
    assert found.rules.masked_only
    assert found.holdings["cardiology"].per_quarter is not None
