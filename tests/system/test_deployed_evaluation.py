"""A coordinator and three sites as processes of their own, over TLS: an adapter is trained, then evaluated."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rehearsed import daemons, loopback_deploy

from partsong.client.data.encode import encode
from partsong.client.data.table import read_table
from partsong.client.encoders.evaluation import learned_tokens
from partsong.client.home.site_files import open_ledger
from partsong.client.model.load import load
from partsong.client.training.train import score
from partsong.common.config import AdapterConfig, DataConfig, ModelConfig
from partsong.server.adapter_file import read_end
from partsong.server.questions.signed import ANSWER, read_answer
from partsong.server.run_files import RunFiles
from partsong.simulations.verify.run import verify

SITES = loopback_deploy.SITES
TESTS_OF_A_SITE, MOST_TOKENS = 30, 3
RUN = f"model=local model.source={loopback_deploy.BASE} model.threads=1 max_length=64 'expected_sites=[{','.join(SITES)}]'"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What came of it."""

    rehearsal: Any
    trained: Path
    evaluated: Path


def allow_both(policy: Path) -> None:
    """Training and evaluations without a person, at a price that leaves nearly no noise."""
    tree = yaml.safe_load(policy.read_text())
    tree["holdings"]["records"]["epsilon"] = 1000
    tree["privacy"] = {"max_epsilon": 950, "min_noise_multiplier": 0.1}
    tree["data"] = {"minimum_patients": None, "minimum_records": 1}
    tree["purposes"] = {"train": {"approval": "auto"}, "evaluate": {"approval": "auto"}}
    policy.write_text(yaml.safe_dump(tree))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """One training round, then one evaluation of what it ended with, ROUGE-L included."""
    folder = tmp_path_factory.mktemp("evaluation")
    with daemons(folder, held_out=TESTS_OF_A_SITE, allow=allow_both) as rehearsal:
        trained = _run(rehearsal, f"trained {RUN} rounds=1 training.steps_per_round=1 training.learning_rate=0.05")
        evaluated = _run(
            rehearsal,
            f"judged {RUN} purpose=evaluate evaluation.run={trained.name} evaluation.epsilon=900 "
            f"evaluation.rouge=true evaluation.most_new_tokens=4 evaluation.most_tokens={MOST_TOKENS}",
        )
        yield Asked(rehearsal=rehearsal, trained=trained, evaluated=evaluated)


def _run(rehearsal: Any, words: str) -> Path:
    told = json.loads(rehearsal.hub.do(f"partsong coordinator run {words} --wait --json --dir hub"))
    assert told["state"] == "finished", told
    return Path(rehearsal.hub.folder, told["path"])


@pytest.mark.nightly
def test_the_answer_is_that_of_all_test_records_together(asked: Asked) -> None:
    """Against one model with the published adapter over the sites' files, up to nine deviations of the noise."""
    answer = read_answer(asked.evaluated / ANSWER).answer
    host = load(ModelConfig(source=str(loopback_deploy.BASE), threads=1), AdapterConfig())
    trained_P, frozen_F = read_end(RunFiles(asked.trained), host.layout)
    host.put(trained_P)
    host.put(frozen_F, trained=False)
    records = [
        record
        for site in asked.rehearsal.sites
        for record in encode(
            read_table(site.folder / "held-out.jsonl", DataConfig()),
            host.tokenizer,
            DataConfig(max_length=64),
            task="causal_lm",
        ).records
    ]

    alone = score(host, records, batch_size=1)

    found, sd = {figure.name: figure for figure in answer.figures}, 9 * max(answer.noise_sd.values())
    units = len(records)
    assert set(answer.sites) == set(SITES)
    assert found["units"].value == pytest.approx(units, abs=sd)
    assert found["loss"].low <= alone.loss_N.mean() <= found["loss"].high
    assert found["loss"].value == pytest.approx(alone.loss_N.mean(), abs=10 * sd / units)
    assert found["exact_match"].value == pytest.approx(alone.hit_N.mean(), abs=3 * sd / units)
    tokens = np.minimum([learned_tokens(record) for record in records], MOST_TOKENS).sum()
    assert found["tokens"].value == pytest.approx(tokens, abs=MOST_TOKENS * sd)
    assert found["rouge_l"].high >= found["rouge_l"].low >= 0
    assert answer.adapter_sha256 != ""


@pytest.mark.nightly
def test_the_answer_is_signed_and_follows_from_the_sum(asked: Asked) -> None:
    """`verify` reads the figures out of the opened sum again."""
    found = verify(asked.evaluated)

    assert found.wrong == ()
    assert [(f.verdict, f.place) for f in found.findings].count(("right", ANSWER)) == 3


@pytest.mark.nightly
def test_every_ledger_has_paid_for_both(asked: Asked) -> None:
    """One committed claim of each purpose, on the same holding."""
    for site in asked.rehearsal.sites:
        with contextlib.closing(open_ledger(site.folder / site.name)) as ledger:
            claims = ledger.holding("records").claims.values()
            assert sorted(claim.purpose for claim in claims) == ["evaluate", "train"]
            assert not ledger.outstanding()
