"""Rolling a deployed run back: from its files alone, beside a daemon that may be running."""

from __future__ import annotations

from pathlib import Path

from partsong.common.adapters.adapter import digest
from partsong.common.errors import InputError
from partsong.common.identity.charter import read as read_charter
from partsong.common.identity.keys import Signer
from partsong.server.daemon.deployed_run import DeployedRun
from partsong.server.daemon.job import read_job
from partsong.server.publication import publish_run
from partsong.server.report.signed import FACTS
from partsong.server.rollback import roll_back


def publish_earlier(run: DeployedRun, number: int, *, signer: Signer, now_ms: int) -> str:
    """Publish the adapter after a round of a finished run.

    Args:
        run: finished; the daemon writes nothing of it any more.
        number: of the round; 0 is the start.
        signer: with the coordinator's key of the run's charter.
        now_ms: milliseconds since 1970.
    Returns:
        SHA-256 of the trained part.
    Raises:
        InputError: the run is not finished, or has no such round with a sum; nothing was changed.
        TryAgain: the disk is full; the same command goes on.
    """
    if run.is_canary or (state := run.told().state) != "finished":
        found = "a canary" if run.is_canary else f"a run that is {state}"
        raise InputError("run", found=found, expected="a finished run of training")
    charter, base = read_charter(run.charter.read_bytes()).charter, read_job(run.job).base
    result = roll_back(run, number, charter=charter, now_ms=now_ms)
    publish_run(
        run,
        result,
        base_name=base.name,
        peft=base.peft,
        config_sha256=run.about().config_sha256,
        marks=run.about().marks,
        signer=signer,
    )
    return digest(result.trained_P)


def published_in(runs: Path) -> dict[str, int]:
    """Say of every run when its facts were written [ns], so that a rollback is seen.

    The facts are written after the adapter, the decision before it: whoever looked at the decision could offer the
    adapter that is just being replaced, and never look again.
    """
    return {file.parent.name: file.stat().st_mtime_ns for file in runs.glob(f"*/{FACTS}")}
