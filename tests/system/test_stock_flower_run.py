"""partsong over unmodified Flower: flower-superlink, three flower-supernode, `flwr run`, as docs/flower.md has it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ceremony import PASSPHRASE, SITES, Ceremony
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import partsong
from partsong.client.model.source import locate

ROOT = Path(__file__).parents[2]
BASE = ROOT / "tests" / "fixtures" / "tiny-llama"
BIN = Path(sys.executable).parent
POLICY = """
holdings:
  records: {epsilon: 20, delta: 1.0e-3}
purposes:
  train: {approval: auto}
privacy: {max_epsilon: 8, max_delta: 1.0e-3}
data: {minimum_cohort: 3, minimum_records: 20, minimum_patients: null}
adapter: {bases: [BASE], target_modules: [q_proj, v_proj], max_r: 2}
"""
JOB = (
    "model=local", f"model.source={BASE}", "model.threads=1", "model.device=cpu", "adapter.r=2", "rounds=1",
    "adapter.target_modules=[q_proj,v_proj]", "max_length=48", "training.steps_per_round=1", "privacy.delta=1e-3",
    "privacy.sampling_rate=0.2", "cohort.minimum=3",
)  # fmt: skip


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Flower:
    """Flower's own programs on loopback, each in a process group of its own, with one log for each."""

    def __init__(self, folder: Path, made: Ceremony) -> None:
        self.folder, self.made, self.port = folder, made, free_port()
        self.groups: list[subprocess.Popen[bytes]] = []
        secret = folder / "passphrase"
        secret.write_bytes(PASSPHRASE)
        secret.chmod(0o600)
        (home := folder / "flwr").mkdir()
        tls = made.home.tls
        (home / "config.toml").write_text(
            f'[superlink.lab]\naddress = "127.0.0.1:{self.port}"\nroot-certificates = "{tls / "ca.crt"}"\n'
        )
        self.environment = os.environ | {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PARTSONG_PASSPHRASE_FILE": str(secret),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(partsong.__file__).parents[1]),
        }
        self.start(
            "flower-superlink", "--ssl-ca-certfile", tls / "ca.crt", "--ssl-certfile", tls / "server.crt",
            "--ssl-keyfile", tls / "server.key", "--enable-supernode-auth", "--port", self.port,
            "--disable-runtime-dependency-installation",
        )  # fmt: skip

    def start(self, *words: object, name: str = "") -> None:
        with (self.folder / f"{name or words[0]}.log").open("wb") as log:
            command = [str(word) for word in words]
            self.groups.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=self.environment, start_new_session=True)
            )

    def call(self, *words: object) -> str:
        done = subprocess.run(
            [str(word) for word in words], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def register(self, site: str) -> int:
        """Make a SuperNode's key and register it; gives its node."""
        key, file = ec.generate_private_key(ec.SECP384R1()), self.folder / f"{site}.node"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
        )
        public = file.with_suffix(".pub")
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        )
        said = json.loads(self.call("flwr", "supernode", "register", public, "lab", "--format", "json"))
        return int(said["node-id"])

    def join(self, site: str) -> None:
        """Start the site's daemon and its SuperNode."""
        home = self.made.site(site)
        self.start(
            sys.executable, "-P", "-m", "partsong", "site", "up", "--behind-supernode", "--dir", home.path,
            name=f"site-{site}",
        )  # fmt: skip
        self.start(
            "flower-supernode", "--root-certificates", self.made.home.tls / "ca.crt",
            "--superlink", f"127.0.0.1:{self.port}", "--auth-supernode-private-key", self.folder / f"{site}.node",
            "--port", free_port(), "--node-config", f'directory="{home.path}"', name=f"node-{site}",
        )  # fmt: skip

    def logs(self) -> str:
        """The end of everything that was said."""
        return "\n".join(f"--- {file.name}\n{file.read_text()[-2000:]}" for file in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for process in reversed(self.groups):
            os.killpg(process.pid, signal.SIGTERM)
        for process in self.groups:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def flower(folder: Path, made: Ceremony) -> Iterator[Flower]:
    folder.mkdir()
    running = Flower(folder, made)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def consortium(ceremony: Any) -> Ceremony:
    """Three sites with records, a base model and a policy that lets them train."""
    made: Ceremony = ceremony
    base = locate(str(BASE)).sha256
    for n, name in enumerate(SITES):
        home = made.site(name)
        rows = [{"prompt": f"case {i} of {n}", "completion": f"A{i % 7}"} for i in range(40)]
        (home.path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        home.policy.write_text(POLICY.replace("BASE", base))
        home.config.write_text(
            f"name: {name}\ncoordinator: localhost:7443\n"
            f"model: {{source: {BASE}, device: cpu, threads: 1}}\n"
            f"data: {{path: {home.path / 'records.jsonl'}, max_length: 48}}\n"
        )
    return made


@pytest.mark.nightly
def test_stock_flower_carries_a_masked_private_round(consortium: Ceremony, tmp_path: Path) -> None:
    """One round of three sites over TLS with node authentication; the adapter is published and stored by every site."""
    with flower(tmp_path / "flower", consortium) as running:
        job = tmp_path / "job"
        running.call(
            sys.executable, "-P", "-m", "partsong", "coordinator", "run", "trial", *JOB, "--dir", consortium.home.path,
            "--out", job,
        )  # fmt: skip
        nodes = {site: running.register(site) for site in SITES}
        for site in SITES:
            running.join(site)
        shutil.copytree(ROOT / "conf" / "flower-app", tmp_path / "app")
        named = " ".join(f"{node}={site}" for site, node in nodes.items())
        said = running.call(
            "flwr", "run", tmp_path / "app", "lab", "--stream",
            "-c", f'directory="{consortium.home.path}" job="{job}" nodes="{named}"',
        )  # fmt: skip

    (run,) = consortium.home.runs.iterdir()
    assert json.loads((run / "state.json").read_text())["state"] == "finished", said
    (entry,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert entry["sites"] == list(SITES)
    for site in SITES:
        assert (consortium.site(site).adapters / "current").is_symlink()
