"""The benchmark's report has the agreed form, and every engine in it really trains."""

import dataclasses
import json

import pytest
import torch

from partsong.simulations.bench import dp
from partsong.simulations.bench.dp_engines import QV_R8, attached, losses, make_batch, make_model
from partsong.simulations.bench.figures import Figure, report

TINY = dataclasses.replace(
    QV_R8,
    name="tiny",
    records=2,
    tokens=6,
    layers=1,
    hidden=32,
    intermediate=32,
    heads=2,
    key_value_heads=1,
    vocabulary=50,
    rank=2,
    passes=2,
)


def test_the_report_names_every_engine_and_is_plain_json() -> None:
    """A program can read it; a shape without target has none."""
    threads = torch.get_num_threads()

    tree = json.loads(json.dumps(dp.run(repetitions=1, shapes=[TINY])))

    torch.set_num_threads(threads)
    assert set(tree) == {"bench", "command", "date", "machine", "versions", "figures"}
    assert [f["name"] for f in tree["figures"]] == [
        "plain_time_tiny",
        "flat_time_ratio_tiny",
        "bk_time_ratio_tiny",
        "hooks_time_ratio_tiny",
        "ghost_time_ratio_tiny",
    ]
    assert all(f["value"] > 0 and f["met"] is None for f in tree["figures"])


def _trained(model):
    return [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("engine", dp.ENGINES)
def test_every_engine_trains_and_leaves_the_model_plain(engine) -> None:
    """A step moves the adapter; afterwards the model runs without any trace of it."""
    model, batch = make_model(TINY, device="cpu"), make_batch(TINY, device="cpu")
    before = [p.detach().clone() for p in _trained(model)]

    with attached(engine, model, records=2) as one_pass:
        one_pass(losses(model, batch), False)
        assert all(torch.equal(old, p) for old, p in zip(before, _trained(model), strict=True))
        one_pass(losses(model, batch), True)

    after = _trained(model)
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not any(hasattr(p, "grad_sample") or hasattr(p, "summed_grad") for p in after)
    assert all(p.grad is None for p in after)


@pytest.mark.skipif(not dp.PROCESS.exists(), reason="peaks are read from /proc")
def test_peak_memory_is_at_least_the_model() -> None:
    """Bytes, not kilobytes."""
    threads = torch.get_num_threads()

    peak = dp.peak_bytes("flat", TINY, device="cpu")

    torch.set_num_threads(threads)
    assert peak > 50_000_000


@pytest.mark.parametrize(
    ("value", "target", "met"), [(1.0, 1.05, True), (1.06, 1.05, False), (1.0, None, None), (None, 1.0, None)]
)
def test_a_target_is_met_or_not_or_does_not_exist(value, target, *, met) -> None:
    """What was not measured is null, with its reason, never met."""
    figure = Figure(name="f", value=value, unit="ratio", target=target, reason=None if value else "no GPU")

    (line,) = report("b", [figure], packages=["torch"])["figures"]

    assert line["met"] is met
    assert ("reason" in line) is (value is None)
