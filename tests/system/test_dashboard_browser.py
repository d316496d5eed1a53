"""Both dashboards and the report in a real browser: what a person sees, and that nothing else is asked for.

Skipped where there is no Chromium or no playwright. Pictures of every page go to the folder that
PARTSONG_SCREENSHOTS names.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboards import coordinator_dashboard, site_dashboard
from office import NAMES

from partsong.client.adapters.store import AdapterStore
from partsong.client.rules.policy import HoldingPolicy, Policy, PurposePolicy
from partsong.common import wire
from partsong.common.build import to_tree
from partsong.server.daemon.deployed_run import all_runs
from partsong.server.report.command import Given, report

pytest.importorskip("playwright", reason="playwright is not installed")
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = Path(__file__).parents[1] / "fixtures" / "axe-core" / "axe.min.js"
PATIENCE_MS = 60_000
"""A loaded machine may take its time; a test that passes does not wait for it."""
RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
}
pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
    pytest.mark.filterwarnings("default"),  # playwright's own
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests; each test has a context of its own."""
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@dataclass
class Window:
    """A page, and what it has asked for and complained about."""

    page: Page
    pictures: Path
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.hear(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def picture(self, name: str) -> None:
        self.page.screenshot(path=self.pictures / f"{name}.png", full_page=True)

    def look(self, name: str) -> list[str]:
        """Check the page as it stands, in both colour schemes and on a phone; give what is wrong with it."""
        wrong = []
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of playwright's words
            self.picture(f"{name}-{scheme}")
            wrong += [f"{scheme}: {found}" for found in self.axe()]
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size({"width": 360, "height": 740})
        self.picture(f"{name}-phone")
        if (width := self.page.evaluate("document.documentElement.scrollWidth")) > 360:
            wrong.append(f"{width} pixels wide on a phone")
        self.page.set_viewport_size({"width": 1280, "height": 900})
        return wrong

    def axe(self) -> list[str]:
        """Give the violations that axe finds, of any weight."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("rules => axe.run(document, rules)", RULES)
        return [f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:200]}" for one in found["violations"]]


@pytest.fixture
def window(browser: Browser, tmp_path: Path) -> Iterator[Window]:
    """An empty page that loads with the clipboard, camera and network of nobody."""
    pictures = Path(os.environ.get("PARTSONG_SCREENSHOTS", tmp_path / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    yield Window(context.new_page(), pictures)
    context.close()


def shown(window: Window, words: str) -> None:
    """Wait until the page shows these words."""
    expect(window.page.locator("body")).to_contain_text(words, timeout=PATIENCE_MS)


def told_until(window: Window, words: str, site: Any, event: str, **facts: Any) -> None:
    """Tell an event until the page shows these words: its stream may not be open yet when the page is."""
    for _ in range(PATIENCE_MS // 200):
        site.feed.tell(event, **facts)
        window.page.wait_for_timeout(200)
        if words in window.page.locator("body").inner_text():
            return
    raise AssertionError(f"{words!r} was never shown")


def at_home(window: Window, port: int) -> bool:
    """Whether every question went to the dashboard itself."""
    return bool(window.asked) and all(url.startswith(f"http://127.0.0.1:{port}/") for url in window.asked)


class Held:
    """A run that waits before a phase of its second round until the test has looked."""

    def __init__(self, office: Any, phase: str) -> None:
        self.office, self.phase = office, phase
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.daemon = office.daemon()
        self.run = self.daemon.submit(office.job(rounds=2))
        office.hospitals.lines.before = self.before
        self.thread = threading.Thread(target=self.daemon.step, daemon=True)

    def before(self, _site: str, phase: str, parcel: Any) -> Any:
        if phase == self.phase and sum(kind == "open" for kind, _ in self.office.hospitals.lines.asked) > 5:
            self.reached.set()
            self.go_on.wait(PATIENCE_MS / 1000)
        return parcel

    def end(self) -> None:
        self.go_on.set()
        self.thread.join(PATIENCE_MS / 1000)


def test_a_run_is_watched_from_its_first_phase_to_its_report(
    office: Callable[..., Any], window: Window, tmp_path: Path
) -> None:
    """The key behind # logs in; phases, rounds and results come without a reload; the report is saved."""
    made = office()
    held = Held(made, "confirm")
    with coordinator_dashboard(made, held.daemon) as key:
        window.page.goto(key.url)
        shown(window, "5 of 5 sites connected")
        address = window.page.url
        wrong = window.look("coordinator-first")
        with window.page.expect_response(lambda answer: answer.url.endswith("/events")):
            window.page.get_by_role("link", name=held.run.name).click()
        shown(window, "waiting, round 0 of 2")
        window.page.evaluate("window.stays = true")

        held.thread.start()
        assert held.reached.wait(PATIENCE_MS / 1000)
        expect(window.page.locator("[aria-current=step]")).to_have_text("confirm")
        wrong += window.look("coordinator-run-under-way")
        held.end()
        shown(window, "finished, round 2 of 2")
        expect(window.page.get_by_role("link", name="Privacy report as html")).to_be_visible()
        stayed = window.page.evaluate("window.stays")
        wrong += window.look("coordinator-run-finished")
        with window.page.expect_download() as saved:
            window.page.get_by_role("link", name="Privacy report as html").click()
        saved.value.save_as(tmp_path / "report.html")

    assert key.key not in address
    assert stayed is True
    assert wrong == []
    assert (tmp_path / "report.html").read_text() == report(held.run.path, form="html")
    assert at_home(window, key.port)
    assert window.complaints == []


def test_a_run_is_begun_stopped_and_resumed(office: Callable[..., Any], window: Window) -> None:
    """From the first page by links, boxes and buttons; the form cannot be sent before its box is ticked."""
    made = office()
    made.home.jobs.mkdir(parents=True)
    made.job(study="discharge-letters", rounds=2).rename(made.home.jobs / "discharge-letters")
    daemon = made.daemon()
    wrong = []
    with coordinator_dashboard(made, daemon) as key:
        window.page.goto(key.url)
        window.page.get_by_role("link", name="Begin discharge-letters").click()
        shown(window, "What follows")
        wrong += window.look("coordinator-job")
        window.page.get_by_role("button", name="Begin this run").click()
        unticked = len(all_runs(made.home.runs))
        done(window, "Begin this run")
        shown(window, "waiting, round 0 of 2")
        (run,) = all_runs(made.home.runs)
        for deed, state in (("Stop", "stopped"), ("Resume", "waiting")):
            window.page.get_by_role("link", name=f"{deed} \N{HORIZONTAL ELLIPSIS}").click()
            shown(window, "What follows")
            wrong += window.look(f"coordinator-{deed.lower()}")
            done(window, f"{deed} this run")
            shown(window, f"{state}, round 0 of 2")
            assert run.told().state == state

    assert unticked == 0
    assert wrong == []
    assert at_home(window, key.port)
    assert window.complaints == []


def test_without_scripts_a_run_is_begun_all_the_same(office: Callable[..., Any], browser: Browser) -> None:
    """By the same links and buttons."""
    made = office()
    made.home.jobs.mkdir(parents=True)
    made.job(rounds=2).rename(made.home.jobs / "wards")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    with coordinator_dashboard(made) as key:
        page.goto(f"http://127.0.0.1:{key.port}/")
        page.get_by_label("Key").fill(key.key)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="Begin wards").click()
        page.get_by_role("checkbox").check()

        page.get_by_role("button", name="Begin this run").click()

        expect(page.locator("body")).to_contain_text("waiting, round 0 of 2", timeout=PATIENCE_MS)
    context.close()
    assert [run.told().state for run in all_runs(made.home.runs)] == ["waiting"]


def test_a_plan_is_approved_with_the_keyboard_alone(fleet: Any, window: Window) -> None:
    """It appears by itself; its differences are read, the box ticked, the button pressed; the site then accepts it."""
    site = fleet.sites["a"]
    site.policy = Policy(
        purposes={"canary": PurposePolicy(approval="manual")}, holdings={"ward": HoldingPolicy(epsilon=8.0, delta=1e-5)}
    )
    site.home.policy.write_text(yaml.safe_dump(to_tree(site.policy)))
    site.start()
    before = fleet.canary(run="canary-0", size=30)
    propose(site, before)
    site.daemon.approvals.decide(before.plan.sha256, "approved")
    run = fleet.canary(rounds=4)
    AdapterStore(site.home.adapters).store(before.plan, {"README.md": b"# card"}, adapter="a" * 64, now_ms=0)
    with site_dashboard(site) as key:
        window.page.goto(key.url)
        shown(window, "NOT connected")
        wrong = window.look("site-now")
        propose(site, run)
        told_until(window, "Waits for you", site, "refused", code="state", rule="approval")

        press_to(window.page, "canary-1")
        window.page.keyboard.press("Enter")
        shown(window, "rounds 2 -> 4")
        wrong += window.look("site-plan")
        press_to(window.page, "read")
        window.page.keyboard.press("Space")
        window.page.keyboard.press("Tab")
        window.page.keyboard.press("Enter")
        shown(window, "approved by person")
        for path in ("plans", "ledger", "left", "adapters"):
            window.page.locator(f"nav a[href$='/{path}']").click()
            expect(window.page.locator(f"nav a[href$='/{path}']")).to_have_attribute("aria-current", "page")
            wrong += window.look(f"site-{path}")
        with window.page.expect_download() as saved:
            window.page.get_by_role("link", name="README.md").click()
        card = Path(saved.value.path()).read_bytes()

    assert wrong == []
    assert card == b"# card"
    assert propose(site, run) == "accept"
    assert at_home(window, key.port)
    assert window.complaints == []


def test_steps_come_live_and_a_pause_is_seen_and_ended(fleet: Any, window: Window) -> None:
    """And when the daemon goes, the page says that it is cut off."""
    site = fleet.sites["a"]
    with site_dashboard(site) as key:
        window.page.goto(key.url)
        window.page.get_by_role("button", name="Pause this site").click()
        shown(window, "paused; NOT connected")
        window.picture("site-paused")
        window.page.get_by_role("button", name="Take queries again").click()
        shown(window, "Pause this site")
        window.page.reload()
        told_until(window, "round 2: step 3 of 9", site, "step", plan="a" * 64, round=2, step=3, steps=9)
        complaints = list(window.complaints)

    expect(window.page.locator("#cut")).to_be_visible(timeout=PATIENCE_MS)
    assert complaints == []


def test_a_wrong_key_and_a_log_out_lead_to_the_login(fleet: Any, window: Window) -> None:
    """Which can be used and read by everybody."""
    with site_dashboard(fleet.sites["a"]) as key:
        window.page.goto(f"http://127.0.0.1:{key.port}/")
        wrong = window.look("login")
        window.page.get_by_label("Key").fill(key.key)
        window.page.get_by_role("button", name="Log in").click()
        shown(window, "Taking part")
        window.page.get_by_role("button", name="Log out").click()
        shown(window, "prints an address")
        complaints = list(window.complaints)
        window.page.goto(f"http://127.0.0.1:{key.port}/#not-the-key")
        shown(window, "not the key of this start")

    assert wrong == []
    assert complaints == []


def test_without_scripts_the_pages_and_their_buttons_still_work(fleet: Any, browser: Browser) -> None:
    """The key is typed in; what happens later is seen after a reload."""
    site = fleet.sites["a"]
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    with site_dashboard(site) as key:
        page.goto(f"http://127.0.0.1:{key.port}/")
        page.get_by_label("Key").fill(key.key)
        page.get_by_role("button", name="Log in").click()

        page.get_by_role("button", name="Pause this site").click()

        expect(page.locator("body")).to_contain_text("paused; NOT connected", timeout=PATIENCE_MS)
    context.close()
    assert site.daemon.part.now().state == "paused"


def test_the_report_opens_offline(office: Callable[..., Any], window: Window, tmp_path: Path) -> None:
    """As a file, from a browser without a network; nothing is asked for but the file itself."""
    made = office()
    run = made.played(rounds=2)
    arms = [
        {"name": name, "loss": 1.0, "right": right} for name, right in (("base", 0.25), ("alone", 0.5), ("joint", 0.75))
    ]
    (tmp_path / "gain.json").write_text(json.dumps({"arms": arms}))
    gained = tuple(f"{site}={tmp_path / 'gain.json'}" for site in NAMES)
    file = tmp_path / "report.html"
    file.write_text(report(run.path, form="html", given=Given(compared=gained)))
    window.page.context.set_offline(True)

    window.page.goto(file.as_uri())

    shown(window, "Laid out along NIST SP 800-226")
    assert window.look("report") == []
    expect(window.page.get_by_role("img", name="Right answers at each site")).to_be_visible()
    window.page.emulate_media(media="print")
    window.picture("report-print")
    assert window.asked == [file.as_uri()]
    assert window.complaints == []


def test_the_checker_finds_what_is_wrong(window: Window) -> None:
    """A picture without words, and a script that is not allowed: the controls of all the tests above."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"script-src 'none'\">"
    window.page.set_content(f"<html><head>{policy}</head><body><img src='data:,'><script>1</script></body></html>")

    found = window.axe()

    assert any(one.startswith("image-alt (critical)") for one in found)
    assert any("Content Security Policy" in one for one in window.complaints)


def done(window: Window, button: str) -> None:
    """Tick the box and press the button."""
    window.page.get_by_role("checkbox").check()
    window.page.get_by_role("button", name=button).click()


def propose(site: Any, run: Any) -> str:
    """Propose a plan to a site; gives the kind of its answer."""
    vector = wire.vector_bytes(run.frozen_F) + wire.vector_bytes(run.start_P)
    return wire.kind_of(site.daemon.answer(wire.encode(wire.Propose(plan=run.plan)), vector=vector).header)


def press_to(page: Page, what: str) -> None:
    """Press Tab until what has the focus is named so."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if what in page.evaluate("[document.activeElement.name, document.activeElement.textContent].join()"):
            return
    raise AssertionError(f"{what} cannot be reached with the keyboard")
