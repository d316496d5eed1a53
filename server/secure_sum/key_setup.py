"""The coordinator's side of set-up: it passes public keys and ciphertexts on, and learns no key.

Specification: PROTOCOL.md section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from partsong.common.codec import pack, unpack
from partsong.common.derive import digest
from partsong.common.errors import RoundAborted, WireError
from partsong.common.identity.charter import Charter
from partsong.common.identity.keys import Signer
from partsong.common.secure_sum.messages import (
    Begin,
    Bundle,
    Bundles,
    Message,
    Pairing,
    Pairings,
    Reveal,
    Reveals,
    Signed,
    open_signed,
    require_suite,
    sign,
)
from partsong.common.secure_sum.transcript import RunFacts


class _FromSite(Message, Protocol):
    @property
    def site(self) -> int: ...


T = TypeVar("T", bound=_FromSite)
T2 = TypeVar("T2")


class SetupRelay:
    """One set-up. A message that does not fit is refused and leaves everything as it was."""

    def __init__(self, *, charter: Charter, signer: Signer, run: bytes, attempt: int) -> None:
        """Prepare a set-up.

        Args:
            charter: with checked signatures.
            signer: with the coordinator's key.
            run: 32 bytes that name the run.
            attempt: 1 for the first try of this run.
        """
        self._charter = charter
        self._begin = sign(Begin(charter=charter.hash, run=run, attempt=attempt), signer)
        self._bundles: dict[int, Signed] = {}
        self._pairings: dict[int, tuple[Signed, ...]] = {}
        self._reveals: dict[int, Signed] = {}
        self._members: tuple[int, ...] = ()
        self._transcript = b""

    def begin(self) -> bytes:
        """Give BEGIN, for all sites."""
        return pack(self._begin)

    def add_bundle(self, message: bytes) -> int:
        """Take a site's BUNDLE and give its number.

        Raises:
            WireError: not a bundle of this set-up signed by a listed site, of another suite, another one than it
                sent before, or too late; it was dropped.
        """
        signed = unpack(Signed, message)
        bundle = self._read(Bundle, signed)
        if bundle.begin != digest("begin", self._begin.body) or self._members:
            raise WireError("message bundle: found another set-up's, or one too late; it was dropped")
        require_suite(bundle, suite=self._charter.suite)
        _add_once(self._bundles, bundle.site, signed)
        return bundle.site

    def bundles(self) -> bytes:
        """Close the membership and give BUNDLES, for all members."""
        self._members = tuple(sorted(self._bundles))
        signed = tuple(self._bundles[site] for site in self._members)
        self._transcript = digest("set-up", *(bundle.body for bundle in signed))
        return pack(Bundles(bundles=signed))

    def add_pairings(self, message: bytes) -> int | None:
        """Take a site's PAIRINGS and give its number, or None for the empty ones of the last site.

        Raises:
            WireError: not one pairing for each site of higher number, each signed by the same member; all dropped.
        """
        signed = unpack(Pairings, message).pairings
        pairings = [self._read(Pairing, one) for one in signed]
        if not pairings:
            return None
        sender = pairings[0].site
        higher = [member for member in self._members if member > sender]
        fits = (p.site == sender and p.transcript == self._transcript for p in pairings)
        if sender not in self._members or [p.receiver for p in pairings] != higher or not all(fits):
            raise WireError("message pairings: found others than one for each higher site; they were dropped")
        _add_once(self._pairings, sender, signed)
        return sender

    def pairings(self) -> Mapping[int, bytes]:
        """Give each member its PAIRINGS.

        Raises:
            RoundAborted: a member's are missing; set-up ends without keys.
        """
        self._require_all(self._pairings, self._members[:-1], "pairings")
        by_receiver: dict[int, list[Signed]] = {member: [] for member in self._members}
        for sender in self._members[:-1]:
            for signed in self._pairings[sender]:
                by_receiver[unpack(Pairing, signed.body).receiver].append(signed)
        return {member: pack(Pairings(pairings=tuple(signed))) for member, signed in by_receiver.items()}

    def add_reveal(self, message: bytes) -> int:
        """Take a site's REVEAL and give its number.

        Raises:
            WireError: not a reveal of this set-up signed by a member, or another one than before; it was dropped.
        """
        signed = unpack(Signed, message)
        reveal = self._read(Reveal, signed)
        if reveal.site not in self._members or reveal.transcript != self._transcript:
            raise WireError("message reveal: found another set-up's; it was dropped")
        _add_once(self._reveals, reveal.site, signed)
        return reveal.site

    def reveals(self) -> bytes:
        """Give REVEALS, for all members.

        Raises:
            RoundAborted: a member's is missing; set-up ends without keys, naming it.
        """
        self._require_all(self._reveals, self._members, "reveal")
        return pack(Reveals(reveals=tuple(self._reveals[member] for member in self._members)))

    def finish(self) -> RunFacts:
        """Give what is public about the run, once all reveals are in."""
        reveals = [unpack(Reveal, self._reveals[member].body) for member in self._members]
        setup = digest("run", self._transcript, reveals[0].group, *(reveal.nonce for reveal in reveals))
        return RunFacts(charter=self._charter, setup=setup, members=self._members)

    def _read(self, cls: type[T], signed: Signed) -> T:
        site = unpack(cls, signed.body).site
        if site >= len(self._charter.sites):
            raise WireError(f"message {cls.LABEL}: found a sender that is not listed; it was dropped")
        return open_signed(cls, signed, key=self._charter.site_key(site))

    def _require_all(self, got: Mapping[int, object], wanted: tuple[int, ...], what: str) -> None:
        missing = [self._charter.sites[site].id for site in wanted if site not in got]
        if missing:
            raise RoundAborted(f"set-up: no {what} from {', '.join(missing)}; no keys were agreed")


def _add_once(known: dict[int, T2], site: int, message: T2) -> None:
    if known.setdefault(site, message) != message:
        raise WireError(f"site {site}: found another message than the one it sent before; it was dropped")
