"""HTML and Markdown of a report: whole, escaped, reaching for nothing outside, and with the same numbers."""

import base64
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from partsong.server.report.beside import Beside
from partsong.server.report.compose import page_of
from partsong.server.report.drafts import drafts_of
from partsong.server.report.facts import Facts
from partsong.server.report.render import escape, to_html, to_json, to_markdown
from partsong.server.report.signed import SignedFacts

Sign = Callable[[Facts], SignedFacts]
VOID = {"meta", "line", "polyline", "circle", "br"}
LINK = re.compile(r"(?<!\\)\]\(")
HOSTILE = "<script>alert(1)</script> [x](javascript:y) | **b** `c` &amp; \"q' ![i](http://evil/x)"


class Read(HTMLParser):
    """Elements in order, with what is wrong about their nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(params=["facts", "not_private"])
def signed(request: pytest.FixtureRequest, sign: Sign) -> SignedFacts:
    """A private deployment, and a simulation without anything."""
    return sign(request.getfixturevalue(request.param))


@pytest.fixture
def hostile(facts: Facts, sign: Sign) -> SignedFacts:
    """Facts whose names and reasons are markup; such names do not reach real ones."""
    rounds = (
        dataclasses.replace(facts.rounds[0], sites=(HOSTILE, "graz"), lost={HOSTILE: HOSTILE}),
        dataclasses.replace(facts.rounds[1], sites=(), reason=HOSTILE, loss=None),
    )
    sites = tuple(dataclasses.replace(s, site=f"{HOSTILE}{s.site}", refused=HOSTILE) for s in facts.sites)
    base = dataclasses.replace(facts.base, name=HOSTILE)
    return sign(dataclasses.replace(facts, run=HOSTILE, marks=(HOSTILE,), rounds=rounds, sites=sites, base=base))


def test_the_page_is_well_formed_and_labelled(signed: SignedFacts) -> None:
    """Every element is closed, headings go down one by one, tables have captions and headers, links have targets."""
    page = Read(to_html(page_of(signed, beside=Beside())))

    levels = [int(name[1]) for name, _ in page.found if re.fullmatch(r"h[1-6]", name)]
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert (page.wrong, page.open) == ([], [])
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption")) > 5
    assert all(th["scope"] in ("col", "row") for th in page.all("th"))
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} <= {f"#{name}" for name in ids}
    assert [page.all("html")[0]["lang"], len(page.all("main")), len(page.all("nav"))] == ["en", 1, 1]
    assert all(svg["role"] == "img" and svg["aria-labelledby"] for svg in page.all("svg"))
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in page.all("div"))


def test_each_row_has_a_header_and_as_many_cells_as_the_table(signed: SignedFacts) -> None:
    """A screen reader names every cell by its row and its column."""
    html = to_html(page_of(signed, beside=Beside()))

    for table in re.findall(r"<table>.*?</table>", html, re.DOTALL):
        columns = len(re.findall(r'<th scope="col">', table))
        for row in re.findall(r'<tr>(<th scope="row">.*?)</tr>', table):
            assert row.count('<th scope="row">') == 1
            assert 1 + row.count("<td>") == columns


def test_the_page_reaches_for_nothing(signed: SignedFacts) -> None:
    """No script, no style beside the one whose hash the policy names, nothing that is loaded from anywhere."""
    html = to_html(page_of(signed, beside=Beside()))

    page, style = Read(html), re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    policy = {m.get("http-equiv"): m.get("content") for m in page.all("meta")}["Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    names = {name for name, _ in page.found}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "use", "image"}
    attributes = {name for _, found in page.found for name in found}
    assert not attributes & {"src", "style", "srcset", "action", "data"}
    assert not [name for name in attributes if name.startswith("on")]
    assert "@import" not in style[1]
    assert "url(" not in style[1]
    assert "http://" not in html
    assert "https://" not in html


def test_markup_in_names_stays_text(hostile: SignedFacts) -> None:
    """In HTML it is seen as it is; in Markdown and the drafts no part of it is markup."""
    page = page_of(hostile, beside=Beside())

    html, markdown = to_html(page), to_markdown(page)
    texts = [markdown, *drafts_of(hostile.facts).values()]

    assert not Read(html).all("script")
    assert Read(html).wrong == []
    assert HOSTILE in "".join(Read(html).words)
    for text in texts:
        assert "<script" not in text
        assert not LINK.search(text)
        assert "**b**" not in text
        assert escape(HOSTILE) in text


def test_escaping_can_fail() -> None:
    """The same checks find markup that is not escaped."""
    raw = f"<p>{HOSTILE}</p>"

    assert Read(raw).all("script")
    assert "<script" in raw
    assert LINK.search(raw)


def test_every_row_of_markdown_has_its_columns(hostile: SignedFacts) -> None:
    """A bar in a name does not begin a cell, and a line break does not end the row."""
    found = dataclasses.replace(hostile.facts, run="a\nb | c")
    page = page_of(dataclasses.replace(hostile, facts=found), beside=Beside())

    blocks = re.findall(r"(?:^\|.*\n)+", to_markdown(page), re.MULTILINE)

    assert len(blocks) == sum(len(section.tables) for section in page.sections)
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_markdown_and_html_show_the_same(signed: SignedFacts) -> None:
    """Every cell and point of one is in the other, and the numbers are those of the facts."""
    page = page_of(signed, beside=Beside())

    html, markdown = to_html(page), to_markdown(page)

    seen = "".join(Read(html).words)
    cells = [cell for section in page.sections for table in section.tables for row in table.rows for cell in row]
    points = [point for section in page.sections for point in section.points]
    for word in (*cells, *points, *(section.title for section in page.sections)):
        assert word in seen
        assert escape(word) in markdown
    if (privacy := signed.facts.privacy) is not None:
        for number in (privacy.epsilon, privacy.epsilon_at_two_sites):
            assert f"{number:.3f}" in seen
            assert f"{number:.3f}" in markdown


def test_the_most_accurate_guess_follows_from_epsilon_and_delta(facts: Facts, sign: Sign) -> None:
    """At epsilon 0 it is chance, at epsilon ln 3 three in four, at 20 certainty but for what rounding hides."""
    shown = []
    for epsilon in (0.0, 1.0986122886681098, 20.0):
        assert facts.privacy is not None
        changed = dataclasses.replace(facts.privacy, epsilon=epsilon, delta=1e-9)
        found = to_markdown(page_of(sign(dataclasses.replace(facts, privacy=changed)), beside=Beside()))
        shown += re.findall(r"right in at most ([\d.]+%)", found)

    assert shown == ["50.00%", "75.00%", "100.00%"]


def test_json_is_what_was_signed(signed: SignedFacts) -> None:
    """And what stands beside it, nothing here."""
    found: dict[str, Any] = json.loads(to_json(signed, beside=Beside()))

    assert (found.pop("audit"), found.pop("answers"), found.pop("benefits")) == (None, [], [])
    assert found == json.loads(signed.to_bytes())


def test_drafts_are_filled_and_say_what_is_missing(signed: SignedFacts) -> None:
    """Each names the run and has gaps; a missing guarantee is said and not left out."""
    found = drafts_of(signed.facts)

    assert sorted(found) == ["dpia.md", "eu-ai-act-annex-iv.md", "security-questions.md"]
    for text in found.values():
        assert escape(signed.facts.run) in text
        assert text.count("**GAP:**") >= 4
        assert all(line == line.rstrip() for line in text.splitlines())
        assert "{" not in text
    assert ("Differential privacy: NONE" in found["dpia.md"]) is (signed.facts.privacy is None)
    assert ("Whoever runs the coordinator" in found["security-questions.md"]) is (signed.facts.secure_sum is None)
