"""What can be done at the coordinator's dashboard, and what cannot."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dashboards import coordinator_dashboard
from visitor import Got, Visitor, Words

from partsong.common.config import PrivacyConfig
from partsong.common.deployment import CanaryConfig
from partsong.server.daemon.canary_job import CanaryJob
from partsong.server.daemon.deployed_run import all_runs

Make = Callable[..., Any]
MARK = re.compile(r'name="mark" value="([0-9a-f]{64})"')


@contextmanager
def looking(office: Any, daemon: Any = None) -> Iterator[Visitor]:
    """A browser that has logged in."""
    with coordinator_dashboard(office, daemon) as key:
        yield Visitor(key).log_in()


def ready(office: Any, name: str = "wards", **changes: Any) -> Path:
    """Lay a job where the dashboard looks."""
    office.home.jobs.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(office.job(**changes), office.home.jobs / name))


def mark_on(got: Got) -> str:
    found = MARK.search(got.text)
    assert found is not None, got.text
    return found[1]


def words(got: Got) -> str:
    return Words(got.text).text


def states(office: Any) -> list[str]:
    return [run.told().state for run in all_runs(office.home.runs)]


def test_a_job_is_looked_at_and_begun(office: Make) -> None:
    """The first page names it, its page says what it would do, and the run is of that job."""
    made = office()
    ready(made, study="wards")
    with looking(made) as visitor:
        first = words(visitor.page())
        asked = visitor.page("jobs/wards")

        begun = visitor.act("jobs/wards", sure="yes", mark=mark_on(asked))

        after = words(visitor.page())
    (run,) = all_runs(made.home.runs)
    assert "Begin wards" in first
    for part in ("rounds 3 of", "privacy NONE", "at least", "It is the first run of this study"):
        assert part in words(asked)
    assert (begun.status, begun.headers["location"]) == (303, f"{visitor.base}runs/{run.name}")
    assert (run.about().study, run.told().state) == ("wards", "waiting")
    assert run.name in after


def test_a_form_that_is_sent_twice_begins_one_run(office: Make) -> None:
    """The second one is told that a run was begun since; looked at again, the job can be begun again."""
    made = office()
    ready(made)
    with looking(made) as visitor:
        mark = mark_on(visitor.page("jobs/wards"))

        got = [visitor.act("jobs/wards", sure="yes", mark=mark) for _ in range(2)]
        runs = len(states(made))
        third = visitor.act("jobs/wards", sure="yes", mark=mark_on(visitor.page("jobs/wards")))

    assert [one.status for one in (*got, third)] == [303, 400, 303]
    assert "nothing was begun" in words(got[1])
    assert (runs, len(states(made))) == (1, 2)


@pytest.mark.parametrize("file", ["job.yaml", "base.json", "start.safetensors"])
def test_a_job_that_was_changed_after_it_was_shown_is_not_begun(office: Make, file: str) -> None:
    """In whichever of its files; a new file counts too."""
    made = office()
    folder = ready(made)
    with looking(made) as visitor:
        mark = mark_on(visitor.page("jobs/wards"))
        (folder / file).write_bytes((folder / file).read_bytes() + b"\n")

        got = visitor.act("jobs/wards", sure="yes", mark=mark)

    assert got.status == 400
    assert states(made) == []


def test_nothing_is_done_without_the_box_the_word_or_the_mark(office: Make) -> None:
    """A form by hand without either of them begins, stops and resumes nothing."""
    made = office()
    ready(made)
    daemon = made.daemon()
    waiting, stopped = daemon.submit(made.job()), daemon.submit(made.job())
    daemon.stop(stopped.name)
    before = states(made)
    with looking(made, daemon) as visitor:
        mark = mark_on(visitor.page("jobs/wards"))
        paths = {"jobs/wards": {"mark": mark}, f"runs/{waiting.name}/stop": {}, f"runs/{stopped.name}/resume": {}}

        bare = [visitor.act(path, **form) for path, form in paths.items()]
        unmarked = visitor.act("jobs/wards", sure="yes")
        nameless = [visitor.post(visitor.base + path, {**form, "sure": "yes"}) for path, form in paths.items()]
        foreign = [
            visitor.post(visitor.base + path, {**form, "sure": "yes", "word": visitor.word}, Origin="http://evil")
            for path, form in paths.items()
        ]
        outside = Visitor(visitor.key)
        strangers = [outside.post(visitor.base + path, {**form, "sure": "yes"}) for path, form in paths.items()]

    assert [one.status for one in (*bare, unmarked)] == [400] * 4
    assert [one.status for one in (*nameless, *foreign, *strangers)] == [403] * 9
    assert states(made) == before == ["waiting", "stopped"]


def test_a_run_is_stopped_and_resumed(office: Make) -> None:
    """Each after its page was seen; the run's page offers what fits its state."""
    made = office()
    daemon = made.daemon()
    run = daemon.submit(made.job())
    with looking(made, daemon) as visitor:
        offers = visitor.page(f"runs/{run.name}").text
        asked = words(visitor.page(f"runs/{run.name}/stop"))
        stopped = visitor.act(f"runs/{run.name}/stop", sure="yes")
        after = (run.told().state, visitor.page(f"runs/{run.name}").text)
        again = words(visitor.page(f"runs/{run.name}/resume"))
        resumed = visitor.act(f"runs/{run.name}/resume", sure="yes")
        last = run.told().state

    assert ("do-stop" in offers, "do-resume" in offers) == (True, False)
    assert "The run can be resumed" in asked
    assert "same plan: 3 rounds" in again
    assert [one.headers["location"] for one in (stopped, resumed)] == [f"{visitor.base}runs/{run.name}"] * 2
    assert after[0] == "stopped"
    assert ("do-stop" in after[1], "do-resume" in after[1]) == (False, True)
    assert last == "waiting"


def test_what_does_not_fit_the_state_of_a_run_is_neither_offered_nor_done(office: Make) -> None:
    """A finished run is not stopped, and not resumed, although the form is complete."""
    made = office()
    run = made.played(rounds=1)
    with looking(made) as visitor:
        pages = [words(visitor.page(f"runs/{run.name}/{deed}")) for deed in ("stop", "resume")]

        got = [visitor.act(f"runs/{run.name}/{deed}", sure="yes") for deed in ("stop", "resume")]

    assert "A run that is finished cannot be told to stop" in pages[0]
    assert "A run that is finished cannot be told to resume" in pages[1]
    assert [one.status for one in got] == [400, 400]
    assert states(made) == ["finished"]


def test_the_job_of_a_run_is_begun_anew_and_its_difference_shown(office: Make) -> None:
    """The same job says so; another job of the study names what is different, and no path of the base model."""
    made = office()
    run = made.played(rounds=1)
    ready(made, rounds=2, max_length=128)
    with looking(made) as visitor:
        same, other = visitor.page(f"runs/{run.name}/again"), words(visitor.page("jobs/wards"))

        begun = visitor.act(f"runs/{run.name}/again", sure="yes", mark=mark_on(same))

    assert "the same settings as in the newest run" in words(same)
    assert "rounds: 1 \N{RIGHTWARDS ARROW} 2" in other
    assert "max_length: 64 \N{RIGHTWARDS ARROW} 128" in other
    assert begun.status == 303
    assert states(made) == ["finished", "waiting"]


def test_a_job_that_the_charter_does_not_allow_says_why_and_has_no_button(office: Make) -> None:
    """Nor is there one before a charter, and the daemon refuses the form made by hand."""
    made = office()
    ready(made, expected_sites=("atlantis",))
    with looking(made) as visitor:
        got = visitor.page("jobs/wards")
        made.signed = None
        before = visitor.page("jobs/wards")
        by_hand = visitor.act("jobs/wards", sure="yes", mark="0" * 64)

    assert "expected_sites: found 'atlantis'" in words(got)
    assert "no charter that all sites have signed" in words(before)
    assert MARK.search(got.text + before.text) is None
    assert by_hand.status == 400
    assert states(made) == []


def test_a_canary_can_be_begun_from_its_job(office: Make) -> None:
    """It is a job as any other; a study of the same name that trains is of another kind."""
    made = office()
    made.home.jobs.mkdir(parents=True)
    CanaryJob(config=CanaryConfig(numbers=7)).write(made.home.jobs / "try")
    made.played(study="canary", rounds=1)
    with looking(made) as visitor:
        got = visitor.page("jobs/try")
        visitor.act("jobs/try", sure="yes", mark=mark_on(got))

    assert "trying the way, without records" in words(got)
    assert "was of another kind" in words(got)
    assert [run.is_canary for run in all_runs(made.home.runs)] == [False, True]


def test_a_canary_under_way_shows_its_phase_and_its_deadline(office: Make) -> None:
    """Although it has no settings of a training run; looked at from within its one round."""
    made, seen = office(), []
    CanaryJob(config=CanaryConfig(numbers=7)).write(made.folder / "try")
    daemon = made.daemon()
    run = daemon.submit(made.folder / "try")
    with looking(made, daemon) as visitor:

        def before(_site: str, phase: str, parcel: Any) -> Any:
            if phase == "open" and not seen:
                seen.append(visitor.page(f"runs/{run.name}"))
            return parcel

        made.hospitals.lines.before = before
        daemon.step("canaries")

    assert [one.status for one in seen] == [200]
    assert "this phase waits until" in words(seen[0])


def test_what_is_private_about_a_job_is_shown(office: Make) -> None:
    """Epsilon and delta as each site is asked to promise them."""
    made = office()
    ready(made, privacy=PrivacyConfig(mode="dp", epsilon=4.0, delta=1e-4, sampling_rate=0.1))

    with looking(made) as visitor:
        got = words(visitor.page("jobs/wards"))

    assert "epsilon 4 at delta 0.0001 planned at each site, for one record" in got


@pytest.mark.parametrize("name", ["..", "%2e%2e", "none", ".hidden", "a%2fb", "%00"])
def test_there_are_no_jobs_but_those_in_the_folder(office: Make, name: str) -> None:
    """Neither above it nor hidden in it."""
    made = office()
    shutil.copytree(ready(made), made.home.jobs / ".hidden")

    with looking(made) as visitor:
        got = [visitor.page(f"jobs/{name}").status, visitor.act(f"jobs/{name}", sure="yes", mark="0" * 64).status]

    assert set(got) <= {404, 405}
    assert states(made) == []
