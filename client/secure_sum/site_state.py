"""What a site remembers of a run: one record, replaced as a whole before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from partsong.client.secure_sum.vault import Vault
from partsong.common.codec import Hash, pack, unpack
from partsong.common.errors import Refused
from partsong.common.identity.charter import Charter
from partsong.common.identity.suite import SIGNATURE_BYTES
from partsong.common.secure_sum.messages import Signed
from partsong.common.secure_sum.transcript import RunFacts

_RECORD = "run"
_UNSIGNED = Signed(body=b"", signature=bytes(SIGNATURE_BYTES.A))


class Stage(IntEnum):
    """How far the current round is, at this site. It only grows within a round."""

    IDLE = 0
    OPENED = 1
    """A header was accepted and the keys moved to its round."""
    READY = 2
    """READY may have been sent."""
    ENTERED = 3
    """A roster was accepted; there is a context."""
    MASKING = 4
    """The context is used up: a vector may have been masked under it."""
    REPORTED = 5
    """The report is whole in the vault and may have been sent."""
    CONFIRMED = 6
    """One survivor set may have been signed."""
    DONE = 7
    """Shares may have been sent, and the round's keys are gone."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SiteState:
    """Everything but the report and the request for CONFIRM, which are records of their own."""

    LABEL: ClassVar[str] = "site state"
    charter: Hash
    setup: Hash
    site: int
    members: tuple[int, ...]
    group_key: Hash
    pair_keys: tuple[Hash, ...]
    """For each other member in order; of round `key_round`."""
    key_round: int
    revoked: tuple[int, ...] = ()
    result_round: int = 0
    """Last round whose result was checked; 0 for none."""
    result: Hash = bytes(32)
    """Its hash; `setup` for none."""
    verdict: int = 1
    """On that result."""
    last_roster: tuple[int, ...] = ()
    """Of the last round in which this site masked."""
    stage: int = Stage.IDLE
    round: int = 0
    header: Signed = _UNSIGNED
    """From here on: of the current round."""
    readys: tuple[Signed, ...] = ()
    context: Hash = bytes(32)
    report: Signed = _UNSIGNED
    """Header of the report in the vault."""
    survivors: Hash = bytes(32)
    reply: bytes = b""
    """The last small message sent, for sending again."""

    def facts(self, charter: Charter) -> RunFacts:
        """Give the public part."""
        return RunFacts(charter=charter, setup=self.setup, members=self.members)

    def keys_by_peer(self) -> dict[int, bytes]:
        """Give the pair keys under the numbers of the other sites."""
        others = (member for member in self.members if member != self.site)
        return dict(zip(others, self.pair_keys, strict=True))


def after_setup(
    *,
    charter: Charter,
    setup: bytes,
    site: int,
    members: tuple[int, ...],
    group_key: bytes,
    pair_keys: tuple[bytes, ...],
) -> SiteState:
    """Make the state of a site that has keys and has seen no round; arguments as the fields."""
    unsigned = Signed(body=b"", signature=bytes(SIGNATURE_BYTES.of(charter.suite)))
    return SiteState(
        charter=charter.hash,
        setup=setup,
        site=site,
        members=members,
        group_key=group_key,
        pair_keys=pair_keys,
        key_round=0,
        result=setup,
        header=unsigned,
        report=unsigned,
    )


def save(state: SiteState, vault: Vault) -> None:
    """Make the state durable."""
    vault.write(_RECORD, pack(state))


def load(vault: Vault, *, charter: Charter) -> SiteState:
    """Read the state of the current run.

    Raises:
        Refused: there is none, or it belongs to another charter; nothing was changed.
    """
    data = vault.read(_RECORD)
    state = None if data is None else unpack(SiteState, data)
    if state is None or state.charter != charter.hash:
        raise Refused("no_run", reason="no keys were set up under this charter", remedy="run set-up first")
    return state
