"""Every command that a document or a deployment file names exists, with the options that it is given."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from partsong.simulations.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FILES = sorted(file for file in (ROOT / "conf" / "deploy").iterdir() if file.is_file())
BLOCK = re.compile(r"^```(?:console|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`(partsong [^`]+)`")
ENDS = re.compile(r"&&|\|\||[|>&]")


def shown(text: str) -> Iterator[str]:
    """Commands of blocks, each line at a time, and those in running text."""
    for block in BLOCK.findall(text):
        for line in block.splitlines():
            for part in ENDS.split(line.removeprefix("$ ").split(" # ")[0]):
                if part.strip().startswith("partsong "):
                    yield part.strip()
    for words in QUOTED.findall(text):
        yield ENDS.split(words)[0].replace(" ...", "").strip()


def run_by(text: str) -> Iterator[str]:
    """Commands that a deployment file starts."""
    yield from (f"partsong {words}" for words in re.findall(r"@PARTSONG@ ([^|&\n]+)", text))
    for words in re.findall(r"^    command: \[(.*)\]$", text, re.MULTILINE):
        yield f"partsong {words.replace(',', '')}"
    for words in QUOTED.findall(text):
        yield ENDS.split(words)[0].strip()


def problem(command: str) -> str | None:
    """Say what of a command does not exist; its arguments are taken as they are."""
    found: click.Command = typer.main.get_command(app)
    words = [word for word in shlex.split(command)[1:] if word != "[KEY=VALUE]"]
    while words and isinstance(found, click.Group):
        if words[0].startswith("-"):
            break
        after = found.commands.get(words[0])
        if after is None:
            return f"{words[0]!r} is no command"
        found, words = after, words[1:]
    known = {option for parameter in found.params for option in parameter.opts} | {"--help", "--version"}
    strange = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"no option {strange[0]}" if strange else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_exists(page: Path) -> None:
    """Names and options, in blocks and in running text."""
    wrong = {command: problem(command) for command in shown(page.read_text())}

    assert {command: why for command, why in wrong.items() if why} == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_a_deployment_file_starts_exists(file: Path) -> None:
    """A unit that starts a command of another version fails at three in the morning."""
    wrong = {command: problem(command) for command in run_by(file.read_text())}

    assert {command: why for command, why in wrong.items() if why} == {}


def test_at_most_twelve_commands_lead_to_a_run() -> None:
    """The first block under each numbered heading of the deployment page."""
    text = (ROOT / "docs" / "deploy.md").read_text()

    steps = re.findall(r"^## (\d+)\. .*\n\n```sh\n(.*)\n```", text, re.MULTILINE)

    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert len([part for _, line in steps for part in ENDS.split(line)]) == len(steps) <= 12


@pytest.mark.parametrize("command", ["partsong doctr", "partsong site jion x", "partsong doctor --jsno"])
def test_a_typing_error_would_be_found(command: str) -> None:
    """The control."""
    assert problem(command) is not None
