"""What stands beside a report: about this adapter, from these sites, or not at all."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from partsong.common.build import build
from partsong.common.errors import ConfigError, DataError
from partsong.common.identity.keys import Identity
from partsong.server.questions.signed import SignedAnswer, sign_answer
from partsong.server.report.beside import read_answer, read_benefit
from partsong.server.report.command import Given, report
from partsong.server.report.facts import Facts
from partsong.server.report.signed import FACTS, SignedFacts

ANSWER: dict[str, Any] = {
    "study": "evaluate", "adapter_sha256": "a" * 64,
    "sites": ["bonn", "lyon"], "level": 0.95, "unit": "record", "epsilon": 1.5, "delta": 1e-4,
    "figures": [
        {"name": "accuracy", "value": 0.8125, "low": 0.75, "high": 0.875, "about": "share <b> of units"},
        {"name": "calibration_error", "value": 0.1, "low": 0.0, "high": 0.25, "about": "ECE"},
        {"name": "accuracy[wards]", "value": 0.5, "low": 0.25, "high": 0.75, "about": "of group wards"},
        {"name": "accuracy[rare]", "value": None, "low": 0.0, "high": 1.0, "about": "of group rare"},
    ],
    "tables": {}, "noise_sd": {"units": 1.0},
}  # fmt: skip
WHOLE: dict[str, Any] = {
    "format": "partsong-answer", "version": 1, "run": "asked-1", "base": "tiny", "marks": [], "plan_sha256": "c" * 64,
    "charter_sha256": "d" * 64, "answer": ANSWER, "signature": None,
}  # fmt: skip
COORDINATOR = Identity(bytes(range(32)))
"""Who signed the facts too."""
ARMS = [
    {"name": "base", "loss": 3.0, "right": 0.125},
    {"name": "joint", "loss": 1.25, "right": 0.75},
    {"name": "alone", "loss": 1.5, "right": 0.5},
]
FORMS = ("html", "md", "json")


@pytest.fixture
def run(tmp_path: Path, facts: Facts, sign: Callable[[Facts], SignedFacts]) -> Path:
    """Directory with signed facts."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / FACTS).write_bytes(sign(facts).to_bytes())
    return folder


@pytest.fixture
def answer(tmp_path: Path) -> Callable[..., Path]:
    """Write an answer with these changes, where a run keeps it."""

    def made(signer: Identity = COORDINATOR, **changes: Any) -> Path:
        folder = tmp_path / "asked"
        folder.mkdir(exist_ok=True)
        whole = copy.deepcopy(WHOLE)
        for name, value in changes.items():
            (whole if name in whole else whole["answer"])[name] = value
        try:
            text = sign_answer(build(SignedAnswer, whole, where="answer"), signer=signer).to_bytes().decode()
        except ConfigError:  # a damaged one, which nobody signs
            text = json.dumps(whole, indent=2) + "\n"
        (folder / "answer.json").write_text(text)
        return folder

    return made


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., Path]:
    """Write what a site printed."""

    def made(arms: Any = ARMS) -> Path:
        (tmp_path / "north.json").write_text(json.dumps({"arms": arms}))
        return tmp_path / "north.json"

    return made


def test_an_evaluation_is_shown_with_intervals_and_by_group(run: Path, answer: Callable[..., Path]) -> None:
    """In every form the same figures, and what they cost beside the run's own epsilon."""
    given = Given(answers=(answer(),))

    html, markdown, tree = (report(run, form=form, given=given) for form in FORMS)

    for text in (html, markdown):
        for words in ("0.75 to 0.875", "By group, run asked-1", "lost in its noise", "epsilon 1.5 at delta 0.0001"):
            assert words in text
        assert "Nobody scored this adapter" not in text
        assert "<b>" not in text
    (found,) = json.loads(tree)["answers"]
    assert found["figures"] == ANSWER["figures"]
    assert len(found["sha256"]) == 64


def test_the_directory_of_the_run_and_its_file_give_the_same(facts: Facts, answer: Callable[..., Path]) -> None:
    """Whoever was sent the file alone can show it too."""
    folder = answer()

    assert read_answer(folder, facts) == read_answer(folder / "answer.json", facts)


def test_a_survey_is_shown_whatever_adapter_its_sites_had(run: Path, answer: Callable[..., Path]) -> None:
    """It asks no adapter; its columns stand by themselves, and it is no evaluation."""
    figures = [{"name": "label[yes]", "value": 12.0, "low": 8.0, "high": 16.0, "about": "units of label yes"}]
    given = Given(answers=(answer(study="survey", adapter_sha256="f" * 64, figures=figures),))

    markdown = report(run, form="md", given=given)

    assert "By column, run asked-1" in markdown
    assert "8 to 16" in markdown
    assert "Nobody scored this adapter" in markdown


def test_what_a_site_gained_is_shown_where_it_was_handed_on(run: Path, compared: Callable[..., Path]) -> None:
    """Beside what it got alone; that no epsilon covers it is said."""
    given = Given(compared=(f"bonn={compared()}",))

    without, markdown = report(run, form="md"), report(run, form="md", given=given)

    assert "No site handed on what it gained" in without
    assert "1.250, 75.0%" in markdown
    assert "-0.250, +25.0%" in markdown
    assert "no epsilon covers them" in markdown
    assert json.loads(report(run, form="json", given=given))["benefits"][0]["site"] == "bonn"


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"adapter_sha256": "b" * 64}, "about another adapter"), ({"sites": ["bonn", "atlantis"]}, "atlantis")],
)
def test_an_answer_about_something_else_is_refused(
    facts: Facts, answer: Callable[..., Path], changes: dict[str, Any], words: str
) -> None:
    """Another adapter, or sites that are not in this run."""
    folder = answer(**changes)

    with pytest.raises(ConfigError, match=words):
        read_answer(folder, facts)


def test_an_answer_that_another_coordinator_signed_is_refused(facts: Facts, answer: Callable[..., Path]) -> None:
    """In a deployment; simulated runs have keys of their own each."""
    folder = answer(signer=Identity(bytes(32)))

    assert read_answer(folder, dataclasses.replace(facts, simulated=True)).run == "asked-1"
    with pytest.raises(ConfigError, match="not signed by this run's coordinator"):
        read_answer(folder, facts)


@pytest.mark.parametrize(
    "changes", [{"figures": [{"name": "x"}]}, {"study": "train"}, {"level": "high"}, {"sites": None}, {"run": 7}]
)
def test_a_damaged_answer_is_refused(facts: Facts, answer: Callable[..., Path], changes: dict[str, Any]) -> None:
    """Without a word of what it held."""
    folder = answer(**changes)

    with pytest.raises(DataError, match="no answer that can be read"):
        read_answer(folder, facts)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"arms": 1}', '{"figures": []}'])
def test_other_files_are_refused(facts: Facts, tmp_path: Path, text: str) -> None:
    """As an answer and as a comparison."""
    (tmp_path / "x.json").write_text(text)

    with pytest.raises(DataError):
        read_answer(tmp_path / "x.json", facts)
    with pytest.raises(DataError):
        read_benefit(f"bonn={tmp_path / 'x.json'}", facts)


@pytest.mark.parametrize("arms", [ARMS[1:], [*ARMS, ARMS[0]], [{"name": "best", "loss": 0.0, "right": 1.0}]])
def test_a_comparison_needs_base_and_joint_each_once(
    facts: Facts, compared: Callable[..., Path], arms: list[dict[str, Any]]
) -> None:
    """And no model that no site compares."""
    file = compared(arms)

    with pytest.raises(DataError):
        read_benefit(f"bonn={file}", facts)


@pytest.mark.parametrize("pair", ["{file}", "atlantis={file}", "=", "bonn"])
def test_a_comparison_is_of_a_site_of_the_run(facts: Facts, compared: Callable[..., Path], pair: str) -> None:
    """Named by whoever gives it."""
    text = pair.format(file=compared())

    with pytest.raises(ConfigError, match="of a site of this run"):
        read_benefit(text, facts)


def test_a_site_speaks_once(run: Path, compared: Callable[..., Path]) -> None:
    """Two files of one site are a mistake."""
    given = Given(compared=(f"bonn={compared()}",) * 2)

    with pytest.raises(ConfigError, match="twice"):
        report(run, form="md", given=given)


@pytest.mark.parametrize("given", [Given(answers=(Path("x"),)), Given(compared=("a=b",))])
def test_nothing_stands_beside_text(run: Path, given: Given) -> None:
    """The text is the one that was written when the run ended."""
    with pytest.raises(ConfigError, match="beside text"):
        report(run, form="text", given=given)
