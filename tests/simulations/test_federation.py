"""A federation in one process gives what its parts give by themselves."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from partsong.client.training.train import train_round
from partsong.common import events
from partsong.common.adapters.adapter import FloatVec
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, DataError, PartsongError, RoundAborted
from partsong.common.plan import UPDATE, Plan
from partsong.server.checkpoint import Checkpoints
from partsong.simulations.federation import (
    Diverged,
    Federation,
    Result,
    draft,
    fresh_adapter,
    record_partition,
    score_adapter,
)
from partsong.simulations.prepare import Prepared, prepare
from partsong.simulations.run_dir import RunDir
from partsong.simulations.sites import chance

Configure = Callable[..., SimulationConfig]

Play = Callable[..., Result]


def trained_alone(prepared: Prepared, plan: Plan, site: str, number: int, start_P: FloatVec) -> FloatVec:
    """A site's update of one round, by a direct call of the training loop."""
    prepared.host.put(fresh_adapter(prepared)[1], trained=False)
    prepared.host.put(start_P)
    return train_round(
        prepared.host,
        prepared.sites[site].records,
        sampling_rate=plan.sampling_rate,
        training=plan.training,
        dp=None,
        randomness=chance(site, plan, number).samples,
    ).update_P


def rounding_bound(plan: Plan, *, sites: int) -> float:
    """L2 error that fixed-point words may add to the mean of `sites` updates: one step a coordinate and site."""
    block = next(b for b in plan.encoding.blocks if b.name == UPDATE)
    return plan.encoding.step(block) * float(np.sqrt(block.coordinates)) * 1.01 + 1e-6 * sites


def test_runs_of_one_seed_are_bit_identical(play: Play) -> None:
    """Nothing but the seed decides, neither the clock nor the name of the directory."""
    first, second = play(), play()

    assert first.trained_P.tobytes() == second.trained_P.tobytes()
    assert np.abs(first.trained_P).max() > 0


def test_another_seed_gives_another_adapter(play: Play) -> None:
    """The comparison above can fail."""
    assert not np.array_equal(play("seed=7").trained_P, play("seed=8").trained_P)


def test_one_site_and_plain_averaging_is_local_training(configured: Configure, play: Play) -> None:
    """A federated round of one site equals the training loop called directly, within the rounding of the words."""
    alone = ("sites=1", "cohort.minimum=1", "rounds=1", "training.steps_per_round=4", "secure_sum=off")

    result = play(*alone)

    prepared = prepare(configured(*alone))
    start_P, _ = fresh_adapter(prepared)
    update_P = trained_alone(prepared, result.plan, "site-1", 1, start_P)
    bound = rounding_bound(result.plan, sites=1)
    assert np.linalg.norm(result.trained_P - (start_P + update_P)) <= bound
    assert np.linalg.norm(update_P) > 100 * bound


@pytest.mark.parametrize("mode", ["full", "off"])
@pytest.mark.parametrize("when", ["train", "report"])
def test_a_dropout_leaves_the_mean_of_the_survivors(configured: Configure, play: Play, when: str, mode: str) -> None:
    """Before READY or after it, the round ends with the plain mean of those who reported, masked or not."""
    floor = ("sites=5", "rounds=1", f"secure_sum={mode}")
    result = play(*floor, f"drop=['site-2@1:{when}']")

    prepared = prepare(configured(*floor))
    start_P, _ = fresh_adapter(prepared)
    names = ("site-1", "site-3", "site-4", "site-5")
    survivors = [trained_alone(prepared, result.plan, s, 1, start_P) for s in names]
    everybody = [*survivors, trained_alone(prepared, result.plan, "site-2", 1, start_P)]
    bound = rounding_bound(result.plan, sites=4)
    assert np.linalg.norm(result.trained_P - start_P - np.mean(survivors, axis=0)) <= bound
    assert np.linalg.norm(result.trained_P - start_P - np.mean(everybody, axis=0)) > bound
    assert result.history[0]["sites"] == list(names)
    assert result.history[0]["lost"] == {"site-2": "silent"}


@pytest.mark.parametrize("when", ["confirm", "unmask"])
def test_a_dropout_after_its_report_stays_in_the_sum(configured: Configure, play: Play, when: str) -> None:
    """Its own mask is rebuilt from the others' shares; the mean is that of all five."""
    result = play("sites=5", "rounds=1", f"drop=['site-2@1:{when}']")

    prepared = prepare(configured("sites=5", "rounds=1"))
    start_P, _ = fresh_adapter(prepared)
    everybody = [trained_alone(prepared, result.plan, f"site-{i}", 1, start_P) for i in range(1, 6)]
    bound = rounding_bound(result.plan, sites=5)
    assert np.linalg.norm(result.trained_P - start_P - np.mean(everybody, axis=0)) <= bound
    assert len(result.history[0]["sites"]) == 5
    assert result.history[0]["lost"] == {"site-2": "silent"}


def test_masks_change_nothing_but_what_the_coordinator_sees(play: Play) -> None:
    """The same seed with and without the secure sum: equal up to the rounding of the words, whose rotation differs."""
    masked, plain = play("rounds=1"), play("rounds=1", "secure_sum=off")

    bound = 2 * rounding_bound(plain.plan, sites=3)
    assert np.linalg.norm(masked.trained_P - plain.trained_P) <= bound
    assert np.linalg.norm(masked.trained_P) > 10 * bound


def test_every_site_recomputes_the_adapter_and_signs_that_it_is_right(play: Play) -> None:
    """Also one that missed rounds: it is sent the sums it lacks; also with an optimizer that remembers."""
    result = play(
        "sites=5", "rounds=4", "optimizer.name=fedadam", "privacy=dp", "privacy.delta=1e-3", "seed=null",
        "drop=['site-2@1:train', 'site-2@2:train', 'site-4@2:unmask']",
    )  # fmt: skip

    assert result.secure_sum is not None
    assert result.secure_sum.checked_by == tuple(f"site-{i}" for i in range(1, 6))
    assert [len(entry["sites"]) for entry in result.history] == [4, 4, 5, 5]


def test_without_the_secure_sum_nobody_checks(play: Play) -> None:
    """The control: no verdicts, and the result says so."""
    assert play("rounds=1", "secure_sum=off").secure_sum is None


def test_a_round_below_the_floor_is_aborted_by_name_and_the_run_goes_on(play: Play) -> None:
    """The adapter of the round before stands, and the next round has everybody again."""
    result = play("rounds=3", "drop=['site-1@2:report']")

    first, second, third = result.history
    assert (len(first["sites"]), second["sites"], len(third["sites"])) == (3, [], 3)
    assert second["reason"] == "round 2: 2 sites reported, 3 needed; no sum was opened"
    assert second["update_norm"] == 0
    assert second["lost"] == {"site-1": "silent"}


def test_a_run_without_any_sum_has_no_adapter(play: Play) -> None:
    """All rounds below the floor: an error that says so."""
    with pytest.raises(RoundAborted, match="no round ended with a sum; there is no adapter"):
        play("rounds=1", "drop=['site-1@1:train']")


def test_what_went_wrong_at_a_site_is_told_locally_and_the_history_has_a_code(play: Play) -> None:
    """The site's words reach its own listener only; the coordinator learns `failed`."""
    told: list[tuple[str, PartsongError]] = []
    lines: list[events.Event] = []

    with pytest.raises(RoundAborted):
        play(
            "rounds=1",
            "training.optim=sgd",
            "training.learning_rate=1e38",
            "training.steps_per_round=3",
            "secure_sum.update_clip=1",
            on_site_error=lambda site, err: told.append((site, err)),
            listen=lines.append,
        )

    assert [site for site, _ in told] == ["site-1", "site-2", "site-3"]
    assert all("not finite" in str(err) and "learning_rate" in str(err) for _, err in told)
    lost = [event for event in lines if isinstance(event, events.SiteLost)]
    assert [(e.site, e.why) for e in lost] == [(f"site-{i}", "failed") for i in (1, 2, 3)]


def test_a_global_adapter_that_diverged_ends_the_run_unsaved(configured: Configure, prompts: Path) -> None:
    """A held-out loss that is no number stops the run; the round's checkpoint is not written."""
    config = configured(
        "rounds=1",
        f"data.held_out={prompts}",
        "training.steps_per_round=1",
        "training.optim=sgd",
        "training.learning_rate=1e6",
        "optimizer.learning_rate=1e38",
    )
    run = RunDir.create(config, marks=())

    with pytest.raises(Diverged, match=r"round 1: .*not finite.*lower training\.learning_rate"):
        Federation(prepare(config), run).run()

    assert Checkpoints(run.path).load() is None


def test_events_tell_names_counts_and_released_numbers_in_order(play: Play) -> None:
    """Start, round, progress, ready, reports, sum."""
    heard: list[events.Event] = []
    result = play("rounds=1", listen=heard.append)

    kinds = [type(event).__name__ for event in heard]
    assert kinds[:2] == ["RunStarted", "RoundOpened"]
    assert kinds[-2:] == ["RoundSummed", "ResultChecked"]
    assert kinds.count("SiteReported") == 3
    sent = {e.site: e.bytes_out for e in heard if isinstance(e, events.SiteReported)}
    out = result.history[0]["bytes_out"]
    assert sent.keys() == out.keys()
    assert all(out[site] > sent[site] for site in sent)
    assert min(sent.values()) > result.plan.encoding.bytes()


@pytest.mark.parametrize("rate", ["1e-9", "1.0"])
def test_samples_without_a_record_are_steps_like_any_other(play: Play, rate: str) -> None:
    """With a rate of nearly zero no record is drawn and the adapter stays; the control draws all."""
    result = play("rounds=1", f"privacy.sampling_rate={rate}", "training.optim=sgd")

    moved = np.linalg.norm(result.trained_P)
    assert len(result.history[0]["sites"]) == 3
    assert (moved <= 2 * rounding_bound(result.plan, sites=3)) == (rate == "1e-9")


def test_under_privacy_a_sample_without_a_record_is_noised(play: Play) -> None:
    """Noise is added whether or not anybody was drawn."""
    result = play("rounds=1", "privacy=dp", "privacy.sampling_rate=1e-6", "privacy.delta=1e-3", "seed=null")

    assert len(result.history[0]["sites"]) == 3
    assert np.linalg.norm(result.trained_P) > 0
    assert result.epsilon is not None
    assert result.epsilon <= 8


def test_epsilon_grows_with_the_rounds_and_stays_within_the_plan(play: Play) -> None:
    """The last value is the run's, and at most what was planned."""
    result = play("privacy=dp", "privacy.epsilon=3", "privacy.delta=1e-3", "seed=null")

    first, second = (entry["epsilon"] for entry in result.history)
    assert 0 < first < second <= 3
    assert result.epsilon == second


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("sites=2",), r"cohort\.minimum: found 3 with 2 sites"),
        (("sites=1", "cohort.minimum=1"), r"secure_sum\.mode: found full with 1 site.*ask for secure_sum=off"),
        (("secure_sum.minimum_honest=4",), r"secure_sum\.mode: found full with 3 sites"),
        (("drop=['site-9@1']",), r"drop: found site 'site-9', expected one of site-1, site-2, site-3"),
        (("drop=['site-1@3']",), "a round from 1 to 2"),
        (("privacy=dp", "seed=null", "privacy.delta=0.2"), r"privacy\.delta: found 0\.2 with 20 records"),
        (
            (
                "secure_sum.field_bits=8",
                "cohort.minimum=1",
                "data.max_length=49",
                "sites=3",
                "secure_sum.update_clip=1e30",
            ),
            r"secure_sum: .*clip between",
        ),
        (("privacy=dp", "seed=null", "privacy.noise_multiplier=0.1"), r"privacy\.noise_multiplier: found 0\.1, which"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_a_directory_exists(
    configured: Configure, overrides: tuple[str, ...], words: str
) -> None:
    """`draft` finds what a directory and a first round would only find later."""
    prepared = prepare(configured(*overrides))

    with pytest.raises(ConfigError, match=words):
        draft(prepared, tuple(sorted(prepared.sites)), run="r")


def test_a_directory_with_another_plan_is_not_continued(configured: Configure) -> None:
    """A base model or setting that changed under a run stops it before anything is trained."""
    config = configured("rounds=1")
    run = RunDir.create(config, marks=())
    prepared = prepare(config)
    Federation(prepared, run).run()

    other = prepared.with_config(configured("rounds=1", "training.learning_rate=0.5"))
    with pytest.raises(DataError, match="another plan"):
        Federation(other, run).run()


def test_the_partition_file_counts_records_and_what_was_cut(configured: Configure, tmp_path: Path) -> None:
    """Sizes and truncation, site by site, without a word of a record."""
    prepared = prepare(configured("data.max_length=8"))
    run = RunDir(tmp_path)
    record_partition(prepared, run)

    text = run.partition.read_text()
    assert text.count('"records": 20') == 6
    assert '"truncated": 20' in text
    assert "injury" not in text


def test_scoring_needs_no_run(configured: Configure, prompts: Path) -> None:
    """The start of an adapter scores as the base model does."""
    prepared = prepare(configured(f"data.held_out={prompts}", "evaluate_limit=5"))
    scores = score_adapter(prepared, *fresh_adapter(prepared))

    assert scores.loss_N.shape == (5,)
    prepared.host.put(np.zeros_like(fresh_adapter(prepared)[0]))
    again = score_adapter(prepared, *fresh_adapter(prepared))
    assert hashlib.sha256(scores.loss_N).digest() == hashlib.sha256(again.loss_N).digest()


FAULTS = """
seed: 3
faults:
  - {kind: kill, sites: [site-2], rounds: [1], phases: [roster], moment: after}
  - {kind: kill_coordinator, rounds: [1], phases: [roster], moment: after}
  - {kind: delay, phases: [open], rate: 0.5, seconds: 5, spread: 1}
"""


@pytest.mark.parametrize("mode", ["full", "off"])
def test_a_run_under_a_script_goes_on_and_writes_down_what_happened(
    configured: Configure, tmp_path: Path, mode: str
) -> None:
    """A round whose coordinator is killed is asked again, with the site that died in it; the drawn script replays it."""
    (tmp_path / "rules.yaml").write_text(FAULTS)
    usual = ("sites=5", "rounds=1", f"secure_sum={mode}", "training.steps_per_round=1")

    def run(faults: Path) -> tuple[Result, RunDir]:
        config = configured(*usual, f"faults={faults}")
        folder = RunDir.create(config, marks=())
        return Federation(prepare(config), folder).run(), folder

    first, folder = run(tmp_path / "rules.yaml")
    again, _ = run(folder.path / "faults.yaml")

    assert Checkpoints(folder.path).attempts() == {1: 2}
    assert [len(entry["sites"]) for entry in first.history] == [5]
    assert first.trained_P.tobytes() == again.trained_P.tobytes()


def test_a_script_for_other_sites_is_refused(configured: Configure, tmp_path: Path) -> None:
    """Before a directory exists."""
    (tmp_path / "rules.yaml").write_text("faults: [{kind: drop, sites: [burns]}]")
    config = configured(f"faults={tmp_path / 'rules.yaml'}")
    with pytest.raises(ConfigError, match="faults: found site 'burns'"):
        draft(prepare(config), ("site-1", "site-2", "site-3"), run="r")
