"""A job holds what a run needs to know of the base model, so that the daemon needs no model."""

from pathlib import Path

import numpy as np
import pytest

from partsong.client.model.load import load
from partsong.common.adapters.adapter import digest
from partsong.common.errors import ConfigError, DataError, InputError
from partsong.server.daemon.job import plan_of, read_job, write_job
from partsong.simulations.commands.ask import make_job
from partsong.simulations.configure import compose_job
from partsong.simulations.secure_sum import found

TINY = Path(__file__).parents[2] / "fixtures"
LLAMA = ("model=local", f"model.source={TINY / 'tiny-llama'}", "model.device=cpu", "max_length=48")
BERT = (
    "model=local",
    f"model.source={TINY / 'tiny-bert'}",
    "model.task=classification",
    "model.device=cpu",
    "adapter.target_modules=[query,value]",
    "labels=[heart,lung]",
    "max_length=48",
)


@pytest.mark.parametrize("overrides", [LLAMA, BERT], ids=["llama", "bert"])
def test_a_job_says_what_a_site_s_own_model_says(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """Layout, options and digest of a host that was loaded apart; written and read back to the bit."""
    config = compose_job("trial", overrides)
    job = make_job(config, charter=found(("a", "b", "c", "d", "e")).charter)
    write_job(tmp_path / "job", job)
    read = read_job(tmp_path / "job")

    host = load(config.model, config.adapter, labels=config.labels)

    assert (read.config, read.config.study) == (config, "trial")
    assert read.base == job.base
    assert (read.base.sha256, read.base.layout) == (host.files.sha256, host.layout)
    assert read.start_P.tobytes() == host.take().tobytes()
    assert read.frozen_F.tobytes() == host.take(trained=False).tobytes()
    plan = plan_of(read, found(("a", "b", "c", "d", "e")).charter, run="run-1")
    assert plan.masked
    assert dict(plan.lora) == dict(host.lora_options)
    assert plan.start_sha256 == digest(host.take())
    assert np.any(host.take(trained=False))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("secure_sum=off", r"secure_sum\.mode: found off, expected full"),
        ("secure_sum.corrupt_tolerance=4", r"secure_sum\.corrupt_tolerance: found 4, expected it left out"),
        ("expected_sites=[z]", r"expected_sites: found 'z'"),
        ("cohort.minimum=6", r"cohort\.minimum: found 6 with 5 sites"),
        ("max_length=100000", r"max_length: found 100000, expected at most"),
    ],
)
def test_what_the_charter_forbids_is_said_before_the_daemon_is_asked(override: str, words: str) -> None:
    """By the name of the setting."""
    config = compose_job("trial", (*LLAMA, override))

    with pytest.raises(ConfigError, match=words):
        make_job(config, charter=found(("a", "b", "c", "d", "e")).charter)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=1", "seed"),
        ("data.path=x", "data.path"),
        ("rounds=0", "rounds"),
        ("start_timeout_s=0", "start_timeout_s"),
    ],
)
def test_a_job_has_no_other_keys(override: str, words: str) -> None:
    """No seed, no path to records: those are not the coordinator's business."""
    with pytest.raises(ConfigError, match=words):
        compose_job("trial", (*LLAMA, override))


def test_a_job_folder_is_never_written_over(tmp_path: Path) -> None:
    """What is there stays."""
    job = make_job(compose_job("trial", LLAMA), charter=None)
    write_job(tmp_path / "job", job)

    with pytest.raises(DataError, match="something there already"):
        write_job(tmp_path / "job", job)


@pytest.mark.parametrize("purpose", ["evaluate", "survey"])
def test_a_job_may_ask_instead_of_train(tmp_path: Path, purpose: str) -> None:
    """Its plan has one round, a question, and the charter's cohort; the adapter in question is the start."""
    config = compose_job("trial", (*BERT, f"purpose={purpose}", "privacy.delta=1e-4", f"{purpose}.epsilon=2"
                                   if purpose == "survey" else "evaluation.epsilon=2"))  # fmt: skip
    charter = found(("a", "b", "c", "d", "e")).charter
    job = make_job(config, charter=charter)
    write_job(tmp_path / "job", job)

    plan = plan_of(read_job(tmp_path / "job"), charter, run="run-1")

    assert (plan.study, plan.rounds, plan.masked) == (purpose, 1, True)
    assert plan.question is not None
    assert plan.dp is not None
    assert (plan.dp.epsilon, plan.question.classes) == (2.0, 2)
    assert plan.start_sha256 == digest(job.start_P)


def test_the_adapter_of_a_finished_run_is_put_in_question(tmp_path: Path) -> None:
    """By the name of the run among the coordinator's; without a folder of runs there is none to name."""
    config = compose_job("trial", (*LLAMA, "purpose=evaluate", "evaluation.run=earlier"))

    with pytest.raises(ConfigError, match=r"evaluation\.run"):
        make_job(config, charter=None)
    with pytest.raises(InputError, match="no run named"):
        make_job(config, charter=None, runs=tmp_path)
