"""A history followed by hand over a real run's results: order, rounds, start, and what a consistent forgery shows."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from partsong.common.adapters.adapter import unflatten
from partsong.common.build import build
from partsong.common.codec import pack, unpack
from partsong.common.errors import DataError
from partsong.common.identity.charter import read as read_charter
from partsong.common.identity.keys import Identity
from partsong.common.plan import Plan
from partsong.common.secure_sum.history import History, HistoryDiffers
from partsong.common.secure_sum.merkle import root_of
from partsong.common.secure_sum.messages import Result, Statement, sign
from partsong.common.secure_sum.result import words_from_bytes, words_to_bytes
from partsong.common.secure_sum.transcript import RunFacts
from partsong.server.adapter_file import keep_start, read_adapter
from partsong.server.secure_sum.sum_journal import SumJournal
from partsong.simulations.verify.findings import Finding, Verification
from partsong.simulations.verify.kept_sums import read_start
from partsong.simulations.verify.run import verify

WEIGHTS = "adapter/adapter_model.safetensors"


def plan_of(run: Path) -> Plan:
    return build(Plan, json.loads((run / "plan.json").read_bytes()))


def facts(run: Path) -> RunFacts:
    charter = read_charter((run / "charter.json").read_bytes()).charter
    read = SumJournal(run / "coordinator").load_run(charter, plan_sha256=plan_of(run).sha256)
    assert read is not None
    return read


def begun(run: Path) -> History:
    return History(plan_of(run), facts(run), start_P=read_start(run, plan_of(run)))


def packed(run: Path, number: int) -> bytes:
    return (run / "coordinator" / "results" / f"{number:06d}.result").read_bytes()


def test_the_sums_lead_to_what_was_published(finished: Path) -> None:
    """From the start over three results to the file, bit by bit; the sites found each sum but the last one right."""
    history = begun(finished)
    start_P = history.adapter_P

    followed = [history.take(packed(finished, number), number=number) for number in (1, 2, 3)]

    published_P, _ = read_adapter(finished / WEIGHTS, plan_of(finished).layout)
    assert history.adapter_P.tobytes() == published_P.tobytes() != start_P.tobytes()
    assert [len(one.opened.sites) for one in followed] == [5, 4, 5]
    assert [one.found_right for one in followed] == [5, 5, 5]


def test_a_result_is_taken_once_and_in_order(finished: Path) -> None:
    """Neither twice, nor before its predecessor, nor as another round; the adapter stays as it was."""
    history = begun(finished)
    before = history.adapter_P.tobytes()

    with pytest.raises(HistoryDiffers, match="another query"):
        history.take(packed(finished, 1), number=2)
    with pytest.raises(HistoryDiffers, match="another result before"):
        history.take(packed(finished, 2), number=2)
    assert history.adapter_P.tobytes() == before
    history.take(packed(finished, 1), number=1)
    with pytest.raises(HistoryDiffers, match="after that of round 1"):
        history.take(packed(finished, 1), number=1)


def test_another_start_is_refused(finished: Path) -> None:
    """By the digest that the plan names; one unit in the last place is enough."""
    start_P = read_start(finished, plan_of(finished)).copy()
    start_P[0] = np.nextafter(start_P[0], np.float32(1))

    with pytest.raises(HistoryDiffers, match="another start"):
        History(plan_of(finished), facts(finished), start_P=start_P)


def test_a_forgery_of_the_last_sum_with_its_adapter_is_listed_as_not_checked(finished: Path, tmp_path: Path) -> None:
    """The limit: without vectors and the sites' signed words, the last sum is the coordinator's word: told so."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    result = unpack(Result, packed(run, 3))
    words = words_from_bytes(result.words, words=len(result.words) // 8)
    words[0] += np.uint64(1)
    data = words_to_bytes(words)
    signer = Identity((run / "coordinator" / "identity.key").read_bytes())
    statement = replace(unpack(Statement, result.statement.body), sum=root_of(data))
    forged = pack(replace(result, statement=sign(statement, signer), words=bytes(data)))
    (run / "coordinator" / "results" / "000003.result").write_bytes(forged)
    history = begun(run)
    for number in (1, 2, 3):
        history.take(packed(run, number), number=number)
    tensors = load_file(run / WEIGHTS) | unflatten(history.adapter_P, plan_of(run).layout.trained)
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, run / WEIGHTS, metadata={"format": "pt"})

    with_vectors = verify(run)
    shutil.rmtree(run / "coordinator" / "spool")
    with_words = verify(run)
    shutil.rmtree(run / "coordinator" / "verdicts")
    origin = run / "adapter" / "provenance.json"
    facts = json.loads(origin.read_text())
    facts["secure_sum"]["checked_by"] = []
    origin.write_text(json.dumps(facts))
    without = verify(run)

    def wrong(found: Verification) -> list[Finding]:
        # facts.json disagrees as well, but whoever can forge the statement can sign other facts.
        return [line for line in found.wrong if line.place != "facts.json"]

    assert [line.round for line in wrong(with_vectors)] == [3]
    assert [line.place for line in wrong(with_words)] == ["coordinator/verdicts"]
    assert wrong(without) == []
    assert ("not checked", "coordinator/verdicts") in [(line.verdict, line.place) for line in without.findings]
    assert ("not checked", 3) in [(line.verdict, line.round) for line in without.findings]


def test_a_start_that_is_there_stays(finished: Path, tmp_path: Path) -> None:
    """A resumed run writes none over it; a file of other tensors is no start."""
    layout = plan_of(finished).layout
    trained_P, frozen_F = read_adapter(finished / "coordinator" / "start.safetensors", layout)
    file = tmp_path / "start.safetensors"
    keep_start(file, layout, trained_P=trained_P, frozen_F=frozen_F)
    written = file.read_bytes()

    keep_start(file, layout, trained_P=trained_P + 1, frozen_F=frozen_F)

    assert file.read_bytes() == written
    assert read_adapter(file, layout)[0].tobytes() == trained_P.tobytes()
    save_file({"other": np.zeros(2, np.float32)}, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match="no adapter of this plan"):
        read_adapter(file, layout)
