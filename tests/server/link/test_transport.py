"""The coordinator's public port, with Flower's own client playing the sites."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fleet_site import FleetSite

from partsong.common.errors import ConfigError, TryAgain, WireError
from partsong.server.exchange import Parcel
from partsong.server.link.transport import _Bell
from partsong.server.rounds import Loss

OpenPort = Callable[..., Any]


class Clock:
    """Stands still until it is told."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def serving(site: FleetSite, app: Any, *, messages: int = 1) -> threading.Thread:
    thread = threading.Thread(target=site.serve, args=(app,), kwargs={"messages": messages})
    thread.start()
    return thread


def test_a_whole_exchange_over_tls(open_port: OpenPort) -> None:
    """Two sites get their own messages of two phases, and their signed answers come back."""
    port = open_port("north", "south")
    exchange = port.exchange()
    threads = [serving(port.connect(name), port.app(name), messages=2) for name in port.sites]
    node, vector = port.nodes(exchange), os.urandom(6 << 20)
    parcels = {node[name]: Parcel(header=name.encode(), vector=vector, note=b"n") for name in port.sites}

    answers = [dict(exchange.ask(parcels, phase=phase, timeout_s=60)) for phase in ("open", "unmask")]

    for thread in threads:
        thread.join()
    expected = {node[s]: Parcel(header=b"answer to " + s.encode(), vector=vector[::-1], note=b"n") for s in port.sites}
    assert answers == [expected, expected]
    assert (port.errors, port.refusals) == ([], [])


def test_sites_are_known_by_their_keys(open_port: OpenPort) -> None:
    """Name and number of a site follow from the key that it was enrolled with, so a restart changes neither."""
    port = open_port("north", "south")
    assert port.superlink.connected() == ()

    north = port.connect("north")

    assert port.superlink.connected() == ("north",)
    assert port.exchange().site_at(north.node.node_id) == "north"
    assert port.exchange().site_at(5) is None
    again = type(port.superlink)(port.superlink._listen, {"north": port.sites["north"].public})
    assert [desk.node for desk in again._all()] == [north.node.node_id]


def test_a_question_comes_again_until_it_is_confirmed(open_port: OpenPort) -> None:
    """A site that was killed while it read a message finds the same message afterwards, and once confirmed no more."""
    port = open_port("north")
    north = port.connect("north")
    asking = ask_in_background(port, "north", timeout_s=60)

    first, second = north.pull(), north.pull()

    assert first is not None
    assert second is not None
    assert first.metadata.message_id == second.metadata.message_id
    north.confirm(first)
    north.push(port.app("north")(first, north.context(first)))
    assert asking() == [Parcel(header=b"answer to h")]


def test_an_answer_can_be_sent_again_after_a_broken_connection(open_port: OpenPort) -> None:
    """Only what is missing is asked for, and a whole answer is taken twice without an error."""
    port = open_port("north")
    north = port.connect("north")
    asking = ask_in_background(port, "north", vector=os.urandom(11 << 20), timeout_s=60)
    message = north.pull()
    assert message is not None
    reply = port.app("north")(message, north.context(message))
    assert north.push(reply, objects=2) == [True, True]

    rest = north.push(reply)

    assert len(rest) >= 2
    assert all(rest)
    assert len(asking()) == 1


def test_a_restarted_coordinator_refuses_answers_to_its_old_run(open_port: OpenPort) -> None:
    """The site learns that the run is over and drops the answer."""
    port = open_port("north")
    north = port.connect("north")
    asking = ask_in_background(port, "north", timeout_s=60)
    message = north.pull()
    assert message is not None
    reply = port.app("north")(message, north.context(message))
    port.superlink.replace_sites({})
    port.superlink.replace_sites({"north": port.sites["north"].public})

    with pytest.raises(httpx.HTTPStatusError) as caught:
        north.push(reply)

    assert caught.value.response.status_code == 403
    assert caught.value.response.json() == {"code": "not_asked"}
    port.superlink.replace_sites({})
    assert asking() == [Loss.SILENT]


def test_a_site_that_is_taken_off_the_list_is_out_at_once(open_port: OpenPort) -> None:
    """Its open connection is served no more, and its questions are given up."""
    port = open_port("north", "south")
    north = port.connect("north")

    port.superlink.replace_sites({"south": port.sites["south"].public})

    with pytest.raises(httpx.HTTPStatusError) as caught:
        north.heartbeat()
    assert caught.value.response.json() == {"code": "not_enrolled"}
    assert port.superlink.connected() == ()


def test_a_question_ends_with_its_time(open_port: OpenPort) -> None:
    """A site that comes back after the deadline finds nothing to do, and the exchange has moved on."""
    clock = Clock()
    port = open_port("north", clock=clock)
    north = port.connect("north")
    exchange = port.exchange()
    node = port.nodes(exchange)["north"]

    silent = list(exchange.ask({node: Parcel(header=b"h")}, phase="open", timeout_s=0.05))

    clock.now_s += 1
    assert silent == []
    assert port.superlink._all()[0].box.next() is None
    assert north.heartbeat()


def test_a_site_that_is_long_gone_is_not_waited_for(open_port: OpenPort) -> None:
    """After three minutes without a sign of life; a minute and a half is waited out."""
    clock = Clock()
    port = open_port("north", clock=clock)
    port.connect("north")
    exchange = port.exchange()
    ask = {port.nodes(exchange)["north"]: Parcel(header=b"h")}

    clock.now_s += 95
    still_waited = list(exchange.ask(ask, phase="open", timeout_s=0.05))
    clock.now_s += 100
    given_up = list(exchange.ask(ask, phase="open", timeout_s=60))

    assert exchange.addresses() == ()
    assert still_waited == []
    assert given_up == [(next(iter(ask)), Loss.SILENT)]


def test_a_farewell_takes_a_site_off_the_connected_ones(open_port: OpenPort) -> None:
    """Until it is back."""
    port = open_port("north")
    north = port.connect("north")

    north.leave()

    assert port.superlink.connected() == ()
    north.activate()
    assert port.superlink.connected() == ("north",)


def test_runs_do_not_mix(open_port: OpenPort) -> None:
    """Two runs at a time each get the answers to their own questions, and a site signs for the run that asked."""
    port = open_port("north")
    north = port.connect("north")
    asking = [
        ask_in_background(port, "north", run=run, header=run.encode(), timeout_s=60) for run in ("run-a", "run-b")
    ]

    north.serve(port.app("north"), messages=2)

    assert [ask() for ask in asking] == [
        [Parcel(header=b"answer to run-a")],
        [Parcel(header=b"answer to run-b")],
    ]


def test_whoever_waits_for_answers_hears_what_arrived_in_between() -> None:
    """A ring before the wait ends it at once, for each listener and each only once; without one it ends by itself."""
    bell = _Bell()
    waits = [bell.listener(), bell.listener()]
    heard = []

    bell.ring()
    for wait in waits:
        wait(600)
        wait(0.001)
        heard.append(bell._rings)

    assert heard == [1, 1]


def test_certificates_change_while_connections_are_open(open_port: OpenPort) -> None:
    """An open connection goes on; a new one sees the new certificate and needs one of the new authority."""
    port = open_port("north")
    north = port.connect("north")
    (new_home := port.authority.folder / "new").mkdir()
    new = type(port.authority)(new_home, "new-authority")
    held = {"server": new.hold("server", server=True), "north": new.hold("north", key=port.sites["north"].key)}
    for name in ("certificate_file", "key_file"):
        getattr(port.server, name).write_bytes(getattr(held["server"], name).read_bytes())
    port.authority.file.write_bytes(new.file.read_bytes())

    port.superlink.reload_certificates()

    assert north.heartbeat()
    assert port.stranger(new.trust(held["north"])).activate().node == north.node
    with pytest.raises(httpx.TransportError):
        port.stranger(new.trust(port.sites["north"])).activate()


def test_bad_certificates_leave_the_old_ones_in_use(open_port: OpenPort) -> None:
    """A half-written file is refused by name and the port goes on."""
    port = open_port("north")
    good = port.server.certificate_file.read_bytes()
    port.server.certificate_file.write_bytes(good[:100])

    with pytest.raises(ConfigError, match=r"server\.crt"):
        port.superlink.reload_certificates()

    assert port.connect("north").heartbeat()


def test_a_port_in_use_is_a_passing_shortage(open_port: OpenPort) -> None:
    """The command may be tried again."""
    port = open_port("north")

    with pytest.raises(TryAgain, match=f"port {port.superlink.port} "):
        open_port("south", port=port.superlink.port)


@pytest.mark.parametrize("sites", [{"north": b"\x04" * 65}, {"north": b""}])
def test_only_keys_of_p256_are_enrolled(open_port: OpenPort, sites: dict[str, bytes]) -> None:
    """Anything else is refused before it could never match."""
    port = open_port("south")

    with pytest.raises(ConfigError, match=r"P-256"):
        port.superlink.replace_sites(sites)

    assert port.connect("south").heartbeat()


def test_one_key_is_one_site(open_port: OpenPort) -> None:
    """Two names for one key could not be told apart."""
    port = open_port("south")
    key = port.sites["south"].public

    with pytest.raises(ConfigError, match=r"one key for two sites"):
        port.superlink.replace_sites({"north": key, "south": key})


def test_an_unsigned_question_is_dropped_unread(open_port: OpenPort) -> None:
    """Another coordinator key than the charter's reaches the site's app and no further."""
    port = open_port("north")
    north = port.connect("north")
    asking = ask_in_background(port, "north", timeout_s=60)

    north.serve(port.app("north", coordinator=port.identities["north"].public_key))

    assert asking() == [Loss.FAILED]
    assert [type(err) for err in port.errors] == [WireError]
    assert "not signed by the coordinator" in str(port.errors[0])


def test_the_port_opens_no_connection_of_its_own() -> None:
    """Neither telemetry nor update check nor anything else connects, resolves a name or starts a process."""
    code = """
import sys
seen = []
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn", "os.fork"):
        seen.append((event, args))
sys.addaudithook(hook)
import pathlib, tempfile
from transport_fixtures import make_port
with tempfile.TemporaryDirectory() as folder:
    port = make_port(pathlib.Path(folder), "north")
    with port.superlink:
        assert port.exchange().addresses() == ()
sys.exit(repr(seen) if [s for s in seen if s[0] != "socket.connect" or s[1][1][0] != "127.0.0.1"] else 0)
"""
    paths = [str(Path(__file__).parents[2]), *sys.path]

    done = subprocess.run(
        [sys.executable, "-P", "-c", code], check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


def ask_in_background(
    port: Any, site: str, *, run: str = "run-1", header: bytes = b"h", vector: bytes = b"", timeout_s: float
) -> Callable[[], list[Any]]:
    """Ask one site from a thread; call the result for what came back."""
    exchange, found = port.exchange(run), list[Any]()
    ask = {port.nodes(exchange)[site]: Parcel(header=header, vector=vector)}
    thread = threading.Thread(
        target=lambda: found.extend(a for _, a in exchange.ask(ask, phase="open", timeout_s=timeout_s))
    )
    thread.start()

    def result() -> list[Any]:
        thread.join()
        return found

    return result
