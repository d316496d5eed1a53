"""Composition: every file composes, every mistake is answered, nothing is lost on the way."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.build import build, to_tree
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError
from partsong.simulations.configure import compose_simulation, known_keys, to_yaml

Configure = Callable[..., SimulationConfig]
CONF = Path(str(files("partsong.conf") / ""))
GROUPS = ("model", "data", "adapter", "privacy", "secure_sum", "steps", "demo", "demo/arm")
CHOICES = sorted(
    f"{group.relative_to(CONF)}={file.stem}"
    for group in (CONF / name for name in GROUPS)
    for file in group.glob("*.yaml")
)  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_of_the_configuration_composes(choice: str) -> None:
    """By itself on top of the defaults."""
    plus = "+" if choice.startswith("demo") else ""
    config = compose_simulation([f"{plus}{choice}", *(["model.source=x"] if choice == "model=local" else [])])

    assert isinstance(config, SimulationConfig)


def test_no_file_was_missed() -> None:
    """Each YAML file but the entry points and those of `partsong deploy` is one of the choices above."""
    others = {"simulation.yaml", "audit.yaml", "job.yaml", "canary.yaml", "study.yaml", "deploy/compose.yaml"}
    files = {str(file.relative_to(CONF)) for file in CONF.rglob("*.yaml")}
    assert others < files
    assert len(CHOICES) == len(files - others)


def test_yaml_files_hold_differences_only() -> None:
    """A default lives once: no value in a group's file repeats the default of its dataclass, a demo's apart."""
    plain = to_tree(build(SimulationConfig, {"model": {"source": ""}, "data": {}}))
    repeated = []
    for file in CONF.rglob("*.yaml"):
        if file.parent.name in ("conf", "demo", "arm", "adapter", "privacy", "secure_sum", "deploy"):  # choices name it
            continue
        held = yaml.safe_load(file.read_text()) or {}
        for section, values in (held if file.parent.name == "steps" else {file.parent.name: held}).items():
            for key, value in values.items():
                if key not in ("task", "builtin") and plain[section][key] == value:
                    repeated.append(f"{file.name}: {section}.{key}")
    assert repeated == []


@settings(max_examples=25, deadline=None)
@given(
    rounds=st.integers(1, 10**6),
    epsilon=st.floats(0.01, 100),
    targets=st.lists(st.sampled_from(["q_proj", "v_proj", "up_proj"]), min_size=1, unique=True),
    sites=st.none() | st.integers(1, 99),
    source=st.text("abc/._-[]{}:, ='\"\\", min_size=1),
)
def test_what_was_composed_prints_as_yaml_that_builds_to_the_same(
    rounds: int, epsilon: float, targets: list[str], sites: int | None, source: str
) -> None:
    """Whatever the values hold, quotes and brackets included."""
    wished = {
        "model": {"source": source},
        "data": {},
        "rounds": rounds,
        "privacy": {"epsilon": epsilon},
        "adapter": {"target_modules": targets},
        "sites": sites,
    }
    config = build(SimulationConfig, wished)

    assert build(SimulationConfig, yaml.safe_load(to_yaml(config))) == config


def test_overrides_win_over_files_in_their_order(configured: Configure) -> None:
    """The last value of a key counts."""
    assert configured("rounds=3", "rounds=4").rounds == 4


def test_unknown_options_of_peft_pass_and_other_unknown_keys_do_not(configured: Configure) -> None:
    """The one open place is `adapter.peft`."""
    assert configured("adapter.peft.use_rslora=true").adapter.peft == {"use_rslora": True}
    with pytest.raises(ConfigError, match=r"adapter\.petf.*did you mean"):
        configured("adapter.petf=1")
    with pytest.raises(ConfigError, match=r"foo: found an unknown key"):
        configured("+foo=1")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("demo=smollm9", "found 'smollm9', expected one of .*smollm2"),
        ("privacy=dpp", "expected one of dp, none$"),
        ("adapter=lora", "expected one of fedit, fedrot, fedsb, ffa, hlora, rolora, sketch$"),
        ("data=loca", "or data=local with your own"),
        ("privacy.epsilon=[1", "overrides that do not compose"),
        ("rounds", "expected key=value"),
    ],
)
def test_a_choice_that_does_not_exist_is_answered_with_those_that_do(
    configured: Configure, override: str, words: str
) -> None:
    """`local` is proposed where there is one."""
    with pytest.raises(ConfigError, match=words):
        configured(("+" if override.startswith("demo") else "") + override)


def test_every_key_is_known_by_its_dotted_name() -> None:
    """Sections are followed down to the values."""
    keys = known_keys(SimulationConfig)

    assert {"privacy.epsilon", "model.source", "rounds", "adapter.peft"} <= set(keys)
    assert "privacy" not in keys


def test_composing_leaves_nothing_for_the_next_time(configured: Configure) -> None:
    """Two compositions in a row do not see each other, also after a failed one."""
    first = configured()
    with pytest.raises(ConfigError):
        configured("rounds=x")

    assert configured() == first
