"""The published directory: plain PEFT, whole or not at all."""

import dataclasses
import json
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.numpy import load_file

from partsong.client.data.batch import pad
from partsong.client.data.encode import Record
from partsong.client.model.host import ModelHost
from partsong.client.model.load import load
from partsong.common.build import to_tree
from partsong.common.config import AdapterConfig, DataConfig, ModelConfig, PrivacyConfig, SimulationConfig
from partsong.common.plan import Plan
from partsong.common.privacy.accounting import neighbours
from partsong.server.planning import Base, make_plan
from partsong.server.report.card import model_card
from partsong.server.report.claims import guarantee, privacy_tree, provenance_tree
from partsong.server.report.facts import Facts, RoundFacts
from partsong.server.report.gather import facts_of
from partsong.server.report.sources import Ending, Sources
from partsong.server.report.text import text_report
from partsong.server.studies.peft_options import peft_options
from partsong.server.studies.publish import publish

FIXTURES = Path(__file__).parents[2] / "fixtures"
LABELS = ("heart", "lung", "skin")
MARKS = ("secrecy of the sum is not in place: words are encoded, not masked",)
HISTORY = (
    RoundFacts(
        round=1, sites=("a", "b"), lost={"c": "silent"}, reason="", loss=2.5, epsilon=1.25,
        bytes_out={"a": 1000, "b": 2000}, held_out_loss=None, held_out_exact=None,
    ),
    RoundFacts(
        round=2, sites=(), lost={"a": "failed", "b": "silent"}, reason="round 2: 0 sites ready, 2 needed; no sum was opened",
        loss=None, epsilon=1.5, bytes_out={}, held_out_loss=None, held_out_exact=None,
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet_and_one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT asks for an attribute by its old name
        yield
    torch.set_num_threads(before)


def host_of(base: str, **adapter: Any) -> ModelHost:
    classifies = base == "tiny-bert"
    targets = ("query", "value") if classifies else ("q_proj", "v_proj")
    host = load(
        ModelConfig(source=str(FIXTURES / base), task="classification" if classifies else "causal_lm", device="cpu"),
        AdapterConfig(**{"r": 2, "lora_alpha": 4.0, "target_modules": targets} | adapter),
        labels=LABELS if classifies else (),
    )
    host.put(np.random.default_rng(1).standard_normal(host.layout.size(trained=True)).astype(np.float32))
    return host


def plan_of(host: ModelHost, mode: Any = "none", **privacy: Any) -> Plan:
    config = SimulationConfig(
        model=ModelConfig(source="x", task="classification" if host.is_classifier else "causal_lm"),
        data=DataConfig(unit_field="patient"),
        privacy=PrivacyConfig(mode=mode, noise_multiplier=1.0, delta=1e-4, **privacy),
    )
    base = Base(sha256=host.files.sha256, lora=host.lora_options, layout=host.layout)
    labels = LABELS if host.is_classifier else ()
    return make_plan(
        config,
        run="run-1",
        max_sites=5,
        base=base,
        labels=labels,
        frozen_F=host.take(trained=False),
        start_P=host.take(),
    )


def facts(plan: Plan, *, marks: tuple[str, ...] = MARKS, base_name: str = "tiny-llama") -> Facts:
    """Facts of two rounds, with an epsilon of round numbers."""
    rounds = HISTORY if plan.dp else tuple(dataclasses.replace(entry, epsilon=None) for entry in HISTORY)
    ending = Ending(
        base_name=base_name, config_sha256="c" * 64, marks=marks, checked_by=(), adapter_sha256="a" * 64
    )  # fmt: skip
    found = facts_of(
        Sources(
            plan=plan, charter=None, rounds=rounds, opened_rounds=2, versions={}, refused={}, simulated=True, ending=ending
        )
    )  # fmt: skip
    if found.privacy is None:
        return found
    spent = dataclasses.replace(found.privacy, epsilon=1.25, epsilon_at_two_sites=1.875)
    return dataclasses.replace(found, privacy=spent)


def published(folder: Path, host: ModelHost, plan: Plan) -> Path:
    found = facts(plan, base_name=host.name)
    publish(
        folder, plan=plan, trained_P=host.take(), frozen_F=host.take(trained=False),
        peft=peft_options(plan.lora, base_name=host.name),
        privacy=privacy_tree(found), provenance=provenance_tree(found), card=model_card(found, labels=plan.labels),
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("base", "adapter"),
    [
        ("tiny-llama", {}),
        ("tiny-llama", {"method": "fedit", "last_layers": 2, "peft": {"use_rslora": True}}),
        ("tiny-llama", {"target_modules": ("all-linear",)}),
        ("tiny-bert", {}),
        ("tiny-bert", {"method": "fedit"}),
        ("tiny-llama", {"method": "rolora"}),
        ("tiny-llama", {"method": "fedrot"}),
        ("tiny-llama", {"refresh": 3}),
        ("tiny-bert", {"refresh": 2}),
        ("tiny-llama", {"method": "fedsb"}),
        ("tiny-bert", {"method": "fedsb", "a_init": "public_svd"}),
    ],
)
def test_peft_loads_the_directory_with_the_hosts_logits(base: str, adapter: dict[str, Any], tmp_path: Path) -> None:
    """`PeftModel.from_pretrained` on the untouched base gives the logits that the host gives, head included."""
    host = host_of(base, **adapter)
    folder = published(tmp_path / "adapter", host, plan_of(host))
    kind: Any = (
        transformers.AutoModelForSequenceClassification if base == "tiny-bert" else transformers.AutoModelForCausalLM
    )
    more = {"num_labels": 3} if base == "tiny-bert" else {}
    ids = np.random.default_rng(2).integers(3, 1000, 9).astype(np.int32)
    batch = pad([Record(input_ids=ids, labels=ids, label=0, unit=None)], pad_id=host.pad_id)
    transformers.utils.logging.set_verbosity_error()

    bare = kind.from_pretrained(FIXTURES / base, local_files_only=True, **more).eval()
    with torch.no_grad():
        without = bare(input_ids=torch.from_numpy(batch.input_ids)).logits
        loaded = PeftModel.from_pretrained(bare, folder).eval()
        theirs = loaded(input_ids=torch.from_numpy(batch.input_ids)).logits
        ours = host._logits(batch)

    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=5e-5)
    assert (theirs - without).abs().max() > 0.01


@pytest.mark.parametrize("base", ["tiny-llama", "tiny-bert"])
def test_the_files_are_those_that_peft_would_write(base: str, tmp_path: Path) -> None:
    """A second source: save_pretrained gives the same options and the same tensors by the same names."""
    host: Any = host_of(base)
    folder = published(tmp_path / "adapter", host, plan_of(host))
    host.model.save_pretrained(tmp_path / "peft")

    ours, theirs = (json.loads((f / "adapter_config.json").read_text()) for f in (folder, tmp_path / "peft"))
    differing = {k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)}
    assert differing <= {"base_model_name_or_path", "auto_mapping", "target_modules", "modules_to_save"}
    assert set(ours["target_modules"]) == set(theirs["target_modules"])
    mine, his = (load_file(f / "adapter_model.safetensors") for f in (folder, tmp_path / "peft"))
    assert set(mine) == set(his)
    assert all((mine[name] == his[name]).all() for name in mine)


@pytest.mark.parametrize("mode", ["none", "dp"])
def test_nothing_in_the_directory_names_a_place_on_this_machine(mode: str, tmp_path: Path) -> None:
    """No absolute path, and plain JSON throughout; marks and epsilon stand where people and machines look."""
    host = host_of("tiny-llama")
    folder = published(tmp_path / "adapter", host, plan_of(host, mode))

    assert {f.name for f in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "README.md", "privacy.json", "provenance.json",
    }  # fmt: skip
    texts = {f.name: f.read_text() for f in folder.iterdir() if f.suffix in {".json", ".md"}}
    for text in texts.values():
        assert str(FIXTURES) not in text
        assert not re.search(r'(^|[\s"`(])/(?!\s)\w', text)
    privacy, provenance = json.loads(texts["privacy.json"]), json.loads(texts["provenance.json"])
    assert privacy["marks"] == list(MARKS)
    assert MARKS[0] in texts["README.md"]
    assert provenance["contributors"] == ["a", "b"]
    assert provenance["base"] == {"name": "tiny-llama", "sha256": host.files.sha256}
    if mode == "dp":
        assert privacy["guarantee"]["epsilon"] == 1.25
        assert "epsilon 1.25 at delta 0.0001" in texts["README.md"]
        assert "differential-privacy" in texts["README.md"]
    else:
        assert privacy["guarantee"] is None
        assert "Trained without differential privacy." in texts["README.md"]
        assert "not-private" in texts["README.md"]


@pytest.mark.parametrize("mode", ["none", "dp"])
def test_the_report_says_what_was_not_protected_and_what_left(mode: str) -> None:
    """Marks first; bytes by site; every round with who was lost and why."""
    plan = plan_of(host_of("tiny-llama"), mode)

    text = text_report(facts(plan))

    assert text.index(MARKS[0]) < text.index("Privacy")
    assert "  a: 1,000 bytes in all\n  b: 2,000 bytes in all" in text
    assert "without c (silent)" in text
    assert "round 2: 0 sites ready, 2 needed; no sum was opened" in text
    assert plan.sha256 in text
    assert ("epsilon 1.250 of 8" in text) is (mode == "dp")
    assert ("none: trained without differential privacy" in text) is (mode == "none")
    assert not re.search(r"\s/\w", text)


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_unit_relation_and_both_compositions_stand_with_every_epsilon(unit: str) -> None:
    """In the report, the model card and `privacy.json`; what is not covered follows from the unit."""
    host = host_of("tiny-llama")
    plan = plan_of(host, "dp", unit=unit, contribution_bound=3)
    found = facts(plan, marks=())

    text, card, tree = text_report(found), model_card(found, labels=()), privacy_tree(found)

    relation = neighbours(unit)
    assert f"unit: one {unit}" in text
    assert relation in text
    assert f"1.250 for a {unit} at one of them, 1.875 for a {unit} at two" in text
    assert f"{unit.capitalize()}-level differential privacy at every site: epsilon 1.25 at delta 0.0001" in card
    assert relation in card
    assert tree["guarantee"] == guarantee(plan, epsilon=1.25)
    assert guarantee(plan_of(host), epsilon=None) is None
    assert tree["guarantee"]["unit"] == unit
    assert tree["guarantee"]["neighbours"] == relation
    assert tree["guarantee"]["contribution_bound"] == (3 if unit == "patient" else None)
    assert (tree["across_sites"]["disjoint"], tree["across_sites"]["unit_at_two_sites"]) == (1.25, 1.875)
    single = "epsilon counts single records"
    assert all((single in said) is (unit == "record") for said in (text, card, " ".join(tree["not_covered"])))
    assert ("the mean of at most 3 records" in text) is (unit == "patient")


def test_an_older_directory_is_replaced_without_leftovers(tmp_path: Path) -> None:
    """The second run's adapter takes the place of the first's."""
    host = host_of("tiny-llama")
    folder = published(tmp_path / "adapter", host, plan_of(host))
    first = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "stray").touch()
    host.put(host.take() + 1)

    published(folder, host, plan_of(host))

    assert (folder / "adapter_model.safetensors").read_bytes() != first
    assert not (folder / "stray").exists()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("older", [False, True], ids=["new", "replacing"])
def test_a_full_disk_leaves_no_directory_or_the_older_one(tmp_path: Path, *, older: bool) -> None:
    """Exit code 75; never a part of an adapter under its name."""
    host = host_of("tiny-llama", target_modules=("all-linear",))
    plan, folder = plan_of(host), tmp_path / "adapter"
    if older:
        published(folder, host, plan)
    before = {f.name: f.read_bytes() for f in folder.iterdir()} if older else {}
    (tmp_path / "plan.json").write_text(json.dumps(to_tree(plan)))
    code = f"""
    import json, resource, signal, sys
    from pathlib import Path
    import numpy as np
    from partsong.common.build import build
    from partsong.common.errors import TryAgain
    from partsong.common.plan import Plan
    from partsong.server.studies.publish import publish
    plan = build(Plan, json.loads(Path({str(tmp_path / "plan.json")!r}).read_text()))
    zeros = [np.zeros(plan.layout.size(trained=t), np.float32) for t in (True, False)]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        publish(Path({str(folder)!r}), plan=plan, trained_P=zeros[0], frozen_F=zeros[1], peft={{"r": 2}},
                privacy={{}}, provenance={{}}, card="")
    except TryAgain as err:
        sys.exit(err.exit_code)
    """

    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code)], check=False)

    assert done.returncode == 75
    assert ({f.name: f.read_bytes() for f in folder.iterdir()} if folder.exists() else {}) == before
    assert {f.name for f in tmp_path.iterdir()} == {"plan.json", *(["adapter"] if older else [])}
