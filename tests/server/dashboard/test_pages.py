"""What a coordinator's dashboard shows of its sites and runs."""

import base64
import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from dashboards import coordinator_dashboard
from office import NAMES, Office
from visitor import Visitor, Words

from partsong.common import wire
from partsong.common.build import to_tree
from partsong.common.dashboard.pages import NotThere, trouble_of
from partsong.common.errors import DataError, PartsongError, Refused, TryAgain
from partsong.common.files import write_json
from partsong.server.daemon.deployed_run import DeployedRun
from partsong.server.dashboard.refusals import LOST, MEANINGS, meaning_of
from partsong.server.questions.answer import Answer
from partsong.server.questions.figures import Figure
from partsong.server.questions.signed import SignedAnswer
from partsong.server.report.command import report
from partsong.server.rounds import Loss

Make = Callable[..., Any]
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}<img src=http://evil/x>"


@dataclass(frozen=True)
class Finished:
    """A finished run, and a browser that has logged in where it is shown."""

    office: Office
    run: DeployedRun
    visitor: Visitor

    @property
    def page(self) -> str:
        return f"runs/{self.run.name}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, make_masked_plan: Make, make_dp: Make) -> Iterator[Finished]:
    """Of one round; plan and rounds are then written as if nine had been private, with losses that go up and down."""
    office = Office(tmp_path_factory.mktemp("office"), make_masked_plan())
    run = office.played(rounds=1)
    (played,) = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    run.rewrite_metrics([played | {"round": n, "loss": 2.0 + 0.5 * (n % 2), "epsilon": 0.5 * n} for n in range(1, 10)])
    plan = run.read_plan()
    dp = make_dp(sampling_rate=plan.sampling_rate)
    write_json(run.plan, to_tree(dataclasses.replace(plan, rounds=9, dp=dp)))
    with looking(office) as visitor:
        yield Finished(office, run, visitor)


@contextmanager
def looking(office: Any, **more: Any) -> Iterator[Visitor]:
    """A browser that has logged in."""
    with coordinator_dashboard(office, **more) as key:
        yield Visitor(key).log_in()


def words_of(visitor: Visitor, path: str = "") -> str:
    got = visitor.page(path)
    assert got.status == 200, got.text
    return Words(got.text).text


def test_the_first_page_shows_sites_runs_and_what_is_missing(office: Make) -> None:
    """Before any run, and with one; a site that is away is named."""
    made = office()
    made.hospitals.there.remove("c")
    with looking(made) as visitor:
        before = words_of(visitor)
        run = made.played(rounds=1)
        after = words_of(visitor)
        made.signed = None
        without_charter = words_of(visitor)

    assert "running; 4 of 5 sites connected" in before
    assert "c not connected" in before
    assert "No run yet" in before
    assert f"{run.name} finished 1 of 1" in after
    assert "no charter that all sites have signed" in without_charter


def test_a_finished_run_shows_rounds_sites_bytes_and_results(finished: Finished) -> None:
    """As they stand in the run's own files; losses that differ by 0.5 have a margin of the root of 1/2."""
    history = [json.loads(line) for line in finished.run.metrics.read_text().splitlines()]

    page = finished.visitor.page(finished.page)

    words = Words(page.text).text
    assert "finished, round 1 of 9" in words
    assert "epsilon 8 at delta 0.0001 planned at each site, for one record" in words
    for entry in history:
        total = sum(entry["bytes_out"].values())
        loss = f"{entry['loss']:.3f} \N{PLUS-MINUS SIGN} 0.707"
        assert f"{entry['round']} 5 {loss} {entry['epsilon']:.3f} {total:,}" in words
    for site in NAMES:
        assert f"{site} reported 9 {sum(entry['bytes_out'][site] for entry in history):,} stored there" in words
    assert [found["id"] for tag, found in Words(page.text).tags if tag == "desc"] == [
        "chart-loss-words", "chart-budget-words", "chart-sites-words",
    ]  # fmt: skip
    assert 'class="band"' in page.text


def test_report_and_adapter_come_as_files_to_keep(finished: Finished) -> None:
    """The report is the one that `partsong report` writes, the adapter's files are the published ones."""
    run, look = finished.run, finished.visitor.page

    reports = {form: look(f"{finished.page}/report/{form}") for form in ("html", "md", "json")}
    files = {name: look(f"{finished.page}/adapter/{name}") for name in get_args(wire.AdapterFile)}

    assert reports["html"].text == report(run.path, form="html")
    assert json.loads(reports["json"].text)["facts"]["run"] == run.name
    assert all("attachment" in got.headers["content-disposition"] for got in (*reports.values(), *files.values()))
    assert {name: got.body for name, got in files.items()} == {
        name: (run.adapter / name).read_bytes() for name in get_args(wire.AdapterFile)
    }
    links = [found["href"] or "" for tag, found in Words(look(finished.page).text).tags if "download" in found]
    assert sum(f"{finished.page}/" in link for link in links) == len(reports) + len(files)


@pytest.mark.parametrize(
    "path",
    [
        "runs/none", "runs/..", "runs/%2e%2e%2fjob", "{run}/report/pdf", "{run}/adapter/none", "{run}/plan.json",
        "{run}/adapter/..%2fplan.json", "{run}/adapter/%2fetc%2fpasswd", "runs/", "x",
    ],
)  # fmt: skip
def test_there_is_nothing_beside_what_is_linked(finished: Finished, path: str) -> None:
    """Neither another file of a run nor anything outside of the folder of runs."""

    got = finished.visitor.page(path.format(run=finished.page))

    assert got.status == 404
    assert b"root:" not in got.body


def test_a_run_under_way_shows_its_phase_its_deadline_and_who_is_lost(office: Make) -> None:
    """Looked at from within each phase of its second round."""
    made = office()
    seen: dict[str, str] = {}
    with looking(made) as visitor:

        def before(site: str, phase: str, parcel: Any) -> Any:
            if phase in ("open", "roster", "confirm", "unmask") and len(made.hospitals.lines.asked) > 45:
                (name,) = [path.name for path in made.home.runs.iterdir() if not path.name.startswith(".")]
                seen.setdefault(phase, visitor.page(f"runs/{name}").text)
            return Loss.SILENT if (site, phase) == ("d", "roster") else parcel

        made.hospitals.lines.before = before
        made.played(rounds=2)

    now = {phase: Words(text) for phase, text in seen.items()}
    assert set(now) == {"open", "roster", "confirm", "unmask"}
    for phase, shown in {"open": "ready", "roster": "report", "confirm": "confirm", "unmask": "unmask"}.items():
        assert f'<li aria-current="step">{shown}</li>' in seen[phase]
        assert "this phase waits until" in now[phase].text
        assert "d lost" in now[phase].text
        assert "Report and adapter are here once the run has finished" in now[phase].text


def test_a_refusal_is_shown_with_whose_rule_it_is_and_what_to_do(office: Make) -> None:
    """For each code of the public list; the run's own reason stands above it."""
    made = office()
    made.hospitals.refusals = {"a": "budget", "b": "policy", "c": "model"}
    daemon = made.daemon()
    run = daemon.submit(made.job())
    daemon.step()

    with looking(made, daemon=daemon) as visitor:
        words = words_of(visitor, f"runs/{run.name}")

    assert words.count("What to do:") == 3
    for site, code in made.hospitals.refusals.items():
        assert f"{site} ({code}): {MEANINGS[code].rule}. What to do: {MEANINGS[code].remedy}." in " ".join(
            words.replace(" )", ")").replace("  ", " ").replace(" (", " (").split()
        )
    assert "failed, round 0 of 3" in words


def test_every_code_and_every_loss_has_words() -> None:
    """Those that the wire knows, and no other; an unknown one is said to be."""

    assert set(MEANINGS) == set(get_args(wire.RefusalCode))
    assert set(LOST) == {loss.value for loss in Loss}
    assert "does not know" in meaning_of("new").rule


def test_hostile_names_are_text(office: Make) -> None:
    """Of a consortium, a study, and in the reason of a failure."""
    made = office()
    run = made.played(study=HOSTILE, rounds=1)
    run.tell("failed", reason=HOSTILE)

    with looking(made, consortium=HOSTILE) as visitor:
        pages = [visitor.page(path).text for path in ("", f"runs/{run.name}")]

    for text in pages:
        tags = [
            tag
            for tag, found in Words(text).tags
            if tag == "script" and not (found.get("src") or "").startswith("/static/")
        ]
        assert not tags
        assert "img" not in [tag for tag, _ in Words(text).tags]
        assert HOSTILE.replace("http://evil/x", "") in Words(text).text.replace("http://evil/x", "")
        assert "49" not in Words(text).text.partition("alert(1)")[2][:60]


def test_no_path_of_this_machine_is_shown(office: Make, tmp_path: Path) -> None:
    """Although a run's reason names files; the control finds it in the file."""
    made = office()
    run = made.played(rounds=1)
    run.tell("failed", reason=f"{run.plan}: found no plan that can be read")

    with looking(made) as visitor:
        pages = [visitor.page(path).text for path in ("", f"runs/{run.name}")]
        run.plan.write_text("{")
        pages += [visitor.page(path).text for path in ("", f"runs/{run.name}")]

    assert str(tmp_path) in run.told().reason
    assert not any(str(tmp_path) in page or str(tmp_path.name) in page for page in pages)
    assert "plan.json: found no plan that can be read" in Words(pages[1]).text


def test_a_page_that_fails_says_so_without_saying_why(office: Make) -> None:
    """A damaged run costs its page, not the daemon; other pages go on."""
    made = office()
    run = made.played(rounds=1)
    run.metrics.write_text('{"round": "fracture of the left wrist"}\n')

    with looking(made) as visitor:
        broken, static = visitor.page(f"runs/{run.name}"), visitor.ask("/static/dashboard.css")

    assert broken.status == 400
    assert "wrist" not in broken.text
    assert static.status == 200


def test_figures_of_a_question_are_shown_with_their_intervals(finished: Finished) -> None:
    """From the run's own file; one that says nothing shows no value, a damaged file costs the page."""
    file, figures = finished.run.path / "answer.json", (
        Figure(name="accuracy", value=0.8125, low=0.75, high=0.875, about="share of units"),
        Figure(name="macro_f1", value=None, low=0.0, high=1.0, about="mean over classes"),
    )  # fmt: skip
    answer = Answer(
        study="evaluate", adapter_sha256="", sites=(), level=0.95, unit="record", epsilon=None, delta=None,
        figures=figures, tables={}, noise_sd={},
    )  # fmt: skip
    unsigned = SignedAnswer(
        run="r", base="b", marks=(), plan_sha256="", charter_sha256=None, answer=answer, signature=None
    )
    file.write_bytes(unsigned.to_bytes())

    words, kept = words_of(finished.visitor, finished.page), finished.visitor.page(f"{finished.page}/answer")
    file.write_text(json.dumps({"figures": [{"name": "accuracy"}]}))
    damaged, not_given = (finished.visitor.page(f"{finished.page}{rest}") for rest in ("", "/answer"))
    file.unlink()

    assert "accuracy 0.8125 0.75 to 0.875 share of units macro_f1 ? 0 to 1 mean over classes" in words
    assert (damaged.status, not_given.status) == (400, 400)
    assert kept.body == unsigned.to_bytes()
    assert f'filename="{finished.run.name}-answer.json"' in kept.headers["content-disposition"]
    assert finished.visitor.page(f"{finished.page}/answer").status == 404
    assert "What the sites were asked" not in words_of(finished.visitor, finished.page)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (NotThere("run"), 404, "run: none of this name"),
        (Refused("rule_stands", reason="so it is", remedy="ask"), 403, "refused by rule rule_stands: so it is"),
        (DataError("/srv/hub/runs/a/plan.json", found="x", expected="y"), 400, "plan.json: found x, expected y"),
        (TryAgain("no space in /srv/hub"), 503, "no space in hub"),
        (PartsongError("at /srv/hub/x"), 500, "at x"),
        (KeyError("fracture"), 500, "this page failed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_brought_into_words_for_a_page(error: Exception, status: int, words: str) -> None:
    """Ours without its paths; of a foreign one only that it happened."""

    trouble = trouble_of(error)

    assert (trouble.status, trouble.words) == (status, words)


def test_no_key_and_nothing_of_a_single_site_is_on_a_page(finished: Finished) -> None:
    """The coordinator's and the sites' keys, every sealed vector; the control finds a planted one."""
    made = finished.office.hospitals.made
    secrets = [made.consortium.coordinator.secret_bytes(), *(key.secret_bytes() for key in made.consortium.identities)]
    secrets += [words.tobytes() for words in made.sealed.values()]

    pages = b"".join(finished.visitor.page(path).body for path in ("", finished.page))

    assert len(secrets) == 1 + 5 + 5
    assert not found_in(pages, secrets)
    assert found_in(pages + secrets[0].hex().encode(), secrets) == [secrets[0]]


def found_in(hay: bytes, secrets: list[bytes]) -> list[bytes]:
    """Those of which the first 12 bytes are there, as they are, in hex or in base64."""
    forms = {secret: (secret[:12], secret[:12].hex().encode(), base64.b64encode(secret[:12])) for secret in secrets}
    return [secret for secret, shapes in forms.items() if any(shape in hay for shape in shapes)]
