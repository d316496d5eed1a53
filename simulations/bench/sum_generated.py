"""A round with one real site among a thousand whose messages are made up, of their real size.

The coordinator cannot tell: everything is signed, the bundles for the real site open, the shares fit, and the last
words of the sum can be tags. The others are noise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from partsong.client.secure_sum import masking, site_state
from partsong.client.secure_sum.protocol import SecureSumSite
from partsong.common.codec import pack, unpack
from partsong.common.derive import derive, digest, number
from partsong.common.secure_sum.fixed_point import encode
from partsong.common.secure_sum.masks import STREAM_WORD
from partsong.common.secure_sum.merkle import root_of
from partsong.common.secure_sum.messages import Confirm, Message, Ready, Report, ReportHeader, Signed, Unmask, sign
from partsong.common.secure_sum.opening import Seeds, take_masks_off
from partsong.common.secure_sum.shamir import SECRET_BYTES, SHARE_BYTES, combine, split
from partsong.common.secure_sum.tag import TAG_WORDS
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.bench.sum_rounds import Costs, clocked, cpu_ms, encoding_of, names, silent_sites
from partsong.simulations.secure_sum import Federation, deal_keys, found, next_header

_NO_NONCE = bytes(12)


def generated(*, sites: int, dropped: int, parameters: int) -> Costs:
    """Run one round with one real site, a share holder.

    Args:
        sites: of the roster.
        dropped: of them send no REPORT.
        parameters: of one update.
    """
    consortium, costs = found(names(sites)), Costs()
    measured = deal_keys(consortium, run=bytes(32), sites=[]).run.holders(range(sites)).sites[0]
    made = deal_keys(consortium, run=bytes(32), sites=[measured])
    site, encoding = made.sites[measured], encoding_of(parameters, field_bits=21, sites=sites)
    desk = SumRound(run=made.run, signer=consortium.coordinator, header=next_header(made, words=encoding.words()))
    opening = desk.open(result=b"")
    clocked(costs.site, "open", lambda: site.open(opening))
    others = Others(made, measured=measured, dropped=dropped)
    roster = _ready(site, desk, others, costs)
    update, rng = np.random.default_rng(0).standard_normal(parameters).astype(np.float32), np.random.default_rng(0)
    seed = clocked(costs.site, "enter", lambda: site.enter(roster)).context
    words = clocked(costs.site, "encode", lambda: encode({"update": update}, encoding, rotation_seed=seed, rng=rng))
    report = clocked(costs.site, "report", lambda: site.report(words))
    _sum(site, desk, others, costs, report=report)
    return costs


def _ready(site: SecureSumSite, desk: SumRound, others: Others, costs: Costs) -> bytes:
    ready = clocked(costs.site, "ready", lambda: site.ready(verdict=True))
    messages = [ready, *others.like(Ready, ready, others.numbers)]
    clocked(costs.coordinator, "ready", lambda: [desk.add_ready(message) for message in messages])
    return clocked(costs.coordinator, "roster", desk.close_roster)


def _sum(site: SecureSumSite, desk: SumRound, others: Others, costs: Costs, *, report: bytes) -> None:
    adding = cpu_ms(lambda: desk.add_report(report))
    for message in others.reports(desk.context, real=unpack(Report, report)):
        adding += cpu_ms(partial(desk.add_report, message))
    costs.coordinator["report"] = [adding]
    request = clocked(costs.coordinator, "survivors", desk.close_reports)[others.measured]
    confirm = clocked(costs.site, "confirm", lambda: site.confirm(request))
    confirms = [confirm, *others.like(Confirm, confirm, others.reporting)]
    clocked(costs.coordinator, "confirm", lambda: [desk.add_confirm(message) for message in confirms])
    quorum = clocked(costs.coordinator, "quorum", desk.close_confirms)
    answers = [clocked(costs.site, "unmask", lambda: site.unmask(quorum)), *others.unmasks(desk, report)]
    clocked(costs.coordinator, "unmask", lambda: [desk.add_unmask(message) for message in answers])
    clocked(costs.coordinator, "open", desk.open_sum)


class Others:
    """All sites but the real one: they sign what it takes to be believed."""

    def __init__(self, made: Federation, *, measured: int, dropped: int) -> None:
        """Prepare, once the real site has opened the round."""
        sites = len(made.run.members)
        silent = silent_sites(sites=sites, dropped=dropped, measured=measured)
        self.measured = measured
        self.numbers = [i for i in range(sites) if i != measured]
        self.reporting = [i for i in self.numbers if i not in silent]
        self._made, self._silent = made, sorted(silent)
        self._holders = made.run.holders(range(sites))
        state = site_state.load(made.consortium.vaults[measured], charter=made.run.charter)
        self._keys = state.keys_by_peer()
        self._shares: dict[int, dict[int, bytes]] = {}
        self._secrets: dict[int, list[bytes]] = {}

    def like(self, cls: type[Ready | Confirm], message: bytes, numbers: list[int]) -> list[bytes]:
        """Say what the real site said."""
        said = unpack(cls, unpack(Signed, message).body)
        return [self._signed(replace(said, site=i), i) for i in numbers]

    def reports(self, context: bytes, *, real: Report) -> Iterator[bytes]:
        """Give REPORTs one by one: one vector of noise for all, shares of seeds of its own for each."""
        noise, size = os.urandom(len(real.words)), SHARE_BYTES * (len(self.numbers) + 1)
        root, sealed = root_of(noise), os.urandom(size + 16)
        for owner in self.reporting:
            holding = [i for i in self._holders.sites if i != owner]
            shares = self._deal(owner, holding)
            if owner == self.reporting[-1]:
                noise = self._ending_in_tags(noise, context, real)
                root = root_of(noise)
            opens = self._sealed(context, owner, shares[self.measured])
            bundles = tuple(opens if holder == self.measured else sealed for holder in holding)
            header = ReportHeader(context=context, site=owner, vector=root, bundles=digest("bundles", *bundles))
            signed = sign(header, self._made.consortium.identities[owner])
            yield pack(Report(header=signed, bundles=bundles, words=noise))

    def _ending_in_tags(self, noise: bytes, context: bytes, real: Report) -> bytes:
        """Change the last words of the last vector so that those of the sum are zero once it is opened."""
        holding = [i for i in self._holders.sites if i != self.measured]
        held = {holder + 1: self._opened(context, holder, real) for holder in holding}
        secrets = self._secrets | {self.measured: combine(held, threshold=self._holders.threshold)}
        pairs = [(owner, place) for owner in secrets for place in range(len(self._silent))]
        seeds = Seeds(
            own={owner: own for owner, (own, *_) in secrets.items()},
            orphaned={(owner, self._silent[place]): secrets[owner][1 + place] for owner, place in pairs},
        )
        first = (len(noise) // 8 - TAG_WORDS) // 2 * 2
        end, real_end = (np.frombuffer(words[8 * first :], STREAM_WORD) for words in (noise, real.words))
        total = (end * np.uint64(len(self.reporting)) + real_end).astype(np.uint64)
        take_masks_off(total, seeds, context=context, first_word=first)
        return noise[: 8 * first] + (end - total).astype(STREAM_WORD).tobytes()

    def unmasks(self, desk: SumRound, report: bytes) -> list[bytes]:
        """Give the UNMASKs of all other holders: shares that fit, also those of the real site's seeds."""
        answers = []
        for holder in desk.holders:
            if holder != self.measured:
                own = self._opened(desk.context, holder, unpack(Report, report))
                shares = tuple(
                    own if owner == self.measured else self._shares[owner][holder]
                    for owner in desk.survivors
                    if owner != holder
                )
                answers.append(self._signed(Unmask(context=desk.context, site=holder, shares=shares), holder))
        return answers

    def _deal(self, owner: int, holding: list[int]) -> dict[int, bytes]:
        """Share an own-mask seed and a pair seed for each silent site."""
        secrets = [os.urandom(SECRET_BYTES) for _ in range(1 + len(self._silent))]
        self._secrets[owner] = secrets
        points = [holder + 1 for holder in holding]
        dealt = split(secrets, threshold=self._holders.threshold, holders=points, entropy=os.urandom)
        self._shares[owner] = dict(zip(holding, dealt, strict=True))
        return self._shares[owner]

    def _sealed(self, context: bytes, owner: int, shares: bytes) -> bytes:
        """Seal shares to the real site, among empty ones of the seeds that stay closed."""
        peers = [i for i in range(len(self.numbers) + 1) if i != owner]
        rows = np.zeros((len(peers) + 1, SHARE_BYTES), np.uint8)
        rows[[0, *(1 + peers.index(i) for i in self._silent)]] = np.frombuffer(shares, np.uint8).reshape(
            -1, SHARE_BYTES
        )
        ends = (number(owner), number(self.measured))
        key = derive(self._keys[owner], "share", context, *ends)
        return AESGCM(key).encrypt(_NO_NONCE, rows.tobytes(), digest("share bundle", context, *ends))

    def _opened(self, context: bytes, holder: int, report: Report) -> bytes:
        """Open the real site's bundle for another holder, and pick from it what UNMASK holds."""
        roster = range(len(self.numbers) + 1)
        place = [i for i in self._holders.sites if i != self.measured].index(holder)
        shares = masking.open_bundle(
            report.bundles[place],
            context=context,
            owner=self.measured,
            holder=holder,
            pair_key=self._keys[holder],
            roster=len(roster),
        )
        return masking.pick_shares(shares, owner=self.measured, roster=roster, dropped=self._silent)

    def _signed(self, message: Message, site: int) -> bytes:
        return pack(sign(message, self._made.consortium.identities[site]))
