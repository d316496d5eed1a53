"""An operator reads what is different about a plan, all of it, in words that the plan cannot forge."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from partsong.client.rules.plan_words import LONGEST_VALUE, MOST_LINES, differences, shown, size, summary
from partsong.common.adapters.adapter import AdapterLayout, TensorSpec
from partsong.common.adapters.turns import Turn
from partsong.common.config import TrainingConfig
from partsong.common.groups import Groups
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.common.questions.question import Question, equal_parts
from partsong.common.questions.vote import Vote

QUESTION = Question(parts=equal_parts("units"), most_units=5, loss_clip=8.0)
VOTE = Vote(most_votes=5, margin=0.5, scale=0.5, noise_multiplier=None)
MakePlan = Callable[..., Plan]
MakeDp = Callable[..., DpPlan]


def adapter(rank: int, *layers: str) -> AdapterLayout:
    """A-frozen LoRA of this rank on these layers, 1000 wide."""
    return AdapterLayout(
        tensors=tuple(
            TensorSpec(name=f"m.{layer}.lora_{ab}.weight", shape=shape, trained=ab == "B")
            for layer in layers
            for ab, shape in (("A", (rank, 1000)), ("B", (1000, rank)))
        )
    )


def on(plan: Plan, layout: AdapterLayout, **changes: Any) -> Plan:
    """The plan on another adapter."""
    blocks = (dataclasses.replace(plan.encoding.blocks[0], size=layout.size(trained=True)), plan.encoding.blocks[1])
    encoding = dataclasses.replace(plan.encoding, blocks=blocks)
    return dataclasses.replace(plan, layout=layout, encoding=encoding, **changes)


def test_the_example_of_the_issue_in_words(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """Rank, epsilon and megabytes, each with what it was before."""
    last = on(make_plan(dp=make_dp(epsilon=3.3), rounds=100), adapter(8, "q", "v"))
    plan = on(make_plan(dp=make_dp(epsilon=4.0), rounds=100, run="run-2"), adapter(16, "q", "v"))
    plan = dataclasses.replace(plan, lora={**plan.lora, "r": 16})
    last = dataclasses.replace(last, lora={**last.lora, "r": 8})

    assert differences(plan, last) == (
        "epsilon +0.7 (3.3 -> 4)",
        "rank 8 -> 16",
        "12.9 MB leave (6.45 MB before)",
        "32,000 numbers are trained (16,000 before)",
        "encoding.blocks[0].size 16000 -> 32000",
        "run run-1 -> run-2",
    )


def test_the_same_plan_has_no_difference_and_another_run_of_it_says_what_it_costs(make_plan: MakePlan) -> None:
    """A new name for the same job spends the whole epsilon once more, and the operator is told so."""
    plan = make_plan()

    assert differences(plan, plan) == ()
    again = differences(dataclasses.replace(plan, run="run-2"), plan)
    assert again == ("the same job once more: it costs its whole epsilon again", "run run-1 -> run-2")


def test_the_first_job_is_told_once(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """There is nothing to compare with, and its summary stands above already."""
    plan = make_plan(dp=make_dp())

    assert differences(plan, None) == ("the first job of this purpose",)
    assert summary(plan) == (
        "run run-1: train, 3 rounds of 2 steps",
        "base bbbbbbbbbbbb, rank 2 on q",
        "epsilon 8 at delta 0.0001 for one record, noise multiplier 1",
        "120 bytes leave UNMASKED, 3 sites or more",
    )


def test_differential_privacy_taken_away_is_the_first_line(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """And its return is told too."""
    private, bare = make_plan(dp=make_dp()), make_plan()

    assert differences(bare, private)[0] == "NO differential privacy"
    assert differences(private, bare)[0].endswith("(none before)")
    assert "NO differential privacy" in summary(bare)


def test_a_sum_that_is_no_longer_masked_is_told_before_anything_else(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """Before epsilon, which says nothing of who reads the vectors."""
    masked = make_plan(masked=True, dp=make_dp(epsilon=2.0))
    bare = dataclasses.replace(masked, masked=False, dp=make_dp(epsilon=3.0))

    assert differences(bare, masked)[:2] == ("leaves UNMASKED, readable one by one", "epsilon +1 (2 -> 3)")
    assert differences(masked, bare)[0] == "leaves masked (before: unmasked)"
    assert "120 bytes leave masked, 3 sites or more" in summary(masked)


def changed(plan: Plan) -> dict[str, Plan]:
    """The plan with each of its fields changed, one at a time, under one run name."""
    other = {
        "rounds": 4,
        "task": "classification",
        "base_sha256": "b" * 12 + "c" * 52,
        "method": "fedit",
        "lora": {**plan.lora, "use_rslora": True},
        "layout": AdapterLayout(tensors=tuple(reversed(plan.layout.tensors))),
        "frozen_sha256": "e" * 64,
        "start_sha256": "e" * 64,
        "masked": True,
        "spot_checks": True,
        "optimizer": dataclasses.replace(plan.optimizer, momentum=0.5),
        "training": dataclasses.replace(plan.training, learning_rate=0.9),
        "encoding": dataclasses.replace(plan.encoding, field_bits=31),
        "minimum_cohort": 4,
        "max_length": 65,
        "turns": (Turn(trains="B", learning_rate=0.2, clip_norm=1.0, update_clip=4.0),),
        "rounds_per_turn": 2,
        "rotation": 0.5,
    }
    made = {name: {name: value} for name, value in other.items()}
    made["task"] |= {"labels": ("a", "b")}
    made["rotation"] |= {"method": "fedrot"}
    found = {name: dataclasses.replace(plan, **change) for name, change in made.items()}
    if plan.dp is not None:
        for key, value in {
            "epsilon": 8.5,
            "delta": 1e-5,
            "clip_norm": 2.0,
            "clipping": "autos",
            "noise_multiplier": 1.1,
            "loss_clip": 9.0,
            "loss_noise_multiplier": 5.0,
            "engine": "flat",
        }.items():
            found[f"dp.{key}"] = dataclasses.replace(plan, dp=dataclasses.replace(plan.dp, **{key: value}))
        rate = dataclasses.replace(plan.dp, sampling_rate=0.2)
        found["sampling_rate"] = dataclasses.replace(plan, sampling_rate=0.2, dp=rate)
    return found


def test_no_field_of_a_plan_can_change_unseen(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """Each field changed alone gives a line of its own; the fields are counted, so a new one has to be added here."""
    plan = make_plan(dp=make_dp())
    covered = set()
    for name, other in changed(plan).items():
        lines = differences(other, plan)
        assert lines != (), name
        assert not any("the same job" in line for line in lines), name
        covered.add(name.partition(".")[0])

    fields = {f.name for f in dataclasses.fields(Plan)}
    # One purpose; the others below.
    assert fields - covered == {"run", "study", "labels", "seed", "question", "vote", "groups"}
    training = TrainingConfig(steps_per_round=1)
    asked = make_plan(study="evaluate", question=QUESTION, sampling_rate=1.0, training=training)
    wider = dataclasses.replace(asked, question=dataclasses.replace(QUESTION, most_units=9))
    assert differences(wider, asked) == ("question.most_units 5 -> 9",)
    assert "asks for sums of units and loss: 1 numbers" in summary(asked)
    bare = make_plan(rounds=4)
    voted = dataclasses.replace(bare, vote=VOTE)
    stricter = dataclasses.replace(bare, vote=dataclasses.replace(VOTE, margin=0.0))
    assert "test records vote on every second round, at most 5 votes a site" in differences(voted, bare)
    assert differences(stricter, voted) == ("vote.margin 0.5 -> 0.0",)
    dealt = Groups(sites=(("a", "b", "c"), ("d", "e", "f"), ("g", "h", "i")))
    grouped, whole = make_plan(rounds=6, groups=dealt), make_plan(rounds=6)
    swapped = Groups(sites=(("a", "b", "d"), ("c", "e", "f"), ("g", "h", "i")))
    assert "a sum is of one of 3 groups (3, 3, 3 sites), whose median moves the adapter" in differences(grouped, whole)
    assert len(differences(dataclasses.replace(grouped, groups=swapped), grouped)) == 2
    classes = make_plan(task="classification", labels=("a", "b"))
    turned, fewer = (dataclasses.replace(classes, labels=labels) for labels in (("b", "a"), ("a", "c")))
    assert differences(turned, classes) == ("labels in another order",)
    assert differences(fewer, classes) == ("labels + c, - b",)
    assert differences(dataclasses.replace(classes, seed=1), classes) == ("seed null -> 1",)


def test_the_sampling_rate_is_told_once(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """A private plan has it twice, and always the same; one without privacy has it once, and is told of too."""
    private, open_ = make_plan(dp=make_dp()), make_plan()
    rarer = dataclasses.replace(private, sampling_rate=0.02, dp=dataclasses.replace(private.dp, sampling_rate=0.02))

    assert [line for line in differences(rarer, private) if "sampling" in line] == ["sampling_rate 0.1 -> 0.02"]
    assert "sampling_rate 0.1 -> 0.3" in differences(dataclasses.replace(open_, sampling_rate=0.3), open_)
    assert "sampling_rate 0.3 -> 0.1" in differences(private, dataclasses.replace(open_, sampling_rate=0.3))


def test_layers_are_named_by_what_is_trained(make_plan: MakePlan) -> None:
    """Added and removed layers, out of the tensors and not out of the options."""
    last, plan = on(make_plan(), adapter(2, "q", "v")), on(make_plan(), adapter(2, "q", "up"))

    assert "layers + up, - v" in differences(plan, last)


def test_options_that_contradict_the_shapes_are_told(make_plan: MakePlan) -> None:
    """A rank that the options name and the shapes do not have is a difference too."""
    plan = make_plan()
    odd = dataclasses.replace(plan, lora={**plan.lora, "r": 1})

    assert any(line.startswith("lora.r") for line in differences(odd, plan))


@pytest.mark.parametrize(
    "text", ["\x1b[2J\x1b[31mAPPROVED", "a\nACCEPTED by person", "\u202eevil", "x" * 10_000, "\x00", "\x9b31m"]
)
def test_what_a_coordinator_wrote_cannot_play_with_the_terminal(make_plan: MakePlan, text: str) -> None:
    """Control characters are escaped, long texts cut, and each difference stays one line."""
    plan = make_plan()
    odd = dataclasses.replace(plan, lora={**plan.lora, text: text, "target_modules": [text]})

    for line in (*differences(odd, plan), *summary(odd), shown(text)):
        assert line.isprintable()
        assert len(line) < 6 * LONGEST_VALUE


def test_a_thousand_differences_do_not_hide_the_weighty_ones(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """Privacy and size come first, the rest is counted."""
    last = make_plan(dp=make_dp(epsilon=2.0))
    flood = {**last.lora, **{f"a{i}": i for i in range(1000)}}
    plan = dataclasses.replace(last, lora=flood, dp=make_dp(epsilon=9.0), run="other")

    lines = differences(plan, last)

    assert lines[0] == "epsilon +7 (2 -> 9)"
    assert len(lines) == MOST_LINES + 1
    assert lines[-1] == f"and {1000 + 2 - MOST_LINES} more differences"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (14_000_000, "14 MB"), (2_500_000_000, "2.5 GB")],
)
def test_bytes_are_said_as_people_say_them(count: int, text: str) -> None:
    """Decimal units."""
    assert size(count) == text
