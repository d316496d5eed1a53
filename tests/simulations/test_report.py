"""The report of real runs: what it says follows from their files, and nothing of a record or a key is in it."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from partsong.common.build import build, to_tree
from partsong.common.identity.keys import Identity
from partsong.server.report.command import read_run, report, write_drafts
from partsong.server.report.facts import Facts
from partsong.server.report.signed import FACTS, SignedFacts, sign_facts
from partsong.simulations.cli import app
from partsong.simulations.verify.run import verify

RECORD_WORDS = ("Case ", "fracture", "itching", "ringing ear", "stiff back")
FORMS = ("html", "md", "json", "text")
Change = Callable[[Any], None]


@pytest.fixture
def copy(private: Path, tmp_path: Path) -> Path:
    """A copy of the private run that may be changed."""
    return Path(shutil.copytree(private, tmp_path / "copy"))


def outcome(run: Path) -> list[str]:
    """Verdicts of a check about the facts."""
    return [line.verdict for line in verify(run).findings if line.place == FACTS]


def signed_again(run: Path, facts: Facts) -> None:
    """Write facts with the coordinator's own signature, as a lying coordinator can."""
    signer = Identity((run / "coordinator" / "identity.key").read_bytes())
    (run / FACTS).write_bytes(sign_facts(facts, adapter=run / "adapter", signer=signer).to_bytes())


def test_the_facts_of_a_run_verify(private: Path) -> None:
    """Signature, every fact, files and contributors; and the numbers are those of privacy.json and the journal."""
    facts = read_run(private).facts

    assert outcome(private) == ["right"] * 3
    assert facts.privacy is not None
    published = json.loads((private / "adapter" / "privacy.json").read_bytes())
    assert facts.privacy.epsilon == published["guarantee"]["epsilon"]
    assert facts.privacy.epsilon_at_two_sites == published["across_sites"]["unit_at_two_sites"]
    lines = [json.loads(line) for line in (private / "metrics.jsonl").read_text().splitlines()]
    assert [r.loss for r in facts.rounds] == [line["loss"] for line in lines]
    assert facts.opened_rounds == 3
    assert all(s.ledger_head for s in facts.sites)


def test_both_kinds_of_run_show_their_guarantee(private: Path, finished: Path, unmasked: Path) -> None:
    """A number with delta and unit, or that there is none; and who signed."""
    texts = [report(run, form="md") for run in (private, finished, unmasked)]

    facts = read_run(private).facts
    assert facts.privacy is not None
    assert f"| epsilon, spent at most | {facts.privacy.epsilon:.3f} |" in texts[0]
    assert [("trained without differential privacy" in text) for text in texts] == [False, True, True]
    assert [("Nobody signed this run" in text) for text in texts] == [False, False, True]


def test_an_unmasked_run_is_compared_though_nobody_signed_it(unmasked: Path) -> None:
    """Its facts have no signature and need none; they still have to follow from its files."""
    assert read_run(unmasked).signature is None
    assert outcome(unmasked) == ["right"] * 3


def test_a_changed_file_of_facts_fails(copy: Path) -> None:
    """One digit of an epsilon."""
    text = (copy / FACTS).read_text()
    number = re.search(r'"epsilon": (\d+)', text)
    assert number is not None
    (copy / FACTS).write_text(text.replace(number[0], '"epsilon": 1', 1))

    assert outcome(copy) == ["wrong"]


CHANGES: dict[str, Change] = {
    "epsilon": lambda t: t["privacy"].update(epsilon=t["privacy"]["epsilon"] / 2),
    "noise": lambda t: t["privacy"].update(noise_multiplier=5.0),
    "opened": lambda t: t.update(opened_rounds=1),
    "loss": lambda t: t["rounds"][0].update(loss=0.1),
    "bytes": lambda t: t["sites"][0].update(bytes_out=1),
    "contributors": lambda t: t["rounds"][1].update(sites=["site-4"]),
    "checked": lambda t: t["sites"][0].update(checked=False),
    "hazard": lambda t: [hazard.update(covered="yes") for hazard in t["hazards"]],
    "trust": lambda t: t["secure_sum"].update(corrupt_tolerance=3),
    "ledger": lambda t: t["sites"][0].update(ledger_head="0" * 64),
    "base": lambda t: t["base"].update(name="another"),
    "limits": lambda t: t.update(not_covered=[]),
    "adapter": lambda t: t["adapter"].update(sha256="0" * 64),
}


@pytest.mark.parametrize("what", sorted(CHANGES))
def test_a_coordinator_that_signs_what_is_not_so_is_found_out(copy: Path, what: str) -> None:
    """Its own signature does not help where the files say something else."""
    tree = to_tree(read_run(copy).facts)
    CHANGES[what](tree)
    signed_again(copy, build(Facts, tree))

    found = outcome(copy)

    assert found[0] == "right"
    assert "wrong" in found


def test_signing_the_same_facts_again_changes_nothing(copy: Path) -> None:
    """The control: the test above fails facts for what they say."""
    before = (copy / FACTS).read_bytes()
    signed_again(copy, read_run(copy).facts)

    assert (copy / FACTS).read_bytes() == before
    assert outcome(copy) == ["right"] * 3


def test_a_forgotten_mark_is_found(finished: Path, tmp_path: Path) -> None:
    """A run without privacy whose facts do not say so."""
    run = Path(shutil.copytree(finished, tmp_path / "copy"))
    signed_again(run, replace(read_run(run).facts, marks=()))

    assert outcome(run) == ["right", "wrong", "right"]


def test_a_changed_model_card_is_found(copy: Path) -> None:
    """The facts are signed together with every published file."""
    card = copy / "adapter" / "README.md"
    card.write_text(card.read_text().replace("epsilon", "Epsilon"))

    assert outcome(copy) == ["right", "right", "wrong"]


def test_a_copy_without_journals_is_compared_with_plan_and_sums(copy: Path) -> None:
    """What only the journals hold is not checked, and a wrong epsilon or contributor is still found."""
    for name in ("metrics.jsonl", "opened.jsonl", "run.json"):
        (copy / name).unlink()
    shutil.rmtree(copy / "sites")
    assert outcome(copy) == ["right", "not checked", "right", "right"]
    facts = read_run(copy).facts
    assert facts.privacy is not None
    signed_again(copy, replace(facts, privacy=replace(facts.privacy, epsilon=1.0)))
    assert "wrong" in outcome(copy)
    fewer = replace(facts.rounds[0], sites=facts.rounds[0].sites[1:])
    signed_again(copy, replace(facts, rounds=(fewer, *facts.rounds[1:])))

    assert "wrong" in outcome(copy)


def test_no_record_key_or_path_is_in_any_output(private: Path, finished: Path, tmp_path: Path) -> None:
    """Every output of both runs is searched for every key file, words of the records, and folders."""
    for run in (private, finished):
        keys = [file.read_bytes() for file in run.rglob("*.key")]
        drafts = write_drafts(run, tmp_path / run.name)
        texts = [report(run, form=form) for form in FORMS] + [file.read_text() for file in drafts]
        published = [file.read_text() for file in (run / "adapter").glob("*.*") if file.suffix in (".md", ".json")]

        assert len(keys) == 11
        for text in (*texts, *published):
            assert not [word for word in RECORD_WORDS if word in text]
            assert not [key for key in keys if key.hex() in text]
            assert str(run.parent) not in text
            assert str(Path(__file__).parents[2]) not in text
            assert not re.search(r"(?<![\w.:/])/(?:home|root|tmp|usr|work|var)\b", text)


def test_the_search_finds_a_planted_key(private: Path) -> None:
    """The control: public keys are in the facts in the same form."""
    signed: SignedFacts = read_run(private)
    public = Identity((private / "coordinator" / "identity.key").read_bytes()).public_key

    assert public.hex() in signed.to_bytes().decode()


def test_the_command_writes_each_format(private: Path, tmp_path: Path) -> None:
    """To stdout, or to a file whose name it prints; a second time it refuses."""
    call, page = CliRunner(), tmp_path / "report.html"

    printed = call.invoke(app, ["report", str(private)])
    written = call.invoke(app, ["report", str(private), "--format", "html", "--out", str(page)])
    drafts = call.invoke(app, ["report", str(private), "--drafts", str(tmp_path / "drafts")])
    both = call.invoke(app, ["report", str(private), "--drafts", str(tmp_path / "more"), "--format", "md"])

    assert printed.output == (private / "report.txt").read_text()
    assert (written.exit_code, written.output.strip()) == (0, str(page))
    assert page.read_text().startswith("<!doctype html>")
    assert drafts.output.count(".md\n") == 3
    assert both.exit_code == 2
    assert not (tmp_path / "more").exists()
    assert call.invoke(app, ["report", str(private), "--format", "html", "--out", str(page)]).exit_code == 1
