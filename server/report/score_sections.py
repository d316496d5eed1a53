"""The sections of a report that are about how good an adapter is, and on what records: scores, surveys, benefit."""

from __future__ import annotations

from partsong.server.questions.figures import Figure
from partsong.server.report.benefit_plot import benefit_plots
from partsong.server.report.beside import ARMS, AnswerFacts, Benefit
from partsong.server.report.facts import Facts
from partsong.server.report.page import Section, Table, pairs

_FIGURE_HEAD = ("figure", "value", "interval", "what it is")
_SIGNED_APART = "It has a signature of its own; partsong verify over that run checks the sum behind it."


def evaluation(facts: Facts, answers: tuple[AnswerFacts, ...]) -> Section:
    """Scores on test records: those that sites answered under privacy, and those that a simulator took."""
    section, title = "evaluation", "Evaluation"
    asked = tuple(answer for answer in answers if answer.study == "evaluate")
    tables = tuple(table for answer in asked for table in _answer_tables(answer, by="group"))
    held = _held_out(facts)
    if not asked and not held:
        return Section(
            id=section,
            title=title,
            lead="Nobody scored this adapter on held-out records. An evaluation asks the sites for noised counts, and "
            "is shown here with --answer.",
        )
    points = ("Scores after a round are the simulator's own, of the held-out records it has; exact, without interval.",)
    return Section(
        id=section,
        title=title,
        lead=f"What the sites answered about this adapter, on test records of their own. {_SIGNED_APART}"
        if asked
        else "",
        tables=tables + held,
        points=points if held else (),
    )


def survey(answers: tuple[AnswerFacts, ...]) -> Section:
    """What the records look like, where sites were asked."""
    asked = tuple(answer for answer in answers if answer.study == "survey")
    if not asked:
        return Section(id="survey", title="Records", lead="No survey of the sites' records was given with this report.")
    return Section(
        id="survey",
        title="Records",
        lead=f"What the sites answered about their records, noise included. {_SIGNED_APART}",
        tables=tuple(table for answer in asked for table in _answer_tables(answer, by="column")),
    )


def benefit(found: tuple[Benefit, ...]) -> Section:
    """What each site got out of taking part, where it said so."""
    section, title = "benefit", "Benefit for each site"
    if not found:
        return Section(
            id=section,
            title=title,
            lead="No site handed on what it gained. Each can find out alone: partsong site compare.",
        )
    return Section(
        id=section,
        title=title,
        lead="As these sites say themselves, on test records of their own. The figures are exact: no epsilon covers "
        "them, and a site hands them on by its own choice.",
        tables=(
            Table(
                caption="Loss, and share of right answers",
                head=("site", *ARMS.values(), "joint adapter against alone"),
                rows=tuple(map(_benefit_row, found)),
            ),
            Table(
                caption="Files that they handed on",
                head=("site", "sha256"),
                rows=tuple((one.site, one.sha256) for one in found),
            ),
        ),
        plots=benefit_plots(found),
    )


def _benefit_row(found: Benefit) -> tuple[str, ...]:
    arms = {arm.name: arm for arm in found.arms}
    cells = [f"{arms[name].loss:.3f}, {arms[name].right:.1%}" if name in arms else "" for name in ARMS]
    alone = arms.get("alone")
    gain = "" if alone is None else f"{arms['joint'].loss - alone.loss:+.3f}, {arms['joint'].right - alone.right:+.1%}"
    return found.site, *cells, gain


def _held_out(facts: Facts) -> tuple[Table, ...]:
    rows = tuple(
        (str(entry.round), f"{entry.held_out_loss:.3f}", f"{entry.held_out_exact:.3f}")
        for entry in facts.rounds
        if entry.held_out_loss is not None and entry.held_out_exact is not None
    )
    return (
        (Table(caption="Held-out records", head=("after round", "loss", "exact answers"), rows=rows),) if rows else ()
    )


def _answer_tables(answer: AnswerFacts, *, by: str) -> tuple[Table, ...]:
    """One table of what it cost, one of figures of all records, one of figures of each group or column."""
    cost = "NO differential privacy"
    if answer.epsilon is not None and answer.delta is not None:
        spent = f"epsilon {answer.epsilon:.4g} at delta {answer.delta:g}"
        cost = f"{spent} for one {answer.unit} at each site, beside the run's"
    about = pairs(
        f"Question of run {answer.run}",
        ("answered by", f"{len(answer.sites)} sites: {', '.join(answer.sites)}"),
        ("cost", cost),
        ("intervals", f"{answer.level:.0%}, noise and draw of the records included, each by itself"),
        ("file", f"sha256 {answer.sha256}"),
    )
    whole = tuple(_figure_row(one) for one in answer.figures if "[" not in one.name)
    parts = tuple(_figure_row(one) for one in answer.figures if "[" in one.name)
    return (
        about,
        Table(caption=f"All records, run {answer.run}", head=_FIGURE_HEAD, rows=whole),
        *([Table(caption=f"By {by}, run {answer.run}", head=_FIGURE_HEAD, rows=parts)] if parts else []),
    )


def _figure_row(found: Figure) -> tuple[str, ...]:
    value = "lost in its noise" if found.value is None else f"{found.value:.4g}"
    bounded = found.low is not None and found.high is not None
    return found.name, value, f"{found.low:.4g} to {found.high:.4g}" if bounded else "none", found.about
