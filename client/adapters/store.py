"""The finished adapters of a site: one PEFT directory for each plan, and a pointer to the one in use.

    ADAPTERS/HASH/         what PEFT loads, by the hash of the plan
    ADAPTERS/HASH/partsong.json   what was stored, and when
    ADAPTERS/current       link to the one in use

Covers: a directory is whole or not there; its name is a hash, never what a coordinator wrote; the pointer changes in
one step; a file that was changed since is found out.
Does not cover: whether an adapter follows from the sums (`partsong.client.adapters.desk` has checked that before).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from partsong.common import wire
from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError, InputError
from partsong.common.files import make_folder, sha256_file, sync_folder, write_bytes, write_json
from partsong.common.plan import Plan

FACTS, CURRENT, WANTED = "partsong.json", "current", "wanted.json"
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredAdapter:
    """One adapter that was checked and stored."""

    plan: str
    """SHA-256 of the plan."""
    run: str
    base: str
    """SHA-256 of the base model."""
    adapter: str
    """SHA-256 of the trained part."""
    number: int
    """Adapters of a site are counted from 1 as they come."""
    stored_ms: int
    files: Mapping[str, str]
    """SHA-256 of each file of the directory."""


class AdapterStore:
    """A site's adapters."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which need not exist."""
        self._folder = folder

    def store(self, plan: Plan, files: Mapping[wire.AdapterFile, bytes], *, adapter: str, now_ms: int) -> StoredAdapter:
        """Store a checked adapter and, if its plan has none here yet, let `current` point to it.

        Args:
            plan: of the run.
            files: of the PEFT directory, checked.
            adapter: SHA-256 of the trained part.
            now_ms: milliseconds since 1970.
        Raises:
            TryAgain: the disk is full; nothing of it is there.
        """
        plan_sha256 = plan.sha256
        known = {one.plan: one for one in self.all()}
        before = known.get(plan_sha256)
        if before is None or before.adapter != adapter or self.damaged(before):
            before = self._write(
                StoredAdapter(
                    plan=plan_sha256,
                    run=plan.run,
                    base=plan.base_sha256,
                    adapter=adapter,
                    number=_next(known.values()) if before is None else before.number,
                    stored_ms=now_ms,
                    files={name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
                ),
                files,
            )
        if plan_sha256 not in known:
            self._point(plan_sha256)
        self._unwant(plan_sha256)
        return before

    def _write(self, made: StoredAdapter, files: Mapping[wire.AdapterFile, bytes]) -> StoredAdapter:
        """Write a directory beside its place, then put it there."""
        path, scratch = self._folder / made.plan, self._folder / f".{made.plan}.part"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            make_folder(scratch)
            for name, data in files.items():
                write_bytes(scratch / name, data)
            write_json(scratch / FACTS, to_tree(made))
            shutil.rmtree(path, ignore_errors=True)
            scratch.rename(path)
            sync_folder(self._folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return made

    def all(self) -> tuple[StoredAdapter, ...]:
        """Give every stored adapter, the newest last."""
        folders = self._folder.iterdir() if self._folder.is_dir() else ()
        found = (_read(path / FACTS) for path in folders if _HASH.fullmatch(path.name) and not path.is_symlink())
        return tuple(sorted(found, key=lambda one: one.number))

    def find(self, start: str) -> StoredAdapter:
        """Give the one adapter whose plan begins so, or whose run is named so; empty: the current one.

        Raises:
            InputError: none is, or more than one.
        """
        if not start:
            current = self.current()
            found = [] if current is None else [current]
        else:
            found = [one for one in self.all() if one.plan.startswith(start) or one.run == start]
        if len(found) != 1:
            raise InputError(
                "adapter",
                found=f"{len(found)} adapters",
                expected="exactly one",
                remedy="`partsong site adapters list` shows them",
            )
        return found[0]

    def path(self, adapter: StoredAdapter) -> Path:
        """Give the directory that PEFT loads."""
        return self._folder / adapter.plan

    def current(self) -> StoredAdapter | None:
        """Give the adapter in use; None before the first."""
        link = self._folder / CURRENT
        if not link.is_symlink():
            return None
        name = link.readlink().name
        return next((one for one in self.all() if one.plan == name), None)

    def rollback(self) -> StoredAdapter:
        """Let `current` point to the adapter that came before it.

        Raises:
            InputError: there is none before it; the pointer stays.
        """
        current = self.current()
        before = [one for one in self.all() if current is not None and one.number < current.number]
        if not before:
            raise InputError("adapters/current", found="no adapter before it", expected="an earlier one")
        self._point(before[-1].plan)
        return before[-1]

    def damaged(self, adapter: StoredAdapter) -> tuple[str, ...]:
        """Name the files that are not what was stored."""
        path = self.path(adapter)
        there = {file.name for file in path.iterdir()} - {FACTS}
        odd = there ^ set(adapter.files)
        changed = (n for n in there & set(adapter.files) if sha256_file(path / n) != adapter.files[n])
        return tuple(sorted({*odd, *changed}))

    def wanted(self) -> frozenset[str]:
        """Name the plans whose adapter is to be fetched again."""
        try:
            names = json.loads((self._folder / WANTED).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return frozenset()
        except ValueError:
            return frozenset()  # a wish, not a fact: without it an adapter is fetched once more on request
        return frozenset(name for name in names if isinstance(name, str) and _HASH.fullmatch(name))

    def want(self, plan_sha256: str) -> None:
        """Ask for an adapter again at the coordinator's next offer."""
        write_json(self._folder / WANTED, sorted({*self.wanted(), plan_sha256}))

    def _unwant(self, plan_sha256: str) -> None:
        if plan_sha256 in (wanted := self.wanted()):
            write_json(self._folder / WANTED, sorted(wanted - {plan_sha256}))

    def _point(self, name: str) -> None:
        with _replacing_link(self._folder / CURRENT) as link:
            link.symlink_to(name)


def _next(known: Iterable[StoredAdapter]) -> int:
    return 1 + max((one.number for one in known), default=0)


@contextlib.contextmanager
def _replacing_link(link: Path) -> Iterator[Path]:
    """Give a name for a new link, which then takes the place of the old one in one step."""
    scratch = link.with_name(f".{link.name}.part")
    scratch.unlink(missing_ok=True)
    yield scratch
    scratch.replace(link)
    sync_folder(link.parent)


def _read(file: Path) -> StoredAdapter:
    try:
        return build(StoredAdapter, json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError) as err:
        raise DataError(
            f"adapters/{file.parent.name[:12]}/{file.name}",
            found="no description of an adapter",
            expected="what was written when it was stored",
            remedy="remove the directory, then fetch it again",
        ) from err
