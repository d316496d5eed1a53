"""Local work that is not finished: it survives its process, and nothing else survives it.

Covers: what a round has released so far, and an update that waits for its roster, are on disk encrypted and
    authenticated, bound to their context and to the adapter that they start from. Each context has a key of its own,
    which lies in the vault. Erasing takes the key out of the vault, overwrites the file and removes it: an old copy of
    the file that is put back opens no more. No two processes use the folder at once.
Does not cover: an old copy of vault and folder together; the ledger knows that the context was committed, and then
    nothing is gone on with. An older note of the same context that is put back: its later steps are taken again, with
    noise of their own, and still only one result leaves. A medium that moves blocks, such as an SSD, and the files
    that earlier notes were in: the overwriting does not reach them, only the erasing of their key does, as far as the
    vault's own erasing goes. What is here under differential privacy was noised, but for counts of drawn records.

There is one note for each plan; a later one takes its place in one step.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from partsong.client.encoders.encoder import LocalUpdate
from partsong.client.encoders.halfway import Halfway, SoFar
from partsong.client.secure_sum.vault import Vault
from partsong.client.training.unfinished_format import from_bytes, to_bytes
from partsong.common.codec import Hash, pack, unpack
from partsong.common.derive import derive, digest
from partsong.common.errors import InputError, TryAgain, WireError
from partsong.common.files import make_folder, replacing, sync_folder
from partsong.common.secure_sum.shamir import Entropy

MOST_SHARE = 0.02
"""Part of the time of training that notes may take: lost steps cost as much again only once in fifty notes."""
_SUFFIX, _LABEL = ".unfinished", "unfinished work"
_KEY_BYTES, _NONCE_BYTES = 32, 12
_BLOCK = bytes(1 << 20)


class UnfinishedError(InputError):
    """A note cannot be read; the work is given up, nothing of it leaves."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class _Ticket:
    """The vault's record of a plan's unfinished context."""

    LABEL: ClassVar[str] = "unfinished ticket"
    key: Hash
    adapter: Hash
    """Digest of the adapter that the round starts from."""
    context: bytes


class UnfinishedWork:
    """The unfinished work of one site, of all its plans: one object for each folder."""

    def __init__(
        self,
        folder: Path,
        *,
        vault: Vault,
        entropy: Entropy = os.urandom,
        clock: Callable[[], float] = time.monotonic,
        most_share: float = MOST_SHARE,
    ) -> None:
        """Use a folder, and erase what opens no more.

        Args:
            folder: made if it is not there, for the owner alone.
            vault: for the keys.
            entropy: uniform bytes.
            clock: seconds, of any beginning.
            most_share: part of the time of training that notes may take; `math.inf` notes every step.
        Raises:
            TryAgain: another process uses the folder; nothing was changed.
        """
        make_folder(folder)
        folder.chmod(0o700)
        self._folder, self._vault, self._entropy = folder, vault, entropy
        self._clock, self._most_share = clock, most_share
        self._lock = _locked(folder / ".lock")
        try:
            self._erase_lost()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process use the folder."""
        os.close(self._lock)

    def contexts(self) -> tuple[str, ...]:
        """Name the contexts that can be gone on with, one for each plan at most."""
        plans = [file.name.removesuffix(_SUFFIX) for file in sorted(self._folder.glob(f"*{_SUFFIX}"))]
        return tuple(ticket.context.decode() for ticket in map(self._ticket, plans) if ticket is not None)

    def starts_from(self, context: str, *, adapter_sha256: str) -> bool:
        """Say whether this context is here, and its round started from this adapter."""
        ticket = self._open_ticket(context)
        return ticket is not None and ticket.adapter == bytes.fromhex(adapter_sha256)

    def begin(self, context: str, *, adapter_sha256: str) -> None:
        """Take a context up at its first step; what was of its plan before is gone.

        Args:
            context: `PLAN:ROUND:ATTEMPT`, paid for and journaled.
            adapter_sha256: of the adapter that the round starts from.
        Raises:
            TryAgain: no room on the disk; there is no note.
        """
        plan = _plan_of(context)
        self.erase(plan)
        key = self._entropy(_KEY_BYTES)
        ticket = _Ticket(key=key, adapter=bytes.fromhex(adapter_sha256), context=context.encode())
        self._vault.write(_record(plan), pack(ticket))
        self.keep(context, Halfway(so_far=SoFar(), adapter_P=np.empty(0, np.float32)))

    def keep(self, context: str, work: Halfway | LocalUpdate) -> None:
        """Replace the note of a context that was begun. Durable when this returns.

        Raises:
            TryAgain: no room on the disk; the last note stands.
        """
        ticket = self._open_ticket(context)
        if ticket is None:
            raise AssertionError("a context is begun before anything of it is kept")
        nonce = self._entropy(_NONCE_BYTES)
        sealed = _cipher(ticket).encrypt(nonce, to_bytes(work), _bound_to(ticket))
        with replacing(self._file(_plan_of(context))) as part:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(nonce)
                file.write(sealed)

    def read(self, context: str, *, size: int) -> Halfway | LocalUpdate | None:
        """Give the note of a context; None where there is none.

        Args:
            context: as of `begin`.
            size: trained parameters of the plan.
        Raises:
            UnfinishedError: it was changed, or is of another context, key, size or version.
        """
        ticket, file = self._open_ticket(context), self._file(_plan_of(context))
        if ticket is None or not file.exists():
            return None
        data = file.read_bytes()
        try:
            plain = _cipher(ticket).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bound_to(ticket))
            return from_bytes(plain, size=size)
        except (InvalidTag, ValueError, WireError) as err:
            raise UnfinishedError(
                file.name, found="a note that does not open", expected="one written here for this query"
            ) from err

    def bookmark(self, context: str, *, size: int) -> NotedRound:
        """Give what a round of this context is noted with."""
        return NotedRound(self, context, size=size, clock=self._clock, most_share=self._most_share)

    def erase(self, plan_sha256: str) -> None:
        """Erase what is unfinished of a plan: first the key, so that no copy of the file opens, then the file."""
        self._vault.erase(_record(plan_sha256))
        _overwrite(self._file(plan_sha256))

    def _erase_lost(self) -> None:
        """Erase what was half written, and notes whose key is gone."""
        for half_written in self._folder.glob(".*.part"):
            _overwrite(half_written)
        for file in self._folder.glob(f"*{_SUFFIX}"):
            if self._ticket(file.name.removesuffix(_SUFFIX)) is None:
                _overwrite(file)

    def _ticket(self, plan_sha256: str) -> _Ticket | None:
        data = self._vault.read(_record(plan_sha256))
        return None if data is None else unpack(_Ticket, data)

    def _open_ticket(self, context: str) -> _Ticket | None:
        ticket = self._ticket(_plan_of(context))
        return ticket if ticket is not None and ticket.context == context.encode() else None

    def _file(self, plan_sha256: str) -> Path:
        return self._folder / f"{plan_sha256}{_SUFFIX}"


class NotedRound:
    """The bookmark of one context."""

    def __init__(
        self, work: UnfinishedWork, context: str, *, size: int, clock: Callable[[], float], most_share: float
    ) -> None:
        """Start to measure; arguments as of `UnfinishedWork`."""
        self._work, self._context, self._size = work, context, size
        self._clock, self._most_share = clock, most_share
        self._since_s, self._cost_s = clock(), 0.0

    def read(self) -> Halfway | None:
        """Give what was noted, unless it is the whole update already."""
        found = self._work.read(self._context, size=self._size)
        return found if isinstance(found, Halfway) else None

    def put(self, take: Callable[[], Halfway]) -> None:
        """Note a step, unless the last note took more than its share of the time since then."""
        begun_s = self._clock()
        if self._cost_s > self._most_share * (begun_s - self._since_s):
            return
        self._work.keep(self._context, take())
        self._since_s = self._clock()
        self._cost_s = self._since_s - begun_s


def _locked(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(handle)
        raise TryAgain(f"{path.parent.name}: another process of this site uses it; stop that one first") from err
    return handle


def _overwrite(file: Path) -> None:
    """Overwrite a file with zeros and remove it; none is as good as removed."""
    if not file.exists():
        return
    left = file.stat().st_size
    with file.open("r+b") as target:
        while left > 0:
            left -= target.write(_BLOCK[:left])
        target.flush()
        os.fsync(target.fileno())
    file.unlink()
    sync_folder(file.parent)


def _plan_of(context: str) -> str:
    return context.partition(":")[0]


def _record(plan_sha256: str) -> str:
    return f"unfinished {plan_sha256}"


def _cipher(ticket: _Ticket) -> AESGCM:
    return AESGCM(derive(ticket.key, _LABEL))


def _bound_to(ticket: _Ticket) -> bytes:
    return digest(_LABEL, ticket.context, ticket.adapter)
