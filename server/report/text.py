"""The report that a person reads in a terminal."""

from __future__ import annotations

from partsong.server.report.facts import Facts, PrivacyFacts, RoundFacts, SumFacts


def text_report(facts: Facts) -> str:
    """Write `report.txt`."""
    adapter = facts.adapter
    exact = "the averaged adapter is the average of the products" if adapter.exact else "averaged factors, not exact"
    if facts.groups:
        exact = f"each step is the median of {len(facts.groups)} groups' averages"
    lines = [f"partsong run {facts.run}", ""]
    lines += ["What this run does not protect", *(f"  - {mark}" for mark in facts.marks), ""]
    lines += ["Privacy", *_privacy_lines(facts), ""]
    lines += ["What left each site", *_bytes_lines(facts), ""]
    lines += ["Who can read it", *_sum_lines(facts.secure_sum), ""]
    lines += ["Rounds", *map(_round_line, facts.rounds), ""]
    lines += [
        "Adapter",
        f"  base {facts.base.name}, sha256 {facts.base.sha256}",
        f"  method {adapter.method} ({exact}), {adapter.trained_parameters:,} trained parameters",
        f"  plan sha256 {facts.plan_sha256}",
    ]
    return "\n".join(lines) + "\n"


def _privacy_lines(facts: Facts) -> list[str]:
    found = facts.privacy
    if found is None:
        return ["  none: trained without differential privacy, as asked for"]
    spent, at_two, unit = found.epsilon, found.epsilon_at_two_sites, found.unit
    return [
        f"  epsilon {spent:.3f} of {found.planned_epsilon:g} at delta {found.delta:g}, at each site; unit: one {unit}",
        f"  neighbours: {found.neighbours}",
        f"  over all sites: {spent:.3f} for a {unit} at one of them, {at_two:.3f} for a {unit} at two",
        f"  DP-SGD: clip {found.clip_norm:g}, {found.noise} noise, multiplier {found.noise_multiplier:.4f}",
        *_placement_line(found),
        *_bound_line(found),
        f"  Poisson sampling rate {found.sampling_rate:g}, {found.steps_per_round} steps a round; PLD accountant",
        f"  in the same epsilon: {_loss_words(found)}",
        *(f"  not covered: {gap}" for gap in facts.not_covered),
    ]


def _loss_words(found: PrivacyFacts) -> str:
    return f"the loss, clip {found.loss_clip:g}, noise multiplier {found.loss_noise_multiplier:.4f}"


def _placement_line(found: PrivacyFacts) -> list[str]:
    if found.on_sum is None:
        return ["  noise: each site's own is enough"]
    alone = "not bounded" if found.on_sum.epsilon_alone is None else f"{found.on_sum.epsilon_alone:.3f}"
    shared = f"at least {found.on_sum.minimum_sum} sites, {found.on_sum.colluders} of which may collude"
    return [f"  noise ON THE SUM of {shared}; by a site's own share alone: epsilon {alone}"]


def _bound_line(found: PrivacyFacts) -> list[str]:
    if found.contribution_bound is None:
        return []
    most = found.contribution_bound
    return [f"  of each sampled patient the mean of at most {most} records, drawn anew in each step"]


def _bytes_lines(facts: Facts) -> list[str]:
    each = facts.update_bytes / facts.adapter.trained_parameters
    lines = [f"  {entry.site}: {entry.bytes_out:,} bytes in all" for entry in facts.sites if entry.sums]
    return [*lines, f"  words of the update and the loss, {each:.2f} bytes a trained parameter; shares, signatures"]


def _sum_lines(found: SumFacts | None) -> list[str]:
    if found is None:
        return ["  the coordinator: secure_sum=off, vectors were added up as they came"]
    return [
        "  nobody: vectors were masked (common/PROTOCOL.md); the coordinator opened their sums and nothing else",
        f"  holds while at most {found.corrupt_tolerance} of {found.members} sites work with the coordinator",
        f"  each sum holds at least {found.smallest_sum} sites, {found.minimum_honest} of them honest",
        f"  checked: {len(found.checked_by)} of {found.members} sites recomputed the adapter from the sums and signed",
        f"  charter sha256 {found.charter_sha256}",
    ]


def _round_line(entry: RoundFacts) -> str:
    if entry.vote is not None:
        return f"  {entry.round:3d}  {entry.vote.words}"
    if not entry.sites or entry.loss is None:
        return f"  {entry.round:3d}  {entry.reason}"
    lost = "".join(f", without {site} ({why})" for site, why in entry.lost.items())
    epsilon = "" if entry.epsilon is None else f"  epsilon {entry.epsilon:.2f}"
    held = entry.held_out_loss is None or entry.held_out_exact is None
    score = "" if held else f"  held-out loss {entry.held_out_loss:.3f} exact {entry.held_out_exact:.3f}"
    return f"  {entry.round:3d}  loss {entry.loss:.3f}{epsilon}{score}  {len(entry.sites)} sites{lost}"
