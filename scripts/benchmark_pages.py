"""Write docs/benchmarks.md from measurements: python scripts/benchmark_pages.py [--check]

Each file of docs/benchmarks/ is one section of the page; `machines.json` says what the machines' letters mean. A file
is either what `partsong bench NAME --json` printed, as it is, or a table that somebody put together from several runs:

    title, command, date (YYYY-MM-DD), machine (a letter of machines.json), lead, head, rows, remarks (paragraphs)

To what `bench` printed, `title`, `machine`, `lead` and `remarks` may be added. The name of the file gives its place.
`--check` writes nothing and exits with 1 where the page is not what the files say.
"""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"
MACHINES = FOLDER / "machines.json"
TABLE = {"title", "command", "date", "machine", "lead", "head", "rows", "remarks"}
PRINTED = {"bench", "command", "date", "machine", "versions", "figures"}
ADDED = {"title", "lead", "remarks", "peers"}
"""What a section may have besides; `bench simulation` prints the packages of its peers."""
WIDTH = 120
HEAD = (
    "Each table has the command that makes it, the machine and the day. This page is made of the files in "
    "`docs/benchmarks/` by `scripts/benchmark_pages.py`: what `partsong bench NAME --json` prints becomes a section "
    "when it is put there."
)


class Wrong(Exception):
    """A file that is no measurement."""


def page() -> str:
    """Compose the page.

    Raises:
        Wrong: a file is no measurement.
    """
    machines = read(FOLDER / MACHINES.name)
    lines = ["# Measurements", "", *filled(HEAD)]
    for letter, words in machines.items():
        lines += ["", *filled(f"Machine {letter}: {words}")]
    for file in sorted(FOLDER.glob("*.json")):
        if file.name != MACHINES.name:
            lines += ["", *section(file, machines)]
    return "\n".join(lines) + "\n"


def section(file: Path, machines: dict[str, str]) -> list[str]:
    """Compose the section of one file."""
    found = read(file)
    keys = found.keys()
    if not (keys == TABLE or PRINTED <= keys <= PRINTED | ADDED):
        raise Wrong(f"{file.name}: found {sorted(keys)}, expected what `bench --json` prints, or {sorted(TABLE)}")
    machine = found["machine"]
    if isinstance(machine, str) and machine not in machines:
        raise Wrong(f"{file.name}: found machine {machine!r}, expected a letter of {MACHINES.name}")
    where = f"machine {machine}" if isinstance(machine, str) else words_of(machine)
    head, rows = (found["head"], found["rows"]) if keys == TABLE else (["figure", "value", "target"], printed(found))
    if any(len(row) != len(head) for row in rows):
        raise Wrong(f"{file.name}: found a row of another length, expected {len(head)} cells in each")
    remarks = [*found.get("remarks", []), *([notes(found)] if keys != TABLE and notes(found) else [])]
    return [
        f"## {found.get('title', found.get('bench'))}",
        "",
        *filled(f"`{found['command']}`, {where}, {found['date']}. {found.get('lead', '')}"),
        "",
        row_of(head),
        row_of(["---"] * len(head), space=""),
        *map(row_of, rows),
        *(line for paragraph in remarks for line in ("", *filled(paragraph))),
    ]


def printed(found: dict[str, Any]) -> list[list[str]]:
    """Give the rows of what `bench` printed."""
    rows = []
    for figure in found["figures"]:
        value, target = figure["value"], figure["target"]
        shown = (
            f"not measured: {figure.get('reason', '')}"
            if value is None
            else f"{value:.4g} {figure['unit']}".removesuffix(" 1")
        )
        least = "" if target is None else f"{'at least' if figure.get('better') == 'higher' else 'at most'} {target:g}"
        kept = "" if figure["met"] is None else (", kept" if figure["met"] else ", **not kept**")
        rows.append([f"`{figure['name']}`", shown, f"{least}{kept}"])
    return rows


def notes(found: dict[str, Any]) -> str:
    """Give what `bench` says of its figures, and with which packages it measured."""
    said = [f"`{figure['name']}`: {figure['note']}." for figure in found["figures"] if figure.get("note")]
    for which, role in (("versions", "Measured with"), ("peers", "Peers with")):
        packages = found.get(which, {})
        named = packages.items() if isinstance(packages, dict) else ()  # a sentence where peers could not be asked
        if versions := ", ".join(f"{name} {version}" for name, version in named if version):
            said.append(f"{role} {versions}.")
    return " ".join(said)


def words_of(machine: dict[str, Any]) -> str:
    """Name a machine as `bench` found it."""
    gpu = machine.get("gpu") or "no GPU in use"
    return f"{machine['cores']} cores ({machine['cpu']}), {gpu}"


def row_of(cells: list[str], *, space: str = " ") -> str:
    """Compose one line of a table."""
    return "|" + "|".join(f"{space}{cell}{space}" if cell else " " for cell in cells) + "|"


def filled(text: str) -> list[str]:
    """Break a paragraph into lines."""
    return textwrap.wrap(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def read(file: Path) -> Any:
    """Read one file."""
    try:
        found = json.loads(file.read_text())
    except ValueError as err:
        raise Wrong(f"{file.name}: found no JSON, expected a measurement") from err
    if not isinstance(found, dict):
        raise Wrong(f"{file.name}: found a {type(found).__name__}, expected an object")
    return found


def main() -> int:
    """Write or check the page."""
    try:
        wanted = page()
    except Wrong as err:
        print(err, file=sys.stderr)
        return 1
    if "--check" in sys.argv[1:]:
        same = PAGE.exists() and PAGE.read_text() == wanted
        if not same:
            print("docs/benchmarks.md is out of date: run scripts/benchmark_pages.py", file=sys.stderr)
        return 0 if same else 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
