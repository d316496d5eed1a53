"""A federation that is asked instead of trained: exact without noise, honest with it, paid before a record is read."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from partsong.client.budget.ledger import Ledger
from partsong.client.data.encode import Encoded
from partsong.client.training.train import score
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, PartsongError
from partsong.common.identity.keys import Identity
from partsong.server.coordinator import RunNotStarted
from partsong.server.questions.signed import ANSWER, read_answer, sign_answer
from partsong.simulations import sites
from partsong.simulations.federation import Federation
from partsong.simulations.marks import marks
from partsong.simulations.own_tests import Used, own_test
from partsong.simulations.prepare import prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.simulate import simulate
from partsong.simulations.verify.run import verify

FIXTURES = Path(__file__).parents[1] / "fixtures"
CLASSES = ("injury", "skin", "ear", "spine")
PRIVATE = ("privacy=dp", "privacy.delta=1e-2", "seed=null")


@pytest.fixture
def asked(configured: Callable[..., SimulationConfig], classes: Path, tmp_path: Path) -> Callable[..., Any]:
    """An evaluation of three sites that share ninety held-out texts."""
    texts = tmp_path / "held-out.jsonl"
    rows = [{"text": f"note {i} of {i % 7}", "label": CLASSES[i % 4], "ward": f"w{i % 3}"} for i in range(90)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    training = tmp_path / "training.jsonl"
    lines = [json.loads(line) | {"ward": "w0"} for line in classes.read_text().splitlines()]
    training.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def compose(*overrides: str) -> SimulationConfig:
        return configured(
            "purpose=evaluate", f"model.source={FIXTURES / 'tiny-bert'}", "model.task=classification",
            f"data.path={training}", f"data.held_out={texts}", f"data.labels=[{','.join(CLASSES)}]",
            "adapter.target_modules=[query,value]", "data.group_field=ward", "evaluation.groups=[w0,w1]", *overrides,
        )  # fmt: skip

    return compose


def figures(answer: dict[str, Any]) -> dict[str, Any]:
    return {figure["name"]: figure for figure in answer["figures"]}


def test_without_noise_the_answer_is_that_of_all_test_records_together(asked: Callable[..., SimulationConfig]) -> None:
    """Under the secure sum: units, accuracy, loss and groups against one model over the pooled held-out records."""
    config = asked()
    prepared = prepare(config)

    done = simulate(config, console=Console(quiet=True))

    answer = json.loads((done.run.path / ANSWER).read_text())["answer"]
    assert prepared.held_out is not None
    pooled = score(prepared.host, prepared.held_out.records, batch_size=64)
    found = figures(answer)
    assert found["units"]["value"] == pytest.approx(90, abs=1e-3)
    assert found["accuracy"]["value"] == pytest.approx(pooled.hit_N.mean(), abs=1e-4)
    assert found["loss"]["value"] == pytest.approx(pooled.loss_N.mean(), abs=1e-3)
    assert found["units[w1]"]["value"] == pytest.approx(30, abs=1e-3)
    assert answer["epsilon"] is None
    assert answer["adapter_sha256"] == done.result.plan.start_sha256
    np.testing.assert_array_equal(done.result.trained_P, prepared.host.take())
    assert "accuracy" in done.run.report.read_text()
    assert not done.run.adapter.exists()
    checked = verify(done.run.path)
    assert checked.wrong == ()
    assert [(f.verdict, f.place) for f in checked.findings].count(("right", ANSWER)) == 3


def test_a_finished_run_is_evaluated_as_it_was_published(asked: Callable[..., SimulationConfig]) -> None:
    """The adapter in question is the published one, and every site was sent it."""
    trained = simulate(asked("purpose=train", "training.learning_rate=0.05"), console=Console(quiet=True))

    done = simulate(asked(f"evaluation.run={trained.run.path}"), console=Console(quiet=True))

    np.testing.assert_array_equal(done.result.trained_P, trained.result.trained_P)
    found = figures(json.loads((done.run.path / ANSWER).read_text())["answer"])
    last = trained.result.history[-1]["held_out"]
    assert found["loss"]["value"] == pytest.approx(last["loss"], abs=1e-3)
    assert found["accuracy"]["value"] == pytest.approx(last["exact"], abs=1e-4)


def test_an_answer_that_does_not_follow_from_the_sum_is_found(asked: Callable[..., SimulationConfig]) -> None:
    """Signed by the coordinator itself; unsigned; of another plan; without a mark that the plan calls for."""
    done = simulate(asked(), console=Console(quiet=True))
    file, signer = done.run.path / ANSWER, Identity((done.run.coordinator / "identity.key").read_bytes())
    right = read_answer(file)
    first = right.answer.figures[0]
    better = replace(right.answer, figures=(replace(first, value=91.0), *right.answer.figures[1:]))
    forged = {
        "answer.figures[0].value": sign_answer(replace(right, answer=better), signer=signer),
        "another signer": sign_answer(right, signer=Identity(bytes(32))),
        "another run or plan": sign_answer(replace(right, plan_sha256="0" * 64), signer=signer),
        "no word of": sign_answer(replace(right, marks=()), signer=signer),
    }

    found = {}
    for words, answer in forged.items():
        file.write_bytes(answer.to_bytes())
        found[words] = verify(done.run.path).wrong

    assert all(len(wrong) == 1 and words in wrong[0].detail for words, wrong in found.items())


def test_with_noise_intervals_hold_the_truth_and_ledgers_the_cost(asked: Callable[..., SimulationConfig]) -> None:
    """Units are 90, within nine deviations of the noise; each ledger has one committed claim of the purpose."""
    config = asked(*PRIVATE, "evaluation.epsilon=4", "evaluation.calibration=false")

    done = simulate(config, console=Console(quiet=True))

    answer = json.loads((done.run.path / ANSWER).read_text())["answer"]
    assert abs(figures(answer)["units"]["value"] - 90) < 9 * answer["noise_sd"]["units"]
    assert answer["epsilon"] <= 4.0
    for site in answer["sites"]:
        ledger = Ledger(done.run.site_folder(site) / "ledger.sqlite")
        claims = ledger.holding("records").claims
        ledger.close()
        assert [claim.purpose for claim in claims.values()] == ["evaluate"]
        assert all(claim.records == 30 for claim in claims.values())


class Watched(tuple[Any, ...]):  # noqa: SLOT001 - a tuple of records that has something to tell
    """Records that note what stands in the ledger whenever one of them is read."""

    seen: list[tuple[str, ...]]
    ledger: Path

    def __getitem__(self, place: Any) -> Any:
        ledger = Ledger(self.ledger)
        self.seen.append(ledger.outstanding())
        ledger.close()
        return super().__getitem__(place)


def test_the_cost_is_reserved_before_a_record_is_scored(
    asked: Callable[..., SimulationConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a test record is looked up, the ledger already has the reservation of that very query."""
    config = asked(*PRIVATE, "evaluation.calibration=false")
    prepared, seen = prepare(config), list[tuple[str, ...]]()
    run = RunDir.create(config, marks=marks(config))

    def watched(prepared: Any, site: str) -> Used:
        used = own_test(prepared, site)
        records = Watched(used.encoded.records)
        records.seen, records.ledger = seen, run.site_folder(site) / "ledger.sqlite"
        return Used(encoded=Encoded(records=records, report=used.encoded.report), groups=used.groups)

    monkeypatch.setattr(sites, "used_records", watched)
    federation = Federation(prepared, run)
    federation.run()

    assert len(seen) == 90
    assert all(contexts == (f"{federation.plan.sha256}:1:1",) for contexts in seen)


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        ("purposes: {train: {approval: auto}}", "purposes"),
        ("purposes: {evaluate: {approval: auto}}\nprivacy: {max_epsilon: 0.5, max_delta: 0.1}", "privacy.max_epsilon"),
        ("purposes: {evaluate: {approval: auto}}\nprivacy: {max_delta: 0.1}\nrations: {evaluate: 0.5}", "over_ration"),
    ],
    ids=["not named", "too dear", "over its ration"],
)
def test_a_site_refuses_an_evaluation_by_the_rule_it_breaks(
    asked: Callable[..., SimulationConfig], tmp_path: Path, policy: str, rule: str
) -> None:
    """The purpose has to be allowed, the plan may not cost too much, and a purpose may have a ration of its own."""
    text, _, ration = policy.partition("\nrations: ")
    purposes = f", purposes: {ration}" if ration else ""
    base = prepare(asked()).host.files.sha256
    file = tmp_path / "policy.yaml"
    file.write_text(
        f"{text}\nholdings: {{records: {{epsilon: 3, delta: 1e-2{purposes}}}}}\n"
        "data: {minimum_records: 1, minimum_patients: null}\n"
        f"adapter: {{bases: [{base}], target_modules: [query, value, classifier]}}\n"
    )
    refusals: list[PartsongError] = []
    config = asked(*PRIVATE, f"site_policy={file}")
    run = RunDir.create(config, marks=marks(config))

    with pytest.raises(RunNotStarted):
        Federation(prepare(config), run, on_site_error=lambda _, err: refusals.append(err)).run()

    assert len(refusals) == 3
    assert all(f"rule {rule}" in str(refusal) for refusal in refusals)


def test_sites_without_test_records_cannot_be_evaluated(asked: Callable[..., SimulationConfig]) -> None:
    """They are never taken from those that are trained on."""
    config = asked("data.held_out=null")

    with pytest.raises(ConfigError, match=r"data\.held_out"):
        simulate(config, console=Console(quiet=True))


def test_what_sites_get_alone_stays_with_them(asked: Callable[..., SimulationConfig]) -> None:
    """With and without the comparison the same bytes leave, and the adapters are equal bit by bit."""
    quiet = Console(quiet=True)
    usual = ("purpose=train", "rounds=1", "evaluate_every=0", "study=same")

    plain = simulate(asked(*usual), console=quiet)
    compared = simulate(asked(*usual, "compare_alone=true"), console=quiet)

    assert [entry["bytes_out"] for entry in compared.result.history] == [
        entry["bytes_out"] for entry in plain.result.history
    ]
    np.testing.assert_array_equal(compared.result.trained_P, plain.result.trained_P)
    told = {file.relative_to(compared.run.path) for file in compared.run.path.rglob("*")}
    known = {file.relative_to(plain.run.path) for file in plain.run.path.rglob("*")}
    assert {str(file) for file in told - known} == {f"sites/site-{n}/comparison.json" for n in (1, 2, 3)}
    arms = json.loads((compared.run.site_folder("site-1") / "comparison.json").read_text())
    assert [arm["name"] for arm in arms] == ["base", "joint", "alone"]


def test_a_survey_counts_what_would_be_trained_on(asked: Callable[..., SimulationConfig]) -> None:
    """Thirty-six records of four labels without noise; each site sees its own exact findings, which are not sent."""
    settings = ("survey.lengths=[8,16]", "survey.groups=[w0]", "survey.personal_details=true")
    config = asked("purpose=survey", *settings)
    training = Path(str(config.data.path))
    rows = [json.loads(line) for line in training.read_text().splitlines()]
    rows[0]["text"] += " jane.doe@clinic.example.org"
    training.write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = simulate(config, console=Console(quiet=True))

    found = figures(json.loads((done.run.path / ANSWER).read_text())["answer"])
    assert found["units"]["value"] == pytest.approx(36, abs=1e-3)
    assert [found[f"label[{name}]"]["value"] for name in CLASSES] == pytest.approx([9] * 4, abs=0.05)
    assert found["group[w0]"]["value"] == pytest.approx(36, abs=0.05)
    assert found["duplicates"]["value"] == pytest.approx(0, abs=1e-2)
    told = json.loads((done.run.site_folder("site-1") / "findings.json").read_text())
    assert (told["records"], told["duplicates"], told["missing"]) == (12, 0, 0)
    assert found["personal_details"]["value"] == pytest.approx(1 / 36, abs=1e-3)
    everyone = [json.loads((done.run.site_folder(f"site-{n}") / "findings.json").read_text()) for n in (1, 2, 3)]
    assert sum(site["personal"] for site in everyone) == 1
