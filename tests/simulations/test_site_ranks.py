"""A federation of sites of different ranks."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel
from rich.console import Console
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from partsong.common.adapters.adapter import unflatten
from partsong.common.adapters.lora import products
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError
from partsong.server.planning import make_plan
from partsong.simulations.commands.ask import make_job
from partsong.simulations.configure import compose_job
from partsong.simulations.simulate import simulate
from partsong.simulations.verify.run import verify

BASE = Path(__file__).parents[1] / "fixtures" / "tiny-llama"
RANKS = ("adapter.method=hlora", "adapter.r=4", "adapter.target_modules=[q_proj]", "adapter.last_layers=1")
Configure = Callable[..., SimulationConfig]


def test_ranks_1_2_and_4_make_one_adapter_of_rank_4(configured: Configure) -> None:
    """Under the secure sum: the mean is that of the products, what is published is its best of rank 4, and PEFT loads it.

    `verify` recomputes it; the averages of the factors that the same sites have would be off by much more.
    """
    config = configured(*RANKS, "site_ranks=[1,2,4]", "measure_aggregation=true", "training.learning_rate=0.05")

    done = simulate(config, console=Console(quiet=True))

    result, layout = done.result, done.result.plan.layout
    (error,) = result.history[-1]["aggregation_error"]
    assert error["ours"] < 1e-3  # what fixed point rounds off
    assert error["fedit"] > 0.05
    assert verify(done.run.path).wrong == ()
    whole = products(unflatten(result.trained_P, layout.trained) | unflatten(result.frozen_F, layout.frozen))
    published = load_file(done.run.adapter / "adapter_model.safetensors")
    for layer, whole_OI in whole.items():
        tail = np.linalg.svd(whole_OI, compute_uv=False)[4:]
        found = published[f"{layer}.lora_B.weight"] @ published[f"{layer}.lora_A.weight"]
        assert published[f"{layer}.lora_A.weight"].shape[0] == 4
        assert np.linalg.norm(found - whole_OI) == pytest.approx(np.linalg.norm(tail), rel=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for an attribute by its old name
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), done.run.adapter)
    assert tuned.peft_config["default"].r == 4


def test_sketches_as_wide_as_all_ranks_lose_nothing_and_send_less(configured: Configure) -> None:
    """Ranks 1, 2 and 4 through sketches of width 7, under the secure sum; `verify` recomputes what is published."""
    adapter = ("adapter.method=sketch", "adapter.sketch=7", "site_ranks=[1,2,4]")
    config = configured(*RANKS, *adapter, "measure_aggregation=true", "training.learning_rate=0.05")

    done = simulate(config, console=Console(quiet=True))

    (error,) = done.result.history[-1]["aggregation_error"]
    assert error["ours"] < 1e-2 < error["fedit"]  # what fixed point rounds off is enlarged on the way back
    assert verify(done.run.path).wrong == ()
    whole = sum(spec.size for spec in done.result.plan.layout.trained)
    published = load_file(done.run.adapter / "adapter_model.safetensors")
    (a, b) = (next(value for name, value in published.items() if f"lora_{f}.weight" in name) for f in "AB")
    assert whole == 7 * b.shape[0] + 15 * a.shape[1]
    assert set(published) == {name for name in published if name.endswith((".lora_A.weight", ".lora_B.weight"))}


def test_a_run_whose_adapter_is_published_in_another_form_is_verified(configured: Configure) -> None:
    """Fed-SB: its core is trained, its A and B are published, and the facts are those of the core."""
    config = configured("adapter.method=fedsb", "adapter.r=2", "rounds=1")

    done = simulate(config, console=Console(quiet=True))

    assert verify(done.run.path).wrong == ()


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (("privacy=dp", "privacy.delta=1e-2", "seed=null"), "noise times noise"),
        (("adapter.method=ffa",), "site_ranks"),
        (("site_ranks=[5]",), "site_ranks"),
        (("site_ranks=[0]",), "site_ranks"),
        (("adapter.method=sketch", "adapter.sketch=3"), "sketch of at least r"),
    ],
)
def test_ranks_that_no_run_can_have_are_refused(configured: Configure, overrides: tuple[str, ...], match: str) -> None:
    """Under privacy, with a method that has one rank for all, and beyond the plan's."""
    with pytest.raises(ConfigError, match=match):
        simulate(configured(*RANKS, "site_ranks=[1,2]", *overrides), console=Console(quiet=True))


def test_a_deployed_job_is_refused(tmp_path: Path) -> None:
    """Sites would compare bits of a decomposition that no two machines make alike."""
    words = ("model=local", f"model.source={BASE}", "model.threads=1", "max_length=64", "adapter=hlora", "privacy=none")
    job = make_job(compose_job("trial", words), charter=None)

    with pytest.raises(ConfigError, match="no two machines"):
        make_plan(
            job.config, run="r", max_sites=3, base=job.base, labels=(), frozen_F=job.frozen_F, start_P=job.start_P
        )
