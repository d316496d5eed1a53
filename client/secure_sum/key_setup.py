"""The site's side of set-up: three messages that leave a key with every other site and one of the group.

Covers: keys are agreed with exactly the sites that signed, over these bundles and no others; the coordinator
between them learns none. A set-up in which anything does not fit ends without keys.
Does not cover: a site that works with the coordinator knows the group key and its own pair keys.

Nothing is kept until `finish`: a site that crashes during set-up starts another.

Specification: PROTOCOL.md section 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from partsong.client.secure_sum import site_state
from partsong.client.secure_sum.vault import Vault
from partsong.common.codec import pack, unpack
from partsong.common.derive import derive, digest
from partsong.common.errors import Refused, RoundAborted, WireError
from partsong.common.identity.charter import Charter, effective_floors
from partsong.common.identity.keys import Signer
from partsong.common.identity.suite import suite_of_key
from partsong.common.secure_sum.messages import (
    Begin,
    Bundle,
    Bundles,
    Pairing,
    Pairings,
    Reveal,
    Reveals,
    Signed,
    open_signed,
    require_suite,
    sign,
)
from partsong.common.secure_sum.pairwise import make_setup_keys, open_secret, pair_key, seal_secret
from partsong.common.secure_sum.shamir import Entropy
from partsong.common.secure_sum.transcript import RunFacts, read_from_sites
from partsong.common.thresholds import Floors

MOST_ATTEMPTS = 16
_ATTEMPTS_RECORD = "set-up attempts"
_NO_NONCE = bytes(12)


class KeySetup:
    """One set-up at one site. Each method takes the coordinator's message and gives the answer."""

    def __init__(self, *, charter: Charter, site_id: str, signer: Signer, floors: Floors, vault: Vault) -> None:
        """Prepare for one set-up.

        Args:
            charter: pinned, with checked signatures.
            site_id: of this site.
            signer: with its identity key.
            floors: of its own policy; the charter's apply as well.
            vault: gets the keys when all is done.
        """
        self._charter, self._signer, self._vault = charter, signer, vault
        self._site = charter.number_of(site_id)
        self._floors = effective_floors(charter, policy=floors)
        self._step = 0
        suite = suite_of_key(signer.public_key)
        if suite != charter.suite:
            raise Refused(
                "suite",
                reason=f"the charter is of suite {charter.suite}, this site's key of suite {suite}",
                remedy="join a consortium of this site's suite",
            )
        if charter.site_key(self._site) != signer.public_key:
            raise Refused("own_key", reason="the charter lists another key", remedy="sign with this site's own key")

    def begin(self, message: bytes, *, entropy: Entropy) -> bytes:
        """Answer BEGIN with a BUNDLE of fresh public keys.

        Args:
            message: of the coordinator.
            entropy: secret uniform bytes, in production `os.urandom`.
        Raises:
            WireError: not signed by the charter's coordinator; it was dropped.
            Refused: of another charter, or the 17th attempt in a row; no keys were made.
        """
        self._require_step(0)
        signed = unpack(Signed, message)
        begin = open_signed(Begin, signed, key=self._charter.coordinator_key)
        if begin.charter != self._charter.hash:
            raise Refused("other_charter", reason="set-up under a charter that is not pinned", remedy="pin it first")
        self._count_attempt()
        self._begin = digest("begin", signed.body)
        self._keys = make_setup_keys(entropy, suite=self._charter.suite)
        self._nonce, self._entropy = entropy(32), entropy
        bundle = Bundle(
            begin=self._begin,
            site=self._site,
            exchange=self._keys.exchange_public,
            kem=self._keys.kem_public,
            commitment=digest("beacon nonce", self._begin, self._nonce),
        )
        self._own_bundle = sign(bundle, self._signer)
        self._step = 1
        return pack(self._own_bundle)

    def pair(self, message: bytes) -> bytes:
        """Answer all BUNDLES with a PAIRING for each site of higher number.

        Raises:
            WireError: a bundle is not of this set-up, of another suite or not signed by its site; no secret was sealed.
            Refused: too few sites, or this site's own bundle is missing or changed; no secret was sealed.
        """
        self._require_step(1)
        signed = unpack(Bundles, message).bundles
        listed = RunFacts(charter=self._charter, setup=bytes(32), members=tuple(range(len(self._charter.sites))))
        self._bundles = {bundle.site: bundle for bundle in read_from_sites(Bundle, signed, listed)}
        if any(bundle.begin != self._begin for bundle in self._bundles.values()):
            raise WireError("message bundle: found one of another set-up; it was dropped")
        for bundle in self._bundles.values():
            require_suite(bundle, suite=self._charter.suite)
        if self._own_bundle not in signed:
            raise Refused(
                "own_bundle", reason="this site's bundle is missing or changed", remedy="start another set-up"
            )
        floor = max(self._floors.minimum_cohort, self._floors.corrupt_tolerance + self._floors.minimum_honest)
        if len(self._bundles) < floor:
            raise Refused(
                "cohort_floor",
                reason=f"set-up with {len(self._bundles)} sites, {floor} needed",
                remedy="wait for more sites",
            )
        self._members = tuple(self._bundles)
        self._transcript = digest("set-up", *(bundle.body for bundle in signed))
        pairings = self._seal_for_higher()
        self._step = 2
        return pack(Pairings(pairings=pairings))

    def _seal_for_higher(self) -> tuple[Signed, ...]:
        first = self._site == self._members[0]
        self._pair_keys: dict[int, bytes] = {}
        if first:
            self._take_group_key(self._entropy(32))
        pairings = []
        for peer in self._members:
            if peer > self._site:
                secret = self._entropy(32)
                self._agree(peer, secret)
                pairing = Pairing(
                    transcript=self._transcript,
                    site=self._site,
                    receiver=peer,
                    sealed=seal_secret(
                        secret,
                        kem_public=self._bundles[peer].kem,
                        transcript=self._transcript,
                        sender=self._site,
                        receiver=peer,
                        suite=self._charter.suite,
                    ),
                    group=self._seal_group_key(peer) if first else b"",
                )
                pairings.append(sign(pairing, self._signer))
        return tuple(pairings)

    def reveal(self, message: bytes) -> bytes:
        """Answer the PAIRINGS for this site with a REVEAL.

        Raises:
            WireError: not exactly one pairing of each site of lower number, each signed; no key was kept.
            KeyAgreementFailed: a secret does not open; no key was kept.
        """
        self._require_step(2)
        signed = unpack(Pairings, message).pairings
        facts = RunFacts(charter=self._charter, setup=bytes(32), members=self._members)
        pairings = read_from_sites(Pairing, signed, facts)
        lower = [member for member in self._members if member < self._site]
        fits = (p.transcript == self._transcript and p.receiver == self._site for p in pairings)
        if [pairing.site for pairing in pairings] != lower or not all(fits):
            raise WireError("message pairings: found others than one of each lower site; they were dropped")
        self._open_from_lower(pairings)
        reveal = Reveal(transcript=self._transcript, site=self._site, nonce=self._nonce, group=self._group_hash)
        self._step = 3
        return pack(sign(reveal, self._signer))

    def _open_from_lower(self, pairings: Sequence[Pairing]) -> None:
        for pairing in pairings:
            secret = open_secret(
                pairing.sealed,
                keys=self._keys,
                transcript=self._transcript,
                sender=pairing.site,
                receiver=self._site,
            )
            self._agree(pairing.site, secret)
        if pairings:
            self._take_group_key(self._open_group_key(pairings[0]))

    def finish(self, message: bytes) -> RunFacts:
        """Take all REVEALS, check them and keep the keys.

        Raises:
            WireError: a reveal is missing, of another set-up or not signed; no key was kept.
            RoundAborted: a site shows another nonce than it committed to, or another group key; no key was kept.
        """
        self._require_step(3)
        facts = RunFacts(charter=self._charter, setup=bytes(32), members=self._members)
        reveals = read_from_sites(Reveal, unpack(Reveals, message).reveals, facts)
        if tuple(reveal.site for reveal in reveals) != self._members:
            raise WireError("message reveals: found others than one of each member; they were dropped")
        for reveal in reveals:
            self._check_reveal(reveal)
        setup = digest("run", self._transcript, self._group_hash, *(reveal.nonce for reveal in reveals))
        state = site_state.after_setup(
            charter=self._charter,
            setup=setup,
            site=self._site,
            members=self._members,
            group_key=self._group_key,
            pair_keys=tuple(self._pair_keys[peer] for peer in sorted(self._pair_keys)),
        )
        site_state.save(state, self._vault)
        self._vault.erase(_ATTEMPTS_RECORD)
        self._forget()
        self._step = 4
        return state.facts(self._charter)

    def _check_reveal(self, reveal: Reveal) -> None:
        committed = self._bundles[reveal.site].commitment
        if reveal.transcript != self._transcript or digest("beacon nonce", self._begin, reveal.nonce) != committed:
            raise RoundAborted(f"site {reveal.site} did not reveal what it committed to; no key was kept")
        if reveal.group != self._group_hash:
            raise RoundAborted(f"site {reveal.site} has another group key; no key was kept")

    def _require_step(self, step: int) -> None:
        """Refuse a message out of turn; each is answered once."""
        if self._step != step:
            raise Refused("setup_order", reason="a set-up message out of turn", remedy="start another set-up")

    def _count_attempt(self) -> None:
        """Refuse the 17th set-up in a row that did not finish: whoever withholds a reveal chooses among beacons."""
        record = self._vault.read(_ATTEMPTS_RECORD)
        same = record is not None and record[:32] == self._charter.hash
        attempts = int.from_bytes(record[32:], "big") if record is not None and same else 0
        if attempts >= MOST_ATTEMPTS:
            raise Refused(
                "setup_attempts",
                reason=f"{attempts} set-ups in a row did not finish under this charter version",
                remedy="agree on a new charter version without the site that does not reveal",
            )
        self._vault.write(_ATTEMPTS_RECORD, self._charter.hash + (attempts + 1).to_bytes(4, "big"))

    def _agree(self, peer: int, secret: bytes) -> None:
        self._pair_keys[peer] = pair_key(
            secret,
            keys=self._keys,
            peer_public=self._bundles[peer].exchange,
            transcript=self._transcript,
            own=self._site,
            peer=peer,
        )

    def _take_group_key(self, key: bytes) -> None:
        self._group_key, self._group_hash = key, digest("group key", self._transcript, key)

    def _seal_group_key(self, peer: int) -> bytes:
        key = derive(self._pair_keys[peer], "group key", self._transcript)
        return AESGCM(key).encrypt(_NO_NONCE, self._group_key, self._transcript)

    def _open_group_key(self, pairing: Pairing) -> bytes:
        key = derive(self._pair_keys[pairing.site], "group key", self._transcript)
        try:
            opened = AESGCM(key).decrypt(_NO_NONCE, pairing.group, self._transcript)
        except (InvalidTag, ValueError) as err:
            raise RoundAborted(f"site {pairing.site}: its group key does not open; no key was kept") from err
        if len(opened) != len(self._transcript):
            raise RoundAborted(f"site {pairing.site}: its group key has another length; no key was kept")
        return opened

    def _forget(self) -> None:
        """Drop the private keys of set-up; what Python keeps of them in memory is beyond reach."""
        del self._keys, self._nonce, self._pair_keys, self._group_key
