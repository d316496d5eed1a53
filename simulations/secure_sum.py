"""A whole consortium in one process, every message through bytes as over a wire.

For simulations, tests and benchmarks. One process holds all keys here, so nothing is secret from it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from partsong.client.secure_sum import site_state
from partsong.client.secure_sum.key_setup import KeySetup
from partsong.client.secure_sum.protocol import Entered, SecureSumSite
from partsong.client.secure_sum.site_state import SiteState
from partsong.client.secure_sum.vault import MemoryVault, Vault
from partsong.common.derive import digest
from partsong.common.identity.charter import (
    Charter,
    Member,
    SignedCharter,
    check_signatures,
    sign_as_coordinator,
    sign_as_site,
)
from partsong.common.identity.keys import Identity, P384Identity, make_identity
from partsong.common.identity.suite import SuiteName
from partsong.common.secure_sum.fixed_point import WordVec
from partsong.common.secure_sum.messages import Header
from partsong.common.secure_sum.result import OpenedSum
from partsong.common.secure_sum.shamir import Entropy
from partsong.common.secure_sum.transcript import RunFacts
from partsong.common.thresholds import Floors, default_tolerance
from partsong.server.secure_sum.key_setup import SetupRelay
from partsong.server.secure_sum.protocol import SumRound

Phase = Literal["ready", "report", "confirm", "unmask"]
"""The first message that a dropped site does not send."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Consortium:
    """Everyone's keys under one charter."""

    charter: Charter
    coordinator: Identity | P384Identity
    identities: tuple[Identity | P384Identity, ...]
    vaults: tuple[Vault, ...]


@dataclass(kw_only=True, slots=True, repr=False)
class Federation:
    """A consortium with keys set up, one round after the other."""

    consortium: Consortium
    run: RunFacts
    sites: dict[int, SecureSumSite]
    result: bytes = b""
    """Packed result of the last round that opened, or empty."""
    last: OpenedSum | None = None
    rounds: int = field(default=0)


def found(
    site_ids: Sequence[str],
    *,
    entropy: Entropy = os.urandom,
    floors: Floors | None = None,
    suite: SuiteName = "A",
) -> Consortium:
    """Make keys for a coordinator and sites, and a charter that all of them signed.

    Args:
        site_ids: two or more.
        entropy: secret uniform bytes.
        floors: of the charter; None gives the defaults for this many sites.
        suite: of the charter.
    """
    ids = sorted(site_ids)
    coordinator, identities = make_identity(suite, entropy), tuple(make_identity(suite, entropy) for _ in ids)
    chosen = floors or default_floors(len(ids))
    charter = Charter(
        consortium="simulated",
        version=1,
        previous=None,
        suite=suite,
        coordinator=coordinator.public_key.hex(),
        sites=tuple(Member(id=i, key=k.public_key.hex()) for i, k in zip(ids, identities, strict=True)),
        minimum_cohort=chosen.minimum_cohort,
        minimum_honest=chosen.minimum_honest,
        corrupt_tolerance=chosen.corrupt_tolerance,
        two_sites=len(ids) == 2,
    )
    signatures = {i: sign_as_site(charter, site_id=i, signer=k) for i, k in zip(ids, identities, strict=True)}
    check_signatures(
        SignedCharter(
            charter=charter,
            coordinator_signature=sign_as_coordinator(charter, coordinator),
            site_signatures=signatures,
        )
    )
    vaults = tuple(MemoryVault() for _ in ids)
    return Consortium(charter=charter, coordinator=coordinator, identities=identities, vaults=vaults)


def default_floors(sites: int) -> Floors:
    """Give the floors that a charter has by default, for two sites those that two need."""
    return Floors(
        minimum_cohort=min(3, sites),
        minimum_honest=min(3, sites),
        corrupt_tolerance=default_tolerance(sites) if sites > 2 else 0,
    )


def set_up(
    consortium: Consortium,
    *,
    run: bytes,
    entropy: Entropy = os.urandom,
    clock: Callable[[], float] = time.time,
    threads: int = 1,
) -> Federation:
    """Run key set-up among all sites.

    Args:
        consortium: of `found`.
        run: 32 bytes that name the run.
        entropy: secret uniform bytes.
        clock: Unix time in seconds, of the sites.
        threads: workers of each site for its key streams.
    """
    charter = consortium.charter
    setups = [
        KeySetup(charter=charter, site_id=member.id, signer=identity, floors=charter.floors, vault=vault)
        for member, identity, vault in zip(charter.sites, consortium.identities, consortium.vaults, strict=True)
    ]
    relay = SetupRelay(charter=charter, signer=consortium.coordinator, run=run, attempt=1)
    for setup in setups:
        relay.add_bundle(setup.begin(relay.begin(), entropy=entropy))
    bundles = relay.bundles()
    for setup in setups:
        relay.add_pairings(setup.pair(bundles))
    for site, pairings in relay.pairings().items():
        relay.add_reveal(setups[site].reveal(pairings))
    reveals = relay.reveals()
    for setup in setups:
        setup.finish(reveals)
    return Federation(
        consortium=consortium,
        run=relay.finish(),
        sites={
            site: wake(consortium, site, entropy=entropy, clock=clock, threads=threads) for site in range(len(setups))
        },
    )


def deal_keys(
    consortium: Consortium,
    *,
    run: bytes,
    sites: Sequence[int] | None = None,
    entropy: Entropy = os.urandom,
    clock: Callable[[], float] = time.time,
    threads: int = 1,
) -> Federation:
    """Give sites the keys of a run without the messages of set-up, of which there are as many as pairs of sites.

    Args:
        consortium: of `found`.
        run: 32 bytes that name the run.
        sites: that are to take part in rounds here; None for all. All are members.
        entropy: secret uniform bytes.
        clock: Unix time in seconds, of the sites.
        threads: workers of each site for its key streams.
    """
    charter, members = consortium.charter, tuple(range(len(consortium.charter.sites)))
    setup, group_key, pairs = digest("run", charter.hash, run), entropy(32), dict[tuple[int, int], bytes]()
    chosen = members if sites is None else tuple(sites)
    for site in chosen:
        ends = ((min(site, peer), max(site, peer)) for peer in members if peer != site)
        state = SiteState(
            charter=charter.hash,
            setup=setup,
            site=site,
            members=members,
            group_key=group_key,
            pair_keys=tuple(pairs.setdefault(pair, entropy(32)) for pair in ends),
            key_round=0,
            result=setup,
        )
        site_state.save(state, consortium.vaults[site])
    return Federation(
        consortium=consortium,
        run=RunFacts(charter=charter, setup=setup, members=members),
        sites={site: wake(consortium, site, entropy=entropy, clock=clock, threads=threads) for site in chosen},
    )


def wake(
    consortium: Consortium,
    site: int,
    *,
    entropy: Entropy = os.urandom,
    clock: Callable[[], float] = time.time,
    threads: int = 1,
) -> SecureSumSite:
    """Start a site's process on its vault, as after a crash."""
    return SecureSumSite(
        charter=consortium.charter,
        signer=consortium.identities[site],
        floors=consortium.charter.floors,
        vault=consortium.vaults[site],
        entropy=entropy,
        clock=clock,
        threads=threads,
    )


def next_header(federation: Federation, *, words: int, noised: int = 1, minimum_sum: int = 0) -> Header:
    """Make the header of the next round, about nothing in particular."""
    last = federation.last
    return Header(
        setup=federation.run.setup,
        round=federation.rounds + 1,
        model=bytes(32),
        query=bytes(32),
        encoding=bytes(32),
        words=words,
        minimum_sum=minimum_sum,
        noised=noised,
        deadline=2**40,
        previous_round=last.header.round if last else 0,
        previous=last.hash if last else federation.run.setup,
    )


def run_round(
    federation: Federation,
    header: Header,
    encode: Callable[[int, Entered], WordVec],
    *,
    drop: Mapping[int, Phase] | None = None,
) -> OpenedSum:
    """Run one round to its result.

    Args:
        federation: its rounds and last result move on, also when the round fails.
        header: of the round.
        encode: gives the words of a site's vector, once the roster stands.
        drop: for each site that drops out the first message it does not send.
    Raises:
        Refused: a floor or a quorum was missed; the round ended without a sum.
        RoundAborted: too few shares; the round ended without a sum.
    """
    federation.rounds = header.round
    gone = drop or {}
    order: tuple[Phase, ...] = ("ready", "report", "confirm", "unmask")

    def alive(sites: Sequence[int], phase: Phase) -> list[int]:
        return [site for site in sites if site not in gone or order.index(gone[site]) > order.index(phase)]

    sites = federation.sites
    desk = SumRound(run=federation.run, signer=federation.consortium.coordinator, header=header)
    opening = desk.open(result=federation.result)
    for site in alive(list(sites), "ready"):
        sites[site].open(opening)
        desk.add_ready(sites[site].ready(verdict=True))
    roster = desk.close_roster()
    for site in alive(desk.roster, "report"):
        entered = sites[site].enter(roster)
        desk.add_report(sites[site].report(encode(site, entered)))
    requests = desk.close_reports()
    for site in alive(desk.survivors, "confirm"):
        desk.add_confirm(sites[site].confirm(requests[site]))
    quorum = desk.close_confirms()
    for site in alive(desk.holders, "unmask"):
        desk.add_unmask(sites[site].unmask(quorum))
    federation.result, federation.last = desk.open_sum()
    return federation.last
