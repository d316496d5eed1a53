"""What the coordinator keeps of the secure sum of one run, on disk.

    run.json                  set-up: its name, its members, the plan it is for
    opened.jsonl              every OPEN, noted before it is sent: no number is used twice
    results.jsonl             the rounds that have a result, oldest first
    results/ROUND.result      packed RESULTs: signed, checkable by anyone who has the charter
    verdicts/SITE.verdict     the sites' signed words on the last result and the published adapter
    spool/ROUND/              masked vectors and UNMASKs of the newest rounds, for recomputing the sum

Guarantees:
    - `results.jsonl` names whole files only, so a kill loses at most the result of the round in flight;
    - nothing here is secret: vectors are masked, and the seeds that open a sum open nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partsong.common.codec import Payload
from partsong.common.errors import DataError
from partsong.common.files import append_line, read_lines, write_bytes, write_json
from partsong.common.identity.charter import Charter
from partsong.common.secure_sum.transcript import RunFacts

_REPORT, _UNMASK = ".words", ".unmask"
_HASH_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptResult:
    """A round that has a result."""

    round: int
    """Number of its OPEN."""
    number: int
    """Number of the training round."""
    roster: tuple[str, ...]


class FilesBySite(Mapping[int, bytes]):
    """Files by number of the site, each read when it is asked for: a round's vectors need not fit in memory."""

    def __init__(self, files: Mapping[int, Path]) -> None:
        """Read from `files`."""
        self._files = files

    def __getitem__(self, site: int) -> bytes:
        """Read a site's file."""
        return self._files[site].read_bytes()

    def __iter__(self) -> Iterator[int]:
        """Give the numbers of the sites."""
        return iter(self._files)

    def __len__(self) -> int:
        """Count the sites."""
        return len(self._files)

    def only(self, sites: Collection[int]) -> FilesBySite:
        """Leave all other sites out."""
        return FilesBySite({site: self._files[site] for site in sites})


@dataclass(frozen=True, kw_only=True, slots=True)
class Spooled:
    """What it takes to recompute a round, by number of the site."""

    vectors: FilesBySite
    unmasks: FilesBySite


class SumJournal:
    """The journal of one run."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which need not exist yet."""
        self.folder = folder

    def save_run(self, facts: RunFacts, *, plan_sha256: str) -> None:
        """Keep what set-up ended with."""
        write_json(
            self.folder / "run.json",
            {
                "plan": plan_sha256,
                "charter": facts.charter.hash.hex(),
                "setup": facts.setup.hex(),
                "members": list(facts.members),
            },
        )

    def load_run(self, charter: Charter, *, plan_sha256: str) -> RunFacts | None:
        """Read it back; None where no set-up has ended.

        Raises:
            DataError: damaged, or of another plan or charter; nothing was sent.
        """
        file = self.folder / "run.json"
        if not file.exists():
            return None
        try:
            run = json.loads(file.read_bytes())
            if (run["plan"], run["charter"]) != (plan_sha256, charter.hash.hex()):
                raise self._damaged(file.name, "keys of this plan under this charter")
            facts = RunFacts(charter=charter, setup=bytes.fromhex(run["setup"]), members=tuple(run["members"]))
            listed = [type(m) is int and 0 <= m < len(charter.sites) for m in facts.members]
        except (ValueError, KeyError, TypeError) as err:
            raise self._damaged(file.name, "plan, charter, set-up and members") from err
        if len(facts.setup) != _HASH_BYTES or not listed or not all(listed):
            raise self._damaged(file.name, "a set-up of listed sites")
        return facts

    def next_round(self, *, number: int, attempt: int) -> int:
        """Give the number of the next OPEN, durably used up.

        Raises:
            DataError: damaged; nothing was sent.
        """
        used = self._lines("opened.jsonl")
        round_ = 1 + max((line["opened"] for line in used), default=0)
        append_line(self.folder / "opened.jsonl", {"opened": round_, "round": number, "attempt": attempt})
        return round_

    def keep(self, kept: KeptResult, packed: bytes) -> None:
        """Keep a result for the run; once this returns it survives a power cut."""
        write_bytes(self._result_file(kept), packed)
        line = {"opened": kept.round, "round": kept.number, "roster": list(kept.roster)}
        append_line(self.folder / "results.jsonl", line)

    def results(self) -> list[KeptResult]:
        """List the rounds that have a result, oldest first.

        Raises:
            DataError: damaged.
        """
        name = "results.jsonl"
        lines = self._lines(name)
        if not all(isinstance(line.get("roster"), list) for line in lines):
            raise self._damaged(name, "a roster on each line")
        return [KeptResult(round=line["opened"], number=line["round"], roster=tuple(line["roster"])) for line in lines]

    def damaged_result(self, kept: KeptResult) -> DataError:
        """Say that a file does not hold the result that was kept."""
        return self._damaged(f"results/{self._result_file(kept).name}", "the result of its round, signed as it was")

    def read(self, kept: KeptResult) -> bytes:
        """Read a packed result.

        Raises:
            DataError: the file is gone.
        """
        file = self._result_file(kept)
        if not file.is_file():
            raise self.damaged_result(kept)
        return file.read_bytes()

    def spool_report(self, round_: int, *, site: int, words: Payload) -> None:
        """Keep a masked vector for the check window."""
        self._spool(round_, f"{site}{_REPORT}", words)

    def spool_unmask(self, round_: int, *, site: int, message: bytes) -> None:
        """Keep an UNMASK for the check window."""
        self._spool(round_, f"{site}{_UNMASK}", message)

    def keep_verdict(self, *, site: int, message: bytes) -> None:
        """Keep a site's signed word on the last result and the published adapter."""
        write_bytes(self.folder / "verdicts" / f"{site}.verdict", message)

    def verdicts(self) -> dict[int, bytes]:
        """Read the kept words by number of the site."""
        files = sorted((self.folder / "verdicts").glob("*.verdict"))
        return {int(file.stem): file.read_bytes() for file in files if file.stem.isdecimal()}

    def spooled(self, round_: int) -> Spooled | None:
        """Find what is spooled of a round; None once its check window is over."""
        folder = self._spool_folder(round_)
        if not folder.is_dir():
            return None

        def files(suffix: str) -> FilesBySite:
            return FilesBySite({int(f.name.removesuffix(suffix)): f for f in sorted(folder.glob(f"*{suffix}"))})

        return Spooled(vectors=files(_REPORT), unmasks=files(_UNMASK))

    def end_windows(self, *, keep: int) -> None:
        """Delete what is spooled of all rounds but the newest `keep`."""
        rounds = sorted((self.folder / "spool").glob("*"))
        for folder in rounds[: max(0, len(rounds) - keep)]:
            shutil.rmtree(folder, ignore_errors=True)

    def _spool(self, round_: int, name: str, data: Payload) -> None:
        write_bytes(self._spool_folder(round_) / name, data)

    def _spool_folder(self, round_: int) -> Path:
        return self.folder / "spool" / f"{round_:06d}"

    def _result_file(self, kept: KeptResult) -> Path:
        return self.folder / "results" / f"{kept.round:06d}.result"

    def _lines(self, name: str) -> list[dict[str, Any]]:
        lines = read_lines(self.folder / name)
        numbered = (
            isinstance(line, dict) and type(line.get("opened")) is type(line.get("round")) is int for line in lines
        )
        if not all(numbered):
            raise self._damaged(name, "the number of a round on each line")
        return lines

    def _damaged(self, name: str, expected: str) -> DataError:
        return DataError(
            str(self.folder / name),
            found="a damaged file",
            expected=expected,
            remedy="restore the run directory of the coordinator, or start a new run",
        )
