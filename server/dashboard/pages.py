"""The pages of the coordinator's dashboard that only show; what can be done stands in `deeds`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from partsong.common.control.surfaces import RunStatus
from partsong.common.dashboard.pages import Answer, Asked, Dashboard, NotThere, Sent, Shown, View
from partsong.common.errors import InputError
from partsong.common.plain_text import without_paths
from partsong.server import report
from partsong.server.daemon.deployed_run import OPEN_STATES, DeployedRun, find_run
from partsong.server.dashboard import answers
from partsong.server.dashboard.deeds import AGAIN, Deeds, Office
from partsong.server.dashboard.jobs import names_of_jobs
from partsong.server.dashboard.run_view import ADAPTER_FILES, ROUND_HEAD, SITE_HEAD, view_of
from partsong.server.questions.signed import ANSWER, read_answer
from partsong.server.report import charts, command

TEMPLATES = (Path(__file__).parent / "templates", Path(report.__file__).parent / "templates")
_FORMS: Mapping[str, tuple[Literal["html", "md", "json"], str]] = {
    "html": ("html", "text/html; charset=utf-8"),
    "md": ("md", "text/markdown; charset=utf-8"),
    "json": ("json", "application/json"),
}
_BINARY = "application/octet-stream"


def board_of(office: Office, *, consortium: str) -> Dashboard:
    """Make the coordinator's dashboard.

    Args:
        office: the daemon and its folders.
        consortium: its name.
    """
    pages = _Pages(office)
    return Dashboard(
        who=consortium,
        side="coordinator",
        links=(("", "Sites and runs"),),
        views=(
            View(path="", answer=pages.first),
            View(path="runs/{run}", answer=pages.run),
            View(path="runs/{run}/report/{form}", answer=pages.report),
            View(path="runs/{run}/adapter/{file}", answer=pages.adapter),
            View(path="runs/{run}/answer", answer=pages.answer),
            *Deeds(office).views(),
        ),
        templates=TEMPLATES,
        feed=office.control.feed,
    )


class _Pages:
    """Answers from the daemon and from the files of its runs."""

    def __init__(self, office: Office) -> None:
        self._control, self._runs, self._jobs = office.control, office.runs, office.jobs

    def first(self, _asked: Asked) -> Answer:
        """Sites and their state, the run that is under way, and every run before it."""
        status, runs = self._control.status(), self._control.runs()
        now = next((run for run in reversed(runs) if run.state == "running"), None)
        return Shown(
            template="first.html.j2",
            title="Sites and runs",
            values={
                "status": status,
                "sites": [_site_row(site, site in status.connected, now) for site in status.members],
                "now": now,
                "runs": [(run, without_paths(run.reason)) for run in reversed(runs)],
                "jobs": names_of_jobs(self._jobs),
            },
        )

    def run(self, asked: Asked) -> Answer:
        """One run."""
        found = view_of(self._found(asked))
        values = {
            "run": found,
            "grid": charts,
            "site_head": SITE_HEAD,
            "round_head": ROUND_HEAD,
            "answer_head": answers.HEAD,
            "forms": _FORMS,
            "can_stop": found.status.state in OPEN_STATES,
            "can_resume": found.status.state in AGAIN,
        }
        return Shown(template="run.html.j2", title=f"Run {found.name}", values=values)

    def report(self, asked: Asked) -> Answer:
        """The privacy report of a finished run, to keep."""
        run = self._found(asked)
        if asked.names["form"] not in _FORMS:
            raise NotThere("report")
        form, media_type = _FORMS[asked.names["form"]]
        text = command.report(run.path, form=form)
        return Sent(name=f"{run.name}-report.{form}", media_type=media_type, body=text.encode())

    def answer(self, asked: Asked) -> Answer:
        """What the sites answered to a question, with its signature, to keep."""
        run = self._found(asked)
        file = run.path / ANSWER
        if not file.is_file():
            raise NotThere("answer")
        body = read_answer(file).to_bytes()
        return Sent(name=f"{run.name}-{ANSWER}", media_type="application/json", body=body)

    def adapter(self, asked: Asked) -> Answer:
        """One file of the finished adapter, to keep."""
        run, name = self._found(asked), asked.names["file"]
        file = run.adapter / name
        if name not in ADAPTER_FILES or not file.is_file():
            raise NotThere("adapter file")
        return Sent(name=name, media_type=_BINARY, body=file)

    def _found(self, asked: Asked) -> DeployedRun:
        try:
            return find_run(self._runs, asked.names["run"])
        except InputError as err:
            raise NotThere("run") from err


def _site_row(site: str, is_connected: bool, now: RunStatus | None) -> tuple[str, ...]:  # noqa: FBT001 - a cell
    found = None if now is None else next((one for one in now.sites if one.site == site), None)
    return site, "connected" if is_connected else "not connected", "" if found is None else found.state
