"""The same empty rounds over Flower as it comes: SuperLink with TLS, authenticated SuperNodes, `flwr run`.

Four messages go to every site and come back in each round, as in a round of the secure sum, but empty and by nobody
protected. Telemetry, update checks and run-time installs are off; each phase is Flower's own `send_and_receive`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from partsong.common.files import make_folder
from partsong.common.private_files import write_private
from partsong.simulations.bench.round_consortium import Consortium, free_port

_WORDS, _MOST_SAID = re.compile(r"[\x21-\x7e]+"), 300
"""Flower draws frames around its errors."""
_READY_S, _RUN_S, _END_S = 40.0, 300.0, 10.0
_PROJECT = """
[project]
name = "rounds"
version = "1.0.0"
dependencies = ["flwr"]
license = "Apache-2.0"

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "rounds.app:server"
clientapp = "rounds.app:client"

[tool.flwr.app.config]
sites = 0
rounds = 0
out = ""
"""
_APP = """
import json
import time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
server = ServerApp()


def answer(message, context):
    return Message(RecordDict({"answer": ConfigRecord({"done": True})}), reply_to=message)


for phase in ("ready", "report", "confirm", "unmask"):
    client.query(phase)(answer)


@server.main()
def main(grid, context):
    config, seconds = context.run_config, []
    while len(nodes := list(grid.get_node_ids())) < config["sites"]:
        time.sleep(0.1)
    for number in range(config["rounds"]):
        start = time.monotonic()
        for phase in ("ready", "report", "confirm", "unmask"):
            content = RecordDict({"question": ConfigRecord({"round": number})})
            out = [Message(content, node, f"query.{phase}", group_id=f"{number}") for node in nodes]
            replies = list(grid.send_and_receive(out, timeout=120))
            if len(replies) != len(nodes) or any(reply.has_error() for reply in replies):
                raise RuntimeError("a site did not answer")
        seconds.append(time.monotonic() - start)
    with open(config["out"], "w") as out:
        json.dump(seconds, out)
"""


class NotMeasured(Exception):
    """Stock Flower did not run here; the text says why."""


def stock_rounds(made: Consortium, *, rounds: int) -> list[float]:
    """Time rounds of stock Flower [s] with as many SuperNodes as the consortium has sites.

    Args:
        made: lends the coordinator's certificate; none of its daemons has to run.
        rounds: to time.
    Raises:
        NotMeasured: a process of Flower failed or took too long.
    """
    folder = made.folder / "stock"
    make_folder(folder / "app" / "rounds")
    (folder / "app" / "pyproject.toml").write_text(_PROJECT)
    (folder / "app" / "rounds" / "__init__.py").write_text("")
    (folder / "app" / "rounds" / "app.py").write_text(_APP)
    port, around = free_port(), _environment(folder)
    authority = made.home.tls / "server-ca.crt"
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "lab"\n[superlink.lab]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{authority}"\n'
    )
    out = folder / "seconds.json"
    config = f'sites={len(made.names)} rounds={rounds} out="{out}"'
    with contextlib.ExitStack() as stack:
        stack.enter_context(_running(_superlink(made, port), around))
        keys = [_key(folder / name) for name in made.names]
        for key in keys:
            _registered(key, around)
        for key in keys:
            stack.enter_context(_running(_supernode(key, authority, port), around))
        _called(["flwr", "run", str(folder / "app"), "lab", "--stream", "-c", config], around, limit_s=_RUN_S)
    if not out.is_file():
        raise NotMeasured("the run of Flower ended without figures")
    return [float(value) for value in json.loads(out.read_text())]


def _environment(folder: Path) -> dict[str, str]:
    """Switch off what reports home or installs, and let Flower's processes find each other."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }


def _superlink(made: Consortium, port: int) -> Sequence[str]:
    tls = made.home.tls
    return [
        *("flower-superlink", "--host", "127.0.0.1", "--port", str(port), "--enable-supernode-auth"),
        *("--ssl-ca-certfile", str(tls / "server-ca.crt"), "--ssl-certfile", str(tls / "server.crt")),
        *("--ssl-keyfile", str(tls / "server.key"), "--disable-runtime-dependency-installation"),
    ]


def _supernode(key: Path, authority: Path, port: int) -> Sequence[str]:
    return [
        *("flower-supernode", "--root-certificates", str(authority), "--superlink", f"127.0.0.1:{port}"),
        *("--auth-supernode-private-key", str(key), "--port", str(free_port())),
    ]


def _key(path: Path) -> Path:
    """Make a SuperNode's key, in the form of OpenSSH."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return path


def _registered(key: Path, environment: Mapping[str, str]) -> None:
    """Register a SuperNode as soon as the SuperLink answers."""
    deadline_s = time.monotonic() + _READY_S
    while True:
        try:
            _called(["flwr", "supernode", "register", f"{key}.pub", "lab"], environment, limit_s=_READY_S)
        except NotMeasured:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.5)
        else:
            return


def _called(command: Sequence[str], environment: Mapping[str, str], *, limit_s: float) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - Flower's own commands
            command, env=environment, capture_output=True, text=True, check=False, timeout=limit_s
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise NotMeasured(f"{' '.join(command[:2])}: {type(err).__name__}") from err
    if done.returncode:
        said = " ".join(_WORDS.findall(done.stderr or done.stdout))
        raise NotMeasured(f"{' '.join(command[:2])} ended with {done.returncode}: {said[-_MOST_SAID:]}")


@contextlib.contextmanager
def _running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[None]:
    """Run a process of Flower, and those that it starts, for the time of a block."""
    try:
        process = subprocess.Popen(  # noqa: S603 - Flower's own commands
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError as err:
        raise NotMeasured(f"{command[0]}: {type(err).__name__}") from err
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
