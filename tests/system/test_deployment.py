"""A coordinator and five sites as processes of their own, over TLS on loopback, made by the commands of docs/deploy.md.

One federation serves all tests of this file; it trains the tiny base under differential privacy.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from rehearsed import PAGE, loopback_deploy
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from partsong.client.doctor.canary import last_canary
from partsong.client.home.layout import SiteHome
from partsong.client.home.site_files import open_ledger
from partsong.common.errors import Refused

FIVE = ("north", "south", "west", "east", "centre")
LISTENING = "0A"
LOOPBACK = re.compile(r"[0-9A-F]{6}7F|0{24}01000000|0{16}FFFF0000[0-9A-F]{6}7F")
"""As the kernel writes 127.0.0.0/8, ::1 and the former within IPv6."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """The page, played to its end; the daemons still run."""

    rehearsal: Any
    torch_before: dict[str, bool]
    """By machine: whether its daemon had loaded torch before any plan came."""

    def pid(self, name: str) -> int:
        """Find the daemon of a machine."""
        (found,) = (r for r in self.rehearsal.running if r.machine.name == name and " up " in r.command)
        return int(found.process.pid)

    def home(self, name: str) -> Path:
        return Path(self.rehearsal.hub.folder.parent / name / name)

    @property
    def run(self) -> Path:
        return Path(self.rehearsal.run_path)


def has_torch(pid: int) -> bool:
    return any("libtorch" in maps for maps in _each(pid, "maps"))


def listening(pid: int) -> set[tuple[str, int]]:
    """Address and port of each TCP socket that a process and its children listen on, as the kernel has them."""
    found = set()
    for process in _family(pid):
        own = {_target(link) for link in (process / "fd").iterdir()}
        for table in ("tcp", "tcp6"):
            for line in (process / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == LISTENING and f"socket:[{words[9]}]" in own:
                    address, _, port = words[1].partition(":")
                    found.add((address, int(port, 16)))
    return found


def _target(link: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return str(link.readlink())
    return ""


def _each(pid: int, file: str) -> Iterator[str]:
    return ((process / file).read_text() for process in _family(pid))


def _family(pid: int) -> list[Path]:
    """Give a process and whatever it has started."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while new := {child for child, parent in parents.items() if parent in family} - family:
        family |= new
    return [Path("/proc") / str(one) for one in family]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Five sites, two private rounds, approved by a person at each site."""
    folder = tmp_path_factory.mktemp("deployment")
    with loopback_deploy.Rehearsal(folder, PAGE, loopback_deploy.Setting(sites=FIVE)) as rehearsal:
        torch_before: dict[str, bool] = {}
        for step in rehearsal.steps:
            if "--wait" in step:
                torch_before = {r.machine.name: has_torch(r.process.pid) for r in rehearsal.running}
            rehearsal.play(step)
        rehearsal.look()
        yield Played(rehearsal=rehearsal, torch_before=torch_before)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks transformers for it
def test_every_site_holds_the_published_adapter_and_peft_loads_it(played: Played) -> None:
    """The same weights to the last bit; they change what the base model says."""
    published = load_file(played.run / "adapter" / "adapter_model.safetensors")

    for site in FIVE:
        kept = load_file(played.home(site) / "adapters" / "current" / "adapter_model.safetensors")
        assert kept.keys() == published.keys()
        assert all((kept[name] == published[name]).all() for name in published)

    base = AutoModelForCausalLM.from_pretrained(loopback_deploy.BASE)
    tuned = PeftModel.from_pretrained(base, played.home("north") / "adapters" / "current")
    ids = base.dummy_inputs["input_ids"]
    with tuned.disable_adapter():
        before = tuned(input_ids=ids).logits
    assert not bool((tuned(input_ids=ids).logits == before).all())


def test_every_ledger_is_charged_for_both_rounds_and_adds_up(played: Played) -> None:
    """Within the policy's budget, with nothing in doubt, and the newest commit remembered."""
    for site in FIVE:
        with contextlib.closing(open_ledger(played.home(site))) as ledger:
            kinds = [entry.kind for entry in ledger.entries()]
            assert kinds.count("committed") == 2
            assert not ledger.outstanding()
            assert 0 < ledger.spent("records").epsilon <= 8.0
        assert json.loads((played.home(site) / "ledger-head.json").read_text())["number"] >= 2


def test_a_ledger_of_yesterday_is_refused_by_name(played: Played, tmp_path: Path) -> None:
    """A copy of a directory whose ledger alone is another."""
    (tmp_path / "ledger-head.json").write_bytes((played.home("north") / "ledger-head.json").read_bytes())
    with contextlib.closing(open_ledger(played.home("south"))):
        (tmp_path / "ledger.sqlite").write_bytes((played.home("south") / "ledger.sqlite").read_bytes())

    with pytest.raises(Refused, match="ledger_rolled_back"):
        open_ledger(tmp_path)


def test_all_sites_were_in_both_sums(played: Played, call: Callable[..., Any]) -> None:
    """`explain` names them; each found the adapter right and has stored it."""
    told = call("explain", str(played.run), "--json")

    found = json.loads(told.out)
    assert (told.code, found["state"], found["reason"]) == (0, "finished", "")
    assert {(s["site"], tuple(s["rounds"]), s["checked"], s["stored"]) for s in found["sites"]} == {
        (site, (1, 2), True, True) for site in FIVE
    }


def test_the_run_can_be_reported_and_exported(played: Played, call: Callable[..., Any], tmp_path: Path) -> None:
    """What works on a simulated run works on a deployed one."""
    report = call("report", str(played.run))
    export = call("export", str(played.run), str(tmp_path / "merged"), "--merge")

    assert (report.code, export.code) == (0, 0)
    assert "epsilon" in report.out
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="listening sockets are read from /proc")
def test_nothing_is_open_but_the_public_port(played: Played) -> None:
    """A site listens on nothing; the coordinator beyond loopback on one port, which is also the control."""
    public = played.rehearsal.setting.port

    assert {site: listening(played.pid(site)) for site in FIVE} == {site: set() for site in FIVE}
    beyond = {port for address, port in listening(played.pid("hub")) if not LOOPBACK.fullmatch(address)}
    assert beyond == {public}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="loaded libraries are read from /proc")
def test_torch_is_loaded_for_training_and_at_sites_alone(played: Played) -> None:
    """Neither by a daemon that waits for a plan, nor ever by the coordinator's."""
    assert played.torch_before == dict.fromkeys(("hub", *FIVE), False)
    assert {name: has_torch(played.pid(name)) for name in ("hub", *FIVE)} == {"hub": False} | dict.fromkeys(FIVE, True)


def test_doctor_has_a_canary_carried_out_by_the_running_daemons(played: Played, call: Callable[..., Any]) -> None:
    """Five processes over TLS: the sum is right; both sides report it; no ledger has paid for it."""
    hub = played.home("hub")

    ran = call("coordinator", "run", "--canary", "numbers=5000", "--wait", "--json", "--dir", str(hub))
    asked = call("doctor", "--canary", "--json", "--dir", str(hub))
    told = call("doctor", "--json", "--dir", str(hub))

    done = json.loads(ran.out)
    assert (ran.code, done["state"], done["study"]) == (0, "finished", "canary")
    assert done["contributions"] == [f"round 1: {', '.join(sorted(FIVE))} contributed"]
    found, newest = (
        next(finding for finding in json.loads(out)["findings"] if finding["name"] == "canary run")
        for out in (asked.out, told.out)
    )
    assert (found["state"], newest["state"]) == ("ok", "ok")
    assert found["found"].startswith("5 sites in ")
    assert newest["found"].endswith("the sum was right")
    last = last_canary(SiteHome(played.home("north")).plans)
    assert last is not None
    assert (last.run, last.state) == (newest["found"].removeprefix("run ").partition(",")[0], "right")
    with contextlib.closing(open_ledger(played.home("north"))) as ledger:
        assert [entry.kind for entry in ledger.entries()].count("committed") == 2


def test_a_page_that_leaves_a_step_out_is_found_wrong(tmp_path: Path) -> None:
    """The control: from the invitations straight to enrolment, whose requests nobody has written."""
    with loopback_deploy.Rehearsal(tmp_path, PAGE) as rehearsal:
        rehearsal.play(rehearsal.steps[1])
        with pytest.raises(loopback_deploy.PageWrong, match=r"nobody has written north\.request\.json"):
            rehearsal.play(rehearsal.steps[3])


@pytest.mark.parametrize(
    ("shown", "instead", "match"),
    [
        ("coordinator init --consortium", "coordinator init --consorcium", "exit code 2"),
        ("--model /srv/model", "", "does not show"),
        ("## 12.", "## 13.", "numbered"),
    ],
)
def test_a_page_with_a_mistake_is_found_wrong(shown: str, instead: str, match: str, tmp_path: Path) -> None:
    """An option that does not exist, a command that was changed, a number that was left out."""
    assert shown in PAGE

    with (
        pytest.raises(loopback_deploy.PageWrong, match=match),
        loopback_deploy.Rehearsal(tmp_path, PAGE.replace(shown, instead)) as rehearsal,
    ):
        rehearsal.play(rehearsal.steps[1])
