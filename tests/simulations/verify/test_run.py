"""A finished run recomputed from its files, and every way of changing one of them found."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from partsong.client.budget.ledger import Ledger
from partsong.common.build import build
from partsong.common.codec import pack, unpack
from partsong.common.errors import DataError, WireError
from partsong.common.identity.charter import read as read_charter
from partsong.common.identity.keys import Identity
from partsong.common.plan import Plan
from partsong.common.secure_sum.merkle import LEAF_BYTES, root_of
from partsong.common.secure_sum.messages import Result, Signed, Statement, sign
from partsong.common.secure_sum.recompute import SumDisagrees, check_block, prove_block
from partsong.common.secure_sum.result import read_result, words_from_bytes, words_to_bytes
from partsong.common.secure_sum.transcript import RunFacts
from partsong.server.secure_sum.sum_journal import SumJournal
from partsong.simulations.verify.findings import Verification
from partsong.simulations.verify.run import verify

PUBLIC = ("charter.json", "plan.json", "coordinator", "adapter")
RESULT = "coordinator/results/{:06d}.result"
SPOOL = "coordinator/spool/{:06d}"
WEIGHTS = "adapter/adapter_model.safetensors"

Copy = Callable[[], Path]


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Copy:
    """Copy what the public may see of the run: three rounds, site-2 silent in round 2, round 1 out of its window."""
    made: list[Path] = []

    def public() -> Path:
        target = tmp_path / f"copy-{len(made)}"
        made.append(target)
        for name in PUBLIC:
            if (finished / name).is_dir():
                shutil.copytree(finished / name, target / name)
            else:
                target.mkdir(exist_ok=True)
                shutil.copy(finished / name, target / name)
        (target / "coordinator" / "identity.key").unlink()
        return target

    return public


def verdicts(found: Verification, verdict: str) -> list[tuple[str, int | None]]:
    return [(line.place, line.round) for line in found.findings if line.verdict == verdict]


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def facts(run: Path) -> RunFacts:
    plan = build(Plan, json.loads((run / "plan.json").read_bytes()))
    charter = read_charter((run / "charter.json").read_bytes()).charter
    read = SumJournal(run / "coordinator").load_run(charter, plan_sha256=plan.sha256)
    assert read is not None
    return read


def test_a_finished_run_verifies(finished: Path) -> None:
    """All results, both sums inside the window, the adapter and every site's ledger; nothing is written."""
    before = {f: hashlib.sha256(f.read_bytes()).digest() for f in finished.rglob("*") if f.is_file()}

    found = verify(finished)

    right = [place for place, _ in verdicts(found, "right")]
    assert found.wrong == ()
    assert [RESULT.format(n) in right for n in (1, 2, 3)] == [True] * 3
    assert [SPOOL.format(n) in right for n in (1, 2, 3)] == [False, True, True]
    assert WEIGHTS in right
    assert sum(place.endswith("ledger.sqlite") for place in right) == 5
    assert {f: hashlib.sha256(f.read_bytes()).digest() for f in finished.rglob("*") if f.is_file()} == before


def test_a_private_run_with_a_round_without_a_sum_verifies(private: Path) -> None:
    """A classifier with its head, all of LoRA trained, FedAdam's memory; the next sum follows the one before the gap."""
    found = verify(private)

    details = {line.place: line.detail for line in found.findings}
    assert found.wrong == ()
    assert RESULT.format(2) not in details
    assert details["coordinator/results.jsonl"] == "why no sum of round 2 is kept"
    assert details[RESULT.format(3)].endswith("5 signed that the sum before it is right")
    assert details["adapter/privacy.json"] == "no less epsilon than the rounds with a sum cost; each site's own noise"


@pytest.mark.parametrize("factor", [0.5, float("nan")])
def test_a_smaller_epsilon_than_the_rounds_cost_is_found(private: Path, tmp_path: Path, factor: float) -> None:
    """Half of it, or no number, in a copy where all else is right; the signed facts name the file as it was."""
    run = tmp_path / "run"
    shutil.copytree(private, run)
    file = run / "adapter" / "privacy.json"
    told = json.loads(file.read_text())
    told["guarantee"]["epsilon"] *= factor
    file.write_text(json.dumps(told))

    found = verify(run)

    assert [line.place for line in found.wrong] == ["adapter/privacy.json", "facts.json"]


def test_the_public_files_suffice(copy: Copy) -> None:
    """Without the model, the records, the sites and the coordinator's key; the ledgers are said to be unchecked."""
    found = verify(copy())

    assert found.wrong == ()
    assert (WEIGHTS, None) in verdicts(found, "right")
    assert ("sites/", None) in verdicts(found, "not checked")


def test_what_was_not_recomputed_is_said(copy: Copy) -> None:
    """The sum of a round whose window is over, and one whose vectors are not all there; the sites' last words are read."""
    run = copy()
    (run / SPOOL.format(2) / "0.words").unlink()

    found = verify(run)

    assert found.wrong == ()
    assert (SPOOL.format(1), 1) in verdicts(found, "not checked")
    assert (SPOOL.format(2), 2) in verdicts(found, "not checked")
    assert (SPOOL.format(3), 3) in verdicts(found, "right")
    assert ("coordinator/verdicts", None) in verdicts(found, "right")


@pytest.mark.parametrize(
    ("name", "place", "number"),
    [
        ("charter.json", "charter.json", None),
        ("plan.json", "plan.json", None),
        ("coordinator/run.json", "coordinator/run.json", None),
        ("coordinator/start.safetensors", "coordinator/start.safetensors", None),
        (RESULT.format(1), RESULT.format(1), 1),
        (RESULT.format(3), RESULT.format(3), 3),
        (SPOOL.format(2) + "/3.words", SPOOL.format(2), 2),
        (SPOOL.format(3) + "/0.unmask", SPOOL.format(3), 3),
        (WEIGHTS, WEIGHTS, None),
    ],
)
def test_a_flipped_bit_is_found_and_named(copy: Copy, name: str, place: str, number: int | None) -> None:
    """One bit in the middle of each kind of file; of the plan the first, which can give no other plan that is read."""
    run = copy()
    flip(run / name, 0 if name == "plan.json" else 4 * (run / name).stat().st_size)

    found = verify(run)

    assert [(line.place, line.round) for line in found.wrong] == [(place, number)]


@pytest.mark.parametrize(
    "name",
    [
        "charter.json",
        "plan.json",
        "coordinator/run.json",
        "coordinator/results.jsonl",
        "coordinator/start.safetensors",
        RESULT.format(2),
        SPOOL.format(2) + "/4.words",
        SPOOL.format(3) + "/1.unmask",
        WEIGHTS,
    ],
)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_is_found(copy: Copy, name: str, data: st.DataObject) -> None:
    """Any bit of what the result rests on; the same files unchanged verify."""
    run = copy()
    flip(run / name, data.draw(st.integers(0, 8 * (run / name).stat().st_size - 1)))

    found = verify(run)

    assert found.wrong
    shutil.rmtree(run)


def test_another_adapter_is_found(copy: Copy) -> None:
    """One value of one tensor off by one unit in the last place, in a file that is whole."""
    run = copy()
    tensors = load_file(run / WEIGHTS)
    trained = next(value for name, value in tensors.items() if "lora_B" in name)
    trained[0, 0] = np.nextafter(trained[0, 0], np.float32(1))
    save_file(tensors, run / WEIGHTS, metadata={"format": "pt"})

    found = verify(run)

    assert [line.place for line in found.wrong] == [WEIGHTS]
    assert "1 of " in found.wrong[0].detail


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("adapter_config.json", {"lora_alpha": 32.0}),
        ("adapter_config.json", {"alpha_pattern": {"q_proj": 64}}),
        ("adapter_config.json", {"use_rslora": True}),
        ("privacy.json", {"guarantee": {"epsilon": 1.0, "delta": 1e-5, "unit": "record"}}),
        ("provenance.json", {"contributors": ["site-1"]}),
        ("provenance.json", {"plan_sha256": "0" * 64}),
    ],
)
def test_what_is_said_of_the_adapter_is_compared(copy: Copy, file: str, change: dict[str, object]) -> None:
    """Options that change what the same weights do, a guarantee that nobody gave, other contributors."""
    run = copy()
    told = run / "adapter" / file
    told.write_text(json.dumps(json.loads(told.read_text()) | change))

    found = verify(run)

    assert [line.place for line in found.wrong] == [f"adapter/{file}"]


def forge_last(finished: Path, run: Path) -> None:
    """What a coordinator with its own key can do: another last sum, signed by it, and the adapter that follows."""
    file = run / RESULT.format(3)
    result = unpack(Result, file.read_bytes())
    size = len(result.words) // 8
    words = words_from_bytes(result.words, words=size)
    words[0] += np.uint64(1)
    data = words_to_bytes(words)
    signer = Identity((finished / "coordinator" / "identity.key").read_bytes())
    statement = replace(unpack(Statement, result.statement.body), sum=root_of(data))
    file.write_bytes(pack(replace(result, statement=sign(statement, signer), words=bytes(data))))


def test_a_forged_sum_is_found_while_its_vectors_are_kept(finished: Path, copy: Copy) -> None:
    """Under a fresh signature of the coordinator: the vectors that the sites signed add up to another sum."""
    run = copy()
    forge_last(finished, run)

    found = verify(run)

    assert [(line.place, line.round) for line in found.wrong] == [(SPOOL.format(3), 3)]
    assert "another sum" in found.wrong[0].detail


def test_without_the_vectors_a_forged_sum_is_found_by_the_published_adapter(finished: Path, copy: Copy) -> None:
    """The sum then says nothing by itself: the round is listed as not checked, and the adapter does not follow."""
    run = copy()
    forge_last(finished, run)
    shutil.rmtree(run / "coordinator" / "spool")

    found = verify(run)

    assert (SPOOL.format(3), 3) in verdicts(found, "not checked")
    assert [line.place for line in found.wrong] == ["coordinator/verdicts", WEIGHTS]


def test_a_forged_sum_before_the_last_is_found_by_what_the_sites_signed_next(finished: Path, copy: Copy) -> None:
    """The sites' READYs of the next round name the sum before it, also where no vector is kept."""
    run = copy()
    other = run / RESULT.format(2)
    result = unpack(Result, other.read_bytes())
    words = words_from_bytes(result.words, words=len(result.words) // 8) + np.uint64(1)
    data = words_to_bytes(words)
    signer = Identity((finished / "coordinator" / "identity.key").read_bytes())
    statement = replace(unpack(Statement, result.statement.body), sum=root_of(data))
    other.write_bytes(pack(replace(result, statement=sign(statement, signer), words=bytes(data))))
    shutil.rmtree(run / "coordinator" / "spool")

    found = verify(run)

    assert [(line.place, line.round) for line in found.wrong] == [(RESULT.format(3), 3)]


def test_a_left_out_or_exchanged_result_is_found(copy: Copy) -> None:
    """The chain of results breaks at the next one; a last one that is left out shows in the adapter."""
    without_middle, without_last, exchanged = copy(), copy(), copy()
    for run, gone in ((without_middle, 2), (without_last, 3)):
        lines = (run / "coordinator" / "results.jsonl").read_text().splitlines(keepends=True)
        (run / "coordinator" / "results.jsonl").write_text("".join(lines[: gone - 1] + lines[gone:]))
    shutil.copy(exchanged / RESULT.format(3), exchanged / RESULT.format(2))

    assert [(line.place, line.round) for line in verify(without_middle).wrong] == [(RESULT.format(3), 3)]
    assert [line.place for line in verify(without_last).wrong] == [
        "coordinator/verdicts", WEIGHTS, "adapter/provenance.json",
    ]  # fmt: skip
    assert [(line.place, line.round) for line in verify(exchanged).wrong] == [(RESULT.format(2), 2)]


def test_the_charter_can_be_pinned(finished: Path) -> None:
    """Only who knows the hash learns whose signatures these are; any other charter is wrong."""
    pinned = read_charter((finished / "charter.json").read_bytes()).charter.hash.hex()

    known, unknown, other = (
        verify(finished, charter_sha256=pinned),
        verify(finished),
        verify(finished, charter_sha256="0" * 64),
    )

    assert ("charter.json", None) not in verdicts(known, "not checked")
    assert ("charter.json", None) in verdicts(unknown, "not checked")
    assert [line.place for line in other.wrong] == ["charter.json"]
    assert known.wrong == unknown.wrong == ()


def test_a_ledger_that_did_not_pay_is_found(finished: Path, tmp_path: Path) -> None:
    """A fresh ledger in the place of a site's own: in order, but without its rounds, and with another head."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    file = run / "sites" / "site-3" / "ledger.sqlite"
    file.unlink()
    Ledger(file).close()

    found = verify(run)

    assert [line.place for line in found.wrong] == ["sites/site-3/ledger.sqlite", "facts.json"]
    assert "round 1" in found.wrong[0].detail


def test_an_unmasked_run_says_so(unmasked: Path) -> None:
    """Nothing in it is signed; a changed tensor shape or frozen part would be found, another sum would not."""
    found = verify(unmasked)
    pinned = verify(unmasked, charter_sha256="0" * 64)

    assert found.masked is False
    assert found.wrong == ()
    assert ("plan.json", None) in verdicts(found, "not checked")
    assert [line.place for line in pinned.wrong] == ["plan.json"]


def test_a_plan_that_turns_unmasked_is_found(copy: Copy) -> None:
    """A masked run cannot be passed off as one that has nothing to check."""
    run = copy()
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | {"masked": False}, indent=2, ensure_ascii=False) + "\n")

    assert [line.place for line in verify(run).wrong] == ["plan.json"]


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    """That is a wrong argument, not a wrong run."""
    with pytest.raises(DataError, match=r"no plan\.json"):
        verify(tmp_path)


def test_sampled_blocks_of_the_spool_are_checked(copy: Copy) -> None:
    """Each Merkle block of a real round from the files alone; a changed word is found in its own block only."""
    run = copy()
    journal, about = SumJournal(run / "coordinator"), facts(run)
    spooled = journal.spooled(2)
    assert spooled is not None
    packed = (run / RESULT.format(2)).read_bytes()
    context = read_result(packed, run=about, floors=about.charter.floors).context
    unmasks = [unpack(Signed, message) for _, message in sorted(spooled.unmasks.items())]
    blocks = -(-len(spooled.vectors[0]) // LEAF_BYTES)
    bent = bytearray(spooled.vectors[3])
    bent[LEAF_BYTES + 5] ^= 1
    vectors = {**spooled.vectors, 3: bytes(bent)}

    def proof(leaf: int, given: dict[int, bytes]) -> bytes:
        return prove_block(context=context, leaf=leaf, vectors=given, unmasks=unmasks)

    assert blocks == 2
    assert sorted(spooled.vectors) == [0, 2, 3, 4]
    for leaf in range(blocks):
        check_block(proof(leaf, dict(spooled.vectors)), result=packed, leaf=leaf, run=about)
    with pytest.raises(SumDisagrees, match="site 3 did not sign"):
        check_block(proof(1, vectors), result=packed, leaf=1, run=about)
    with pytest.raises(WireError, match="another block"):
        check_block(proof(0, dict(spooled.vectors)), result=packed, leaf=1, run=about)
