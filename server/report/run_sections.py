"""The sections of a report that are about the run: trust, bytes, contributions, ledgers, scores, origin, signature."""

from __future__ import annotations

from partsong.common.identity.keys import fingerprint
from partsong.server.report import charts
from partsong.server.report.facts import Facts, RoundFacts, SumFacts
from partsong.server.report.page import Section, Table, names, pairs
from partsong.server.report.signed import SignedFacts


def summary(signed: SignedFacts) -> Section:
    """The one table for those who read one."""
    facts, found = signed.facts, signed.facts.privacy
    claim = (
        "none"
        if found is None
        else f"epsilon {found.epsilon:.3f} at delta {found.delta:g}, for one {found.unit} at each site"
    )
    sums = sum(bool(entry.sites) for entry in facts.rounds)
    kind = "simulation: one process played every site" if facts.simulated else "deployment"
    return Section(
        id="summary",
        title="At a glance",
        tables=(
            pairs(
                "Summary",
                ("run", facts.run),
                ("kind", kind),
                ("guarantee", claim),
                ("single updates", "readable by nobody" if facts.secure_sum else "readable by the coordinator"),
                ("sites in at least one sum", f"{len(facts.contributors)} of {len(facts.sites)}"),
                ("rounds with a sum", f"{sums} of {facts.planned_rounds} planned"),
                ("base model", facts.base.name),
                ("signed", _signed_words(signed)),
            ),
        ),
        points=facts.marks,
    )


def trust(facts: Facts) -> Section:
    """Who has to be trusted with what."""
    found = facts.secure_sum
    own = "each site trusts its own machine with its records, and the noise that it adds itself"
    if found is None:
        return Section(
            id="trust",
            title="Trust model",
            lead="Local noise where there is any, and no secure sum.",
            points=(own, "whoever runs the coordinator could read each site's update"),
        )
    table = pairs(
        "Secure sum",
        ("sites of the charter", str(found.members)),
        ("sites that may work with the coordinator", f"at most {found.corrupt_tolerance}"),
        ("fewest sites in a sum", str(found.smallest_sum)),
        ("fewest of them honest", str(found.minimum_honest)),
        *((f"group {place}, with sums of its own", names(group)) for place, group in enumerate(facts.groups, start=1)),
        ("sites that checked the adapter and signed", f"{len(found.checked_by)}: {names(found.checked_by)}"),
        ("charter", f"sha256 {found.charter_sha256}"),
    )
    return Section(
        id="trust",
        title="Trust model",
        lead=f"{_where(facts)} and a secure sum: the coordinator opens sums of updates and no single one.",
        tables=(table,),
        points=(
            own,
            *_needed(facts),
            _assumed(found),
            "for the run to end well, the coordinator and enough sites are trusted to go on",
        ),
    )


def _where(facts: Facts) -> str:
    return "Local noise" if facts.privacy is None or facts.privacy.on_sum is None else "Noise on the sum"


def _needed(facts: Facts) -> tuple[str, ...]:
    if facts.privacy is None:
        return ()
    if (shared := facts.privacy.on_sum) is not None:
        trusted = f"all but {shared.colluders} of the {shared.minimum_sum} or more sites of a sum are trusted"
        return (f"for the guarantee above {trusted} to add their shares of the noise and to keep them to themselves",)
    return ("for the guarantee above nobody else is trusted: it holds against the coordinator and all other sites",)


def _assumed(found: SumFacts) -> str:
    few = f"at most {found.corrupt_tolerance} of {found.members} sites work with the coordinator"
    return f"for the secrecy of single updates: {few}, and the algorithms of common/PROTOCOL.md hold"


def left(facts: Facts) -> Section:
    """Kinds and bytes."""
    kinds = Table(
        caption="Kinds",
        head=("what", "when", "holds", "readable by"),
        rows=tuple((kind.what, kind.when, kind.holds, kind.readable_by) for kind in facts.leaving),
    )
    sizes = Table(
        caption="Bytes that the coordinator counted in rounds whose sum the site is in",
        head=("site", "rounds", "bytes in all", "of these, words of reports"),
        rows=tuple((s.site, str(s.sums), f"{s.bytes_out:,}", f"{s.sums * facts.update_bytes:,}") for s in facts.sites),
    )
    each = facts.update_bytes / facts.adapter.trained_parameters
    return Section(
        id="left",
        title="What left each site",
        lead=f"Records never leave. A report holds {facts.update_bytes:,} bytes of words, {each:.2f} for each of "
        f"{facts.adapter.trained_parameters:,} trained parameters.",
        tables=(kinds, sizes),
    )


def rounds(facts: Facts) -> Section:
    """Who contributed to which round."""
    drawn = (charts.loss(facts), charts.contributions(facts))
    return Section(
        id="rounds",
        title="Rounds and contributions",
        tables=(
            Table(
                caption="Rounds",
                head=("round", "in the sum", "not in the sum", "loss", "epsilon so far"),
                rows=tuple(map(_round_row, facts.rounds)),
            ),
        ),
        charts=tuple(chart for chart in drawn if chart is not None),
    )


def _round_row(entry: RoundFacts) -> tuple[str, ...]:
    lost = tuple(f"{site} ({why})" for site, why in entry.lost.items())
    return (
        str(entry.round),
        names(entry.sites) if entry.sites else f"no sum ({entry.reason})",
        names(lost),
        _outcome(entry),
        "none" if entry.epsilon is None else f"{entry.epsilon:.3f}",
    )


def _outcome(entry: RoundFacts) -> str:
    if entry.vote is not None:
        return entry.vote.words
    return "none" if entry.loss is None else f"{entry.loss:.3f}"


def ledgers(facts: Facts) -> Section:
    """Heads of the ledgers, where they are known."""
    return Section(
        id="ledgers",
        title="Ledgers",
        lead="Each site keeps its own ledger of what was spent on its records; entries and balances stay there. A head "
        "is the digest of its newest entry when the run was published.",
        tables=(
            Table(
                caption="Ledger heads",
                head=("site", "head"),
                rows=tuple(
                    (s.site, s.ledger_head or "known to the site alone: partsong site ledger verify")
                    for s in facts.sites
                ),
            ),
        ),
    )


def origin(signed: SignedFacts) -> Section:
    """Digests and versions."""
    facts = signed.facts
    adapter, charter = facts.adapter, facts.charter
    exact = "exact average" if adapter.exact else "averaged factors, not exact"
    if facts.groups:
        exact = f"each step the median of {len(facts.groups)} groups' averages"
    agreed = () if charter is None else (("charter", f"{charter.consortium}, version {charter.version}"),)
    return Section(
        id="origin",
        title="Origin",
        tables=(
            pairs(
                "What went in",
                ("base model", f"{facts.base.name}, sha256 {facts.base.sha256}"),
                ("task", adapter.task),
                ("method", f"{adapter.method} ({exact}; {adapter.source})"),
                ("plan", f"sha256 {facts.plan_sha256}"),
                ("configuration", f"sha256 {facts.config_sha256}"),
                ("adapter, trained part", f"sha256 {adapter.sha256}"),
                *agreed,
            ),
            Table(caption="Published files", head=("file", "sha256"), rows=tuple(signed.files.items())),
            Table(
                caption="Software at the coordinator", head=("package", "version"), rows=tuple(facts.versions.items())
            ),
        ),
    )


def signature(signed: SignedFacts) -> Section:
    """Who vouches for it, and how to check that."""
    found, charter = signed.signature, signed.facts.charter
    if found is None or charter is None:
        return Section(
            id="signature", title="Signature", lead="Nobody signed this run: it was unmasked and had no charter."
        )
    return Section(
        id="signature",
        title="Signature",
        lead="The coordinator signed these facts and the published files. Compare its fingerprint with the one that "
        "your site was given, then check the run's files.",
        tables=(
            pairs(
                "Signature of the facts",
                ("fingerprint of the coordinator", fingerprint(bytes.fromhex(found.key))),
                ("signature", found.value),
                ("check", f"partsong verify RUN --charter {charter.sha256}"),
            ),
        ),
    )


def _signed_words(signed: SignedFacts) -> str:
    return "by nobody" if signed.signature is None else "by the coordinator, see signature"
