"""The deployment page between network namespaces: sites reach a proxy and nothing else, as behind a hospital's wall."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rehearsed import PAGE, loopback_deploy

PROXY_FILE = Path(__file__).parents[1] / "connect_proxy.py"
HUB = "10.91.1.1"
SITES = ("north", "south", "west")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@dataclass(frozen=True, kw_only=True)
class Wall:
    """Namespaces by machine, and the proxy between them."""

    names: dict[str, str]
    proxy: subprocess.Popen[str]
    proxy_port: int

    def before(self, name: str) -> tuple[str, ...]:
        """What puts a command into a machine's namespace."""
        return ("ip", "netns", "exec", self.names[name])


def _link(near: str, address: str, far: str, far_address: str, *, name: str) -> None:
    """Join two namespaces by a cable of their own."""
    _ip("link", "add", f"{name}a", "netns", near, "type", "veth", "peer", "name", f"{name}b", "netns", far)
    for space, end, own in ((near, f"{name}a", address), (far, f"{name}b", far_address)):
        _ip("-n", space, "addr", "add", f"{own}/24", "dev", end)
        _ip("-n", space, "link", "set", end, "up")


@pytest.fixture(scope="module")
def wall() -> Iterator[Wall]:
    """The coordinator, a proxy, and three sites, each in a namespace; a site's only cable leads to the proxy."""
    if shutil.which("ip") is None:
        pytest.skip("no ip command: network namespaces cannot be made here")
    names = {name: f"pt{os.getpid()}-{name}" for name in ("hub", "proxy", *SITES)}
    with contextlib.ExitStack() as stack:
        for space in names.values():
            try:
                _ip("netns", "add", space)
            except subprocess.CalledProcessError as err:
                pytest.skip(f"network namespaces cannot be made here: {err.stderr.decode().strip()}")
            stack.callback(_ip, "netns", "del", space)
            _ip("-n", space, "link", "set", "lo", "up")
        _link(names["hub"], HUB, names["proxy"], "10.91.1.2", name="h")
        for number, site in enumerate(SITES, start=11):
            _link(names[site], f"10.91.{number}.1", names["proxy"], f"10.91.{number}.2", name=f"s{number}")
            _ip("-n", names[site], "route", "add", "10.91.0.0/16", "via", f"10.91.{number}.2")
        argv = ["ip", "netns", "exec", names["proxy"], sys.executable, "-P", str(PROXY_FILE), "0.0.0.0"]
        proxy = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        stack.callback(proxy.terminate)
        assert proxy.stdout is not None
        yield Wall(names=names, proxy=proxy, proxy_port=int(proxy.stdout.readline()))


def reaches(wall: Wall, site: str, address: str, port: int) -> bool:
    """Whether a connection from a site's namespace is made."""
    code = f"import socket; socket.create_connection(({address!r}, {port}), timeout=3)"
    ran = subprocess.run([*wall.before(site), sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    return ran.returncode == 0


@pytest.mark.nightly
def test_sites_behind_a_proxy_come_to_the_same_adapter(wall: Wall, tmp_path: Path) -> None:
    """The page's commands, each in its machine's namespace; every connection went through the proxy."""
    ways = [f"proxy=http://10.91.{number}.2:{wall.proxy_port}" for number, _ in enumerate(SITES, start=11)]
    setting = loopback_deploy.Setting(
        address=HUB,
        before={name: wall.before(name) for name in ("hub", *SITES)},
        init=dict(zip(SITES, ways, strict=True)),
    )
    with loopback_deploy.Rehearsal(tmp_path, PAGE, setting) as rehearsal:
        for step in rehearsal.steps:
            rehearsal.play(step)
        rehearsal.look()
        direct = {site: reaches(wall, site, HUB, setting.port) for site in SITES}
        by_proxy = reaches(wall, "north", "10.91.11.2", wall.proxy_port)

    wall.proxy.terminate()
    assert wall.proxy.stdout is not None
    assert set(wall.proxy.stdout.read().split()) == {f"{HUB}:{setting.port}"}
    assert (direct, by_proxy) == (dict.fromkeys(SITES, False), True)
