"""The sections of a report that are about the guarantee, along the pyramid of NIST SP 800-226 from its top down."""

from __future__ import annotations

import math

from partsong.server.report import charts
from partsong.server.report.audit import AuditFacts
from partsong.server.report.facts import Facts, PrivacyFacts
from partsong.server.report.page import Section, Table, pairs

_NONE = "None: this run was trained without differential privacy, as it was asked for."


def guarantee(facts: Facts) -> Section:
    """Unit, epsilon, delta, relation."""
    section, title = "guarantee", "Guarantee"
    found = facts.privacy
    if found is None:
        return Section(id=section, title=title, lead=_NONE)
    bound = found.contribution_bound
    records = "every record is one unit" if bound is None else f"mean of at most {bound}, drawn anew in each step"
    return Section(
        id=section,
        title=title,
        lead=f"Epsilon and delta bound what anybody who sees all that this run released can tell about whether one "
        f"{found.unit} was among a site's records. Smaller is stronger; a large epsilon promises little.",
        tables=(
            pairs(
                "The guarantee, at each site",
                ("unit of privacy", f"one {found.unit}"),
                ("records of one unit in a step", records),
                ("epsilon, spent at most", f"{found.epsilon:.3f}"),
                ("epsilon, planned", f"{found.planned_epsilon:g}"),
                ("delta", f"{found.delta:g}"),
                (
                    f"best guess whether a {found.unit} was in, 50 % before",
                    f"right in at most {_best_guess(found):.2%}",
                ),
                ("neighbouring relation", found.neighbours),
                ("accountant", found.accountant),
            ),
        ),
    )


def _best_guess(found: PrivacyFacts) -> float:
    """Bound how often the best test is right about a fair coin: in or not.

    Source: Kairouz, Oh & Viswanath 2015 (arXiv 1311.0776), theorem 2.1: the region of the two errors of any test.
    """
    odds_against = math.exp(-found.epsilon)
    return (1 + found.delta * odds_against) / (1 + odds_against)


def mechanism(facts: Facts) -> Section:
    """Sampling, clip, noise, steps, and the loss in the same epsilon."""
    section, title = "mechanism", "Mechanism"
    found = facts.privacy
    if found is None:
        return Section(id=section, title=title, lead=_NONE)
    return Section(
        id=section,
        title=title,
        lead="DP-SGD at each site: in every step a random sample of units, each unit's gradient clipped, noise added "
        f"to their sum. {_placement(found)}",
        tables=(
            pairs(
                "Settings of the mechanism",
                ("sampling", f"{found.sampling}, each {found.unit} with probability {found.sampling_rate:g} in a step"),
                ("steps", _steps(facts, found)),
                ("clip of a unit's gradient", f"{found.clip_norm:g} (L2 norm, {found.clipping})"),
                ("noise", f"{found.noise}, standard deviation {found.noise_multiplier:.4f} times the clip"),
                ("loss, clip", f"{found.loss_clip:g}"),
                ("loss, noise", f"{found.loss_noise_multiplier:.4f} times its clip, counted in the same epsilon"),
                ("votes on rounds", _votes(facts)),
            ),
        ),
    )


def _steps(facts: Facts, found: PrivacyFacts) -> str:
    rounds = "a round" if not facts.groups else f"a round of a site's group, one in {len(facts.groups)}"
    return f"{found.steps} ({found.steps_per_round} {rounds}; {facts.opened_rounds} rounds opened)"


def _votes(facts: Facts) -> str:
    if facts.vote is None or facts.vote.noise_multiplier is None:
        return "none: every round was kept as it came"
    noise = f"noise {facts.vote.noise_multiplier:.4f} of one vote at each site, counted in the same epsilon"
    return f"by records kept for testing, at most {facts.vote.most_votes:,} votes a site; {noise}"


def _placement(found: PrivacyFacts) -> str:
    if found.on_sum is None:
        return "The site itself adds all of its noise, whoever else takes part."
    alone = found.on_sum.epsilon_alone
    left = "no epsilon that could be bounded" if alone is None else f"epsilon {alone:.3f}"
    return (
        f"The site adds a share of it, and no sum of fewer than {found.on_sum.minimum_sum} sites is opened, "
        f"{found.on_sum.colluders} of which may tell the coordinator their shares. If all others do, {left} is left."
    )


def federation(facts: Facts) -> Section:
    """Per-site view, and a unit at one or two sites."""
    found = facts.privacy
    spent = "no guarantee" if found is None else f"at most {found.epsilon:.3f}"
    rows = tuple(
        (
            entry.site,
            spent if entry.refused is None else "nothing",
            f"{entry.sums} of {len(facts.rounds_of(entry.site))}",
            entry.refused or "accepted",
        )
        for entry in facts.sites
    )
    by_site = Table(
        caption="Each site",
        head=("site", "epsilon for its units", "sums that it is in", "answer to the plan"),
        rows=rows,
    )
    return Section(
        id="federation",
        title="Sites and federation",
        lead="A site's epsilon counts every round whose query went out, whether or not the site was in its sum.",
        tables=(by_site,) if found is None else (_across(found), by_site),
    )


def _across(found: PrivacyFacts) -> Table:
    return Table(
        caption=f"Over the federation, by the number of sites that hold the {found.unit}",
        head=("sites", "epsilon", "delta"),
        rows=(
            ("1", f"{found.epsilon:.3f}", f"{found.delta:g}"),
            ("2", f"{found.epsilon_at_two_sites:.3f}", f"{found.delta:g}"),
            ("3 or more", "not computed", "not computed"),
        ),
    )


def budget(facts: Facts) -> Section:
    """Epsilon over time."""
    found, chart = facts.privacy, charts.budget(facts)
    if found is None or chart is None:
        return Section(id="budget", title="Budget over time", lead=_NONE)
    part = found.epsilon / found.planned_epsilon
    return Section(
        id="budget",
        title="Budget over time",
        lead=f"After the last round {found.epsilon:.3f} of {found.planned_epsilon:g} was spent ({part:.0%}).",
        charts=(chart,),
    )


def audit(found: AuditFacts | None) -> Section:
    """Lower bound beside the claim."""
    section, title = "audit", "Audit"
    if found is None:
        return Section(
            id=section,
            title=title,
            lead="No audit was given with this report. An audit rehearses the settings, not the run.",
        )
    verdict = "nothing contradicts the claim" if found.passed else "THE CLAIM IS CONTRADICTED"
    bounds = Table(
        caption=f"Lower bounds on epsilon at {found.confidence:.2%} confidence over all tests",
        head=("attack", "lower bound", "claim", "delta", "outcome", "assumes"),
        rows=tuple(
            (b.name, f"{b.epsilon:.3f}", f"{b.claim:.3f}", f"{b.delta:.2g}", _outcome(b.failed), b.assumes)
            for b in found.bounds
        ),
    )
    checks = Table(
        caption="Ingredients of the claim, measured",
        head=("ingredient", "bound", "promised", "outcome"),
        rows=tuple((c.name, f"{c.bound:.5g}", f"{c.promised:.5g}", _outcome(c.failed)) for c in found.checks),
    )
    return Section(
        id=section,
        title=title,
        lead=f"A rehearsal of these settings on {found.records_are} records: {verdict}. Its file has sha256 "
        f"{found.sha256}. It is not covered by the signature of this report.",
        tables=(bounds, checks),
        points=tuple(f"not shown: {line}" for line in found.not_shown),
    )


def hazards(facts: Facts) -> Section:
    """What can go wrong with a claim, and whether it was seen to."""
    return Section(
        id="hazards",
        title="Hazards checked",
        lead="Known ways in which a claim of privacy fails. Files are those of the partsong source.",
        tables=(
            Table(
                caption="Hazards",
                head=("hazard", "covered", "how", "where shown"),
                rows=tuple((h.name, h.covered, h.how, h.where) for h in facts.hazards),
            ),
        ),
    )


def not_protected(facts: Facts) -> Section:
    """The limits, all in one place."""
    return Section(id="not-protected", title="What is not protected", points=(*facts.marks, *facts.not_covered))


def _outcome(failed: bool) -> str:  # noqa: FBT001  # one of two words
    return "contradicted" if failed else "not contradicted"
