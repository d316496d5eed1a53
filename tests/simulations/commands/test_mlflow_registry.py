"""A finished run becomes a version in MLflow's registry, with what was promised and nothing of this machine."""

import getpass
import hashlib
import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from partsong.common.errors import DataError, InputError
from partsong.simulations.cli import app
from partsong.simulations.commands import mlflow_registry
from partsong.simulations.commands.mlflow_registry import register


def test_without_mlflow_the_extra_is_named(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An install without the extra says what is missing; the run is as it was."""
    monkeypatch.setitem(__import__("sys").modules, "mlflow.tracking", None)
    monkeypatch.setitem(__import__("sys").modules, "mlflow.exceptions", None)

    with pytest.raises(InputError, match=re.escape("partsong[mlflow]")):
        register(finished, name="coding", uri="sqlite:///none.db")


def test_a_run_that_does_not_verify_is_not_logged(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte of the adapter is another; no client is even made."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    file = run / "adapter" / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    monkeypatch.setattr(mlflow_registry, "_client", lambda uri: pytest.fail("a client was made"))

    with pytest.raises(DataError, match="nothing was logged"):
        register(run, name="coding", uri=f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty registry in a file, and MLflow's own client for it."""
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "true")
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - an extra

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return uri, MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_the_registry_holds_the_adapter_and_its_guarantee(private: Path, registry: Any, tmp_path: Path) -> None:
    """Parameters, losses by round, the same files; a second run takes over the alias."""
    uri, client = registry

    first = register(private, name="coding", uri=uri)
    done = CliRunner().invoke(app, ["mlflow", str(private), "--name", "coding", "--to", uri, "--json"])

    second = json.loads(done.stdout)
    logged = client.get_run(first.run_id)
    guarantee = json.loads((private / "adapter" / "privacy.json").read_bytes())["guarantee"]
    lines = [json.loads(line) for line in (private / "metrics.jsonl").read_text().splitlines()]
    assert (first.version, second["version"]) == ("1", "2")
    assert client.get_model_version_by_alias("coding", "candidate").version in {2, "2"}
    assert logged.data.params["privacy.epsilon"] == str(guarantee["epsilon"])
    assert logged.data.params["privacy.unit"] == "record"
    history = client.get_metric_history(first.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(x["round"], x["loss"]) for x in lines if x["loss"] is not None]
    folder = Path(client.download_artifacts(first.run_id, "adapter", str(tmp_path)))
    for file in (private / "adapter").iterdir():
        assert hashlib.sha256((folder / file.name).read_bytes()).digest() == hashlib.sha256(file.read_bytes()).digest()


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_nothing_of_this_machine_is_logged(private: Path, registry: Any) -> None:
    """Tags, parameters and names hold no path of the run, no host and no user."""
    uri, client = registry

    made = register(private, name="coding", uri=uri)

    logged = client.get_run(made.run_id)
    told = json.dumps([logged.data.tags, logged.data.params, logged.info.run_name])
    assert logged.data.tags["mlflow.user"] == "partsong"
    assert str(private.parent) not in told
    assert socket.gethostname() not in told
    assert getpass.getuser() not in logged.data.tags.values()
