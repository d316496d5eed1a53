"""What `partsong report` reads and writes."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from partsong.common.errors import ConfigError, DataError
from partsong.common.identity.charter import Charter, SignedCharter, sign_as_coordinator, sign_as_site
from partsong.common.identity.keys import Identity
from partsong.server.report.command import Given, read_run, report, write_drafts, write_new
from partsong.server.report.facts import Facts
from partsong.server.report.signed import FACTS, SignedFacts


@pytest.fixture
def run(tmp_path: Path, facts: Facts, sign: Callable[[Facts], SignedFacts]) -> Path:
    """Directory with facts and a text report."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / FACTS).write_bytes(sign(facts).to_bytes())
    (folder / "report.txt").write_text("a report\n")
    return folder


def signed_charter(charter: Charter) -> bytes:
    """As everybody signed it: the keys are those of the fixture."""
    numbers = {site.id: number for number, site in enumerate(charter.sites, start=1)}
    signatures = {
        site: sign_as_site(charter, site_id=site, signer=Identity(bytes([number] * 32)))
        for site, number in numbers.items()
    }
    own = sign_as_coordinator(charter, Identity(bytes(range(32))))
    return SignedCharter(charter=charter, coordinator_signature=own, site_signatures=signatures).to_bytes()


def test_the_file_alone_gives_the_same_report_as_its_directory(run: Path, tmp_path: Path) -> None:
    """Whoever was sent `facts.json` needs nothing else."""
    alone = shutil.copy(run / FACTS, tmp_path / "mine.json")

    for form in ("html", "md", "json"):
        assert report(Path(alone), form=form) == report(run, form=form)


def test_text_is_the_report_that_was_written(run: Path) -> None:
    """To the byte; an audit has no place in it."""
    assert report(run, form="text") == "a report\n"
    with pytest.raises(ConfigError):
        report(run, form="text", given=Given(audit=run / FACTS))


def test_facts_under_another_charter_than_the_one_beside_them_are_refused(run: Path, charter: Charter) -> None:
    """The right one is accepted, one of another name is not."""
    (run / "charter.json").write_bytes(signed_charter(charter))
    assert read_run(run).facts.charter is not None
    (run / "charter.json").write_bytes(signed_charter(replace(charter, consortium="elbe")))

    with pytest.raises(DataError, match="another charter"):
        read_run(run)


@pytest.mark.parametrize("form", ["html", "md", "json", "text"])
def test_a_directory_without_a_finished_run_is_refused(tmp_path: Path, form: Any) -> None:
    """With what to do about it."""
    with pytest.raises(DataError, match="directory of a finished run"):
        report(tmp_path, form=form)


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    """Neither a file nor a folder of drafts."""
    taken = tmp_path / "taken"
    taken.mkdir()
    file = tmp_path / "new.html"
    write_new(file, "a")

    with pytest.raises(ConfigError):
        write_new(file, "b")
    with pytest.raises(ConfigError):
        write_drafts(run, taken)

    assert file.read_text() == "a"
    assert list(taken.iterdir()) == []
    assert [path.name for path in write_drafts(run, tmp_path / "drafts")] == [
        "dpia.md", "eu-ai-act-annex-iv.md", "security-questions.md",
    ]  # fmt: skip
