"""A finished run in MLflow: what was promised, the released losses, the adapter, and a version in the registry.

Covers: nothing is logged of a run that `partsong verify` finds wrong. What is logged was published already: the
    adapter's directory, its guarantee, and the loss and epsilon of each sum. No path, host or user name: MLflow's own
    tags of source and user are set to fixed words. MLflow's telemetry is off.
Does not cover: the server at `uri`, and who may read there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partsong.common.errors import DataError, InputError, TryAgain
from partsong.common.files import read_lines
from partsong.server.run_files import RunFiles
from partsong.simulations.commands.doing import silent
from partsong.simulations.commands.finished import finished_run
from partsong.simulations.verify.run import verify

CANDIDATE = "candidate"
"""Alias of a version that nobody has promoted yet."""
ARTIFACTS = "adapter"
_LOGGED = ("loss", "epsilon")
_FIXED_TAGS = {"mlflow.user": "partsong", "mlflow.source.name": "partsong", "mlflow.source.type": "JOB"}
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A version in a registry."""

    name: str
    version: str
    run_id: str
    alias: str


def register(
    run_path: Path, *, name: str, uri: str, alias: str = CANDIDATE, say: Callable[[str], None] = silent
) -> Registered:
    """Log a finished run and make its adapter a version of a registered model.

    Args:
        run_path: directory of the run.
        name: of the registered model; made where it does not exist.
        uri: of the tracking server and registry, such as `http://127.0.0.1:5000` or `sqlite:///mlflow.db`.
        alias: given to the new version, taken from an older one that had it.
        say: told what is done next.
    Raises:
        InputError: MLflow is not installed, or `uri` or `name` is not accepted.
        DataError: the run has no adapter, or `partsong verify` finds something wrong in it; nothing was logged.
        TryAgain: the server does not answer.
    """
    run, _ = finished_run(run_path)
    say("verifying the run")
    found = verify(run_path)
    if found.wrong:
        raise DataError(
            str(run_path),
            found="a run in which something differs",
            expected="one that `partsong verify` finds right",
            remedy="run `partsong verify` on it; nothing was logged",
        )
    with _client(uri) as client:
        say("logging it, with its adapter")
        run_id = _log(client, run, name=name)
        version = _version(client, run_id, name=name, alias=alias)
    return Registered(name=name, version=version, run_id=run_id, alias=alias)


def _log(client: Any, run: RunFiles, *, name: str) -> str:
    """Log parameters, losses and files; give the id of MLflow's run."""
    privacy = json.loads((run.adapter / "privacy.json").read_bytes())
    experiment = client.get_experiment_by_name(name)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
    run_id = str(client.create_run(experiment_id, run_name=run.path.name, tags=_FIXED_TAGS).info.run_id)
    for key, value in _flat(privacy.get("guarantee") or {"guarantee": "none"}):
        client.log_param(run_id, f"privacy.{key}", value)
    for line in read_lines(run.metrics):
        for key in _LOGGED:
            if line.get(key) is not None:
                client.log_metric(run_id, key, float(line[key]), step=int(line["round"]))
    client.log_artifacts(run_id, str(run.adapter), ARTIFACTS)
    client.set_terminated(run_id)
    return run_id


def _version(client: Any, run_id: str, *, name: str, alias: str) -> str:
    """Make the logged files a version of the registered model."""
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
    source = f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACTS}"
    made = client.create_model_version(name, source, run_id=run_id, tags={"format": "peft"})
    client.set_registered_model_alias(name, alias, made.version)
    return str(made.version)


def _flat(guarantee: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return ((key, str(value)) for key, value in sorted(guarantee.items()) if value is not None)


@contextmanager
def _client(uri: str) -> Iterator[Any]:
    """Give MLflow's client; its failures become ours."""
    os.environ.update(_QUIET)
    try:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - an extra
        from mlflow.tracking import MlflowClient  # noqa: PLC0415
    except ImportError as err:
        raise InputError(
            "mlflow", found="no such package", expected="it", remedy="pip install 'partsong[mlflow]'"
        ) from err
    try:
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as err:
        if err.get_http_status_code() < 500:
            raise InputError("mlflow", found=str(err.error_code), expected="a registry that takes it") from err
        raise TryAgain(f"mlflow: {err.error_code}; the run in partsong is untouched") from err
