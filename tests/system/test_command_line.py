"""Every command explains itself, prints plainly where nobody looks, and answers programs in JSON."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from partsong.simulations import cli
from partsong.simulations.commands.manual import PAGES, command_tree, commands

ROOT = Path(__file__).parents[2]
TREE = command_tree(cli.app)
COMMANDS = dict(commands(TREE))
WITHOUT_JSON = {
    "report": "--format json",
    "export": "one path",
    "site up": "a daemon",
    "coordinator up": "a daemon",
    "deploy systemd": "a file",
    "deploy container": "a file",
    "deploy compose": "a file",
    "deploy slurm": "a file",
}
"""Commands whose result is no set of values, and what it is instead."""
ROLES = {"Everyone", "Who reads or uses a result", "Sites", "Coordinators", "Researchers"}
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")


def asked(*arguments: str, **environment: str) -> Result:
    """Ask in this process, with a pipe instead of a terminal."""
    return CliRunner().invoke(TREE, arguments, prog_name="partsong", env=environment)


def help_of(path: str) -> str:
    """What a command's --help prints into a pipe."""
    done = asked(*path.split(), "--help", TERMINAL_WIDTH="200")
    assert done.exit_code == 0
    return str(done.output)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the program's entry point: exit code, stdout, stderr."""
    for name in cli.QUIET:
        monkeypatch.setenv(name, os.environ.get(name, ""))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["partsong", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_each_command_has_a_page_and_each_page_a_command() -> None:
    """The table of the manual is the list of commands."""
    assert set(COMMANDS) == set(PAGES)


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_help_says_what_how_and_what_the_exit_code_means(path: str) -> None:
    """A sentence, an example that parses, exit codes, a page that exists; every argument and option has words."""
    command, text = COMMANDS[path], help_of(path)

    assert (command.help or "").endswith(".")
    assert "Example: partsong " + path in text
    assert "Exit code: 0 " in text
    assert (ROOT / "docs" / f"{PAGES[path].read}.md").is_file()
    silent = [p.name for p in command.params if not getattr(p, "help", None)]
    assert silent == []
    words = [word for word in shlex.split(PAGES[path].example) if word.startswith("--")]
    options = {option for p in command.params for option in p.opts}
    assert set(words) <= options


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_a_program_can_read_the_result(path: str) -> None:
    """--json, or another form for a reason."""
    has_json = any("--json" in p.opts for p in COMMANDS[path].params)

    assert has_json != (path in WITHOUT_JSON)


def test_what_lasts_says_what_it_shows_meanwhile() -> None:
    """Commands that train, score, attack, recompute, measure or read a base model; their help says it too."""
    told = {path for path, page in PAGES.items() if page.meanwhile}

    assert told == {
        "demo", "simulate", "forecast", "sweep", "study", "bench", "audit", "verify", "site compare", "coordinator run",
        "export", "mlflow",
    }  # fmt: skip
    assert all(f"Meanwhile: {PAGES[path].meanwhile}" in " ".join(help_of(path).split()) for path in told)


def test_commands_stand_under_the_role_that_uses_them() -> None:
    """Each command and group of the first level names one of the roles."""
    assert isinstance(TREE, click.Group)
    panels = {name: getattr(command, "rich_help_panel", None) for name, command in TREE.commands.items()}

    assert set(panels.values()) == ROLES
    assert panels["site"] == "Sites"


@pytest.mark.parametrize("path", ["", *sorted(COMMANDS)])
def test_help_in_a_pipe_is_plain_text(path: str) -> None:
    """No escape sequence, so it can be kept in a file."""
    assert not ESCAPE.search(help_of(path))


def test_no_color_leaves_no_colour_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help, live tables and findings; the control shows that there is colour otherwise."""

    def shown() -> str:
        console = Console(force_terminal=True, width=120)
        with console.capture() as captured:
            console.print("[red]red[/red] [bold]bold[/bold]")
        return captured.get()

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with_colour = shown()
    monkeypatch.setenv("NO_COLOR", "1")
    without = shown()

    assert COLOUR.search(with_colour)
    assert not COLOUR.search(without)
    forced = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "1"}
    words = [sys.executable, "-P", "-m", "partsong", "--help"]
    printed = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True, env=forced).stdout
    assert ESCAPE.search(printed)
    assert not COLOUR.search(printed)


def test_nothing_prints_around_rich() -> None:
    """So NO_COLOR and the missing terminal are heeded everywhere: no source file writes escape sequences itself."""
    written = [
        file.relative_to(ROOT)
        for folder in ("client", "server", "common", "simulations")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"\\x1b|\\033|\\u001b", file.read_text())
    ]

    assert written == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("partsong d", {"demo", "deploy", "doctor"}),
        ("partsong site a", {"adapters", "approve"}),
        ("partsong bench s", {"simulation", "secure-sum"}),
    ],
)
def test_the_shell_completes_commands_and_choices(words: str, expected: set[str]) -> None:
    """As bash asks for it."""
    done = asked(_PARTSONG_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))

    assert set(done.output.split()) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_gets_a_script(shell: str) -> None:
    """Which asks this program and no other."""
    done = asked(_PARTSONG_COMPLETE=f"source_{shell}")

    assert done.exit_code == 0
    assert "_PARTSONG_COMPLETE=complete_" in done.output


@pytest.mark.parametrize(
    ("shell", "ask", "known"),
    [("bash", "complete -p partsong", "-F _partsong_completion partsong"), ("zsh", "", ""), ("fish", "", "")],
)
def test_the_shell_takes_its_script(shell: str, ask: str, known: str) -> None:
    """Reads it without a complaint; bash then knows the command. The control: a script that is cut short."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    script = asked(_PARTSONG_COMPLETE=f"source_{shell}").output
    prelude = "autoload -U compinit; compinit -D\n" if shell == "zsh" else ""

    def read(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([shell], input=text, capture_output=True, text=True, timeout=60, check=False)

    taken, cut = read(f"{prelude}{script}\n{ask}\n"), read(f"{prelude}{script[:60]}")

    assert (taken.returncode, taken.stderr) == (0, "")
    assert known in taken.stdout
    assert cut.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["simulate", "privacy.epsilom=4"], ("privacy.epsilom", "found", "expected", "did you mean 'privacy.epsilon'")),
        (["verify", "nowhere"], ("nowhere", "found", "expected")),
        (["doctor", "--dir", "nowhere"], ("nowhere", "found", "expected", "--dir")),
        (["site", "plans", "--dir", "nowhere"], ("nowhere", "found", "expected")),
        (["explain", "nowhere"], ("nowhere", "found", "expected")),
    ],
)
def test_an_error_names_place_finding_and_what_was_expected(
    arguments: list[str],
    parts: tuple[str, ...],
    main: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """On stderr, in one line, with exit code 2; stdout stays empty for the program that reads it."""
    monkeypatch.chdir(tmp_path)

    code, out, err = main(*arguments)

    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert [part for part in parts if part not in err] == []


def test_an_error_that_nobody_foresaw_shows_no_text(
    main: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text may quote a record: type and place are told, the rest when it is asked for."""
    secret = "fracture of the left wrist"

    def fails(*_: object, **__: object) -> None:
        raise KeyError(secret)

    monkeypatch.setattr(importlib.import_module("partsong.server.report.command"), "report", fails)

    code, out, err = main("report", "RUN")
    monkeypatch.setenv(cli.TRACEBACK, "1")
    with pytest.raises(KeyError):
        cli.main()

    assert (code, out) == (1, "")
    assert "simulations.cli:" in err
    assert "found KeyError" in err
    assert secret not in err
