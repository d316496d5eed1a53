"""The .proto and the dataclasses say the same, and what fits neither is refused."""

import dataclasses
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quiet_daemons import SITE

from partsong.common.control import control_pb2 as pb
from partsong.common.control import surfaces
from partsong.common.control.feed import ProgressEvent
from partsong.common.control.messages import from_message, progress_event, progress_message, to_message
from partsong.common.errors import WireError
from partsong.common.facts import FIELDS, LONGEST_WORD, Scalar

KINDS = [kind for kind in vars(surfaces).values() if dataclasses.is_dataclass(kind)]
ENUMS = {
    "DaemonState": surfaces.DaemonState,
    "Decision": surfaces.Decision,
    "Decider": typing.get_type_hints(surfaces.PlanStatus)["by"],
    "RunState": surfaces.RunState,
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_dataclass_has_a_message_with_its_fields(kind: type) -> None:
    """Name by name, in both directions."""
    message = pb.DESCRIPTOR.message_types_by_name[kind.__name__]

    assert set(message.fields_by_name) == {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("name", ENUMS)
def test_each_choice_has_an_enum_with_its_values(name: str) -> None:
    """Nothing but `unspecified` is on the wire alone."""
    values = [value.name for value in pb.DESCRIPTOR.enum_types_by_name[name].values]

    prefix = values[0].removesuffix("UNSPECIFIED")

    assert [v.removeprefix(prefix).lower() for v in values[1:]] == list(typing.get_args(ENUMS[name]))


@pytest.mark.parametrize("field", ["state", "charter"])
def test_a_status_without_a_field_that_must_be_there_is_refused(field: str) -> None:
    """An enum left at its zero and a message left out are no values."""
    message = to_message(pb.SiteStatus, SITE)
    message.ClearField(field)

    with pytest.raises(WireError, match=field):
        from_message(surfaces.SiteStatus, message)


def test_an_enum_value_of_a_later_version_is_refused() -> None:
    """A number without a name is not taken for a known state."""
    message = to_message(pb.SiteStatus, SITE)
    message.state = 99

    with pytest.raises(WireError, match="state"):
        from_message(surfaces.SiteStatus, message)


_WORDS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,20}", fullmatch=True)
_BY_TYPE = {
    str: _WORDS,
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
}
_FACTS = st.lists(st.sampled_from(sorted(FIELDS)), unique=True, max_size=8).flatmap(
    lambda names: st.fixed_dictionaries({name: _BY_TYPE[FIELDS[name]] for name in names})
)


@settings(deadline=None, max_examples=150)
@given(event=_WORDS, time_ms=st.integers(0, 2**62), facts=_FACTS)
def test_an_event_comes_back_as_it_was(event: str, time_ms: int, facts: dict[str, Scalar]) -> None:
    """Any facts of the list cross with value and type."""
    told = ProgressEvent(event=event, time_ms=time_ms, facts=facts)

    back = progress_event(pb.ProgressEvent.FromString(progress_message(told).SerializeToString()))

    assert back == told
    assert [type(v) for v in back.facts.values()] == [type(v) for v in told.facts.values()]


@pytest.mark.parametrize(
    "fact",
    [
        pb.Fact(name="record_text", text="x"),
        pb.Fact(name="round", text="1"),
        pb.Fact(name="site", text="x" * (LONGEST_WORD + 1)),
        pb.Fact(name="site", text="two words"),
        pb.Fact(name="round"),
        pb.Fact(name="took_s", number=float("nan")),
    ],
)
def test_a_fact_that_may_not_be_told_is_not_taken_either(fact: pb.Fact) -> None:
    """A daemon of another version cannot make a command print what is not of the list."""
    with pytest.raises(WireError):
        progress_event(pb.ProgressEvent(event="x", facts=[fact]))


def test_a_fact_told_twice_is_refused() -> None:
    """Two values for one name have no meaning."""
    fact = pb.Fact(name="round", integer=1)

    with pytest.raises(WireError, match="twice"):
        progress_event(pb.ProgressEvent(event="x", facts=[fact, fact]))
