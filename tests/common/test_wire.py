"""The wire: strict, canonical, versioned."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common import wire
from partsong.common.build import to_tree
from partsong.common.errors import WireError
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan

MakePlan = Callable[..., Plan]
MakeDp = Callable[..., DpPlan]

OPEN = wire.Open(plan_sha256="p", round=2, attempt=1, adapter_sha256="a", summed=1)
SMALL = [
    wire.Accept(site="north", plan_sha256="p"),
    wire.Refuse(site="north", code="policy"),
    OPEN,
    wire.Ready(site="north", round=2, attempt=1),
    wire.Roster(plan_sha256="p", round=2, attempt=1, sites=("north", "süd", "west")),
    wire.Report(site="north", round=2, attempt=1),
    wire.Keys(plan_sha256="p", step="pair"),
    wire.Keyed(site="north", step="finish"),
    wire.Confirm(plan_sha256="p", round=2, attempt=1),
    wire.Unmask(plan_sha256="p", round=2, attempt=1),
    wire.Step(site="north", round=2, attempt=1),
    wire.Result(plan_sha256="p", summed=2, adapter_sha256="a"),
    wire.Checked(site="north"),
    wire.Offer(adapters=(wire.Offered(run="run-1", plan_sha256="a" * 64, adapter_sha256="b" * 64),)),
    wire.Want(site="north", plans=("a" * 64,)),
    wire.Stored(site="north", plan_sha256="a" * 64),
]


def header(*, body: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """An OPEN header with changes, canonical otherwise."""
    tree: dict[str, Any] = {"wire": 1, "kind": "open", "body": to_tree(OPEN) | (body or {})} | changes
    tree = {k: v for k, v in tree.items() if v is not ...}
    tree["body"] = {k: v for k, v in tree["body"].items() if v is not ...}
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("message", SMALL, ids=lambda m: m.kind)
def test_every_message_comes_back_as_it_went_out(message: Any) -> None:
    """Decoding is the inverse of encoding, and the kind can be read beforehand."""
    data = wire.encode(message)

    assert wire.decode(data, type(message)) == message
    assert wire.kind_of(data) == message.kind


def test_a_plan_comes_back_with_its_digest(make_plan: MakePlan, make_dp: MakeDp) -> None:
    """The plan that a site decodes has the digest of the plan that was proposed."""
    for plan in (make_plan(), make_plan(dp=make_dp()), make_plan(task="classification", labels=("a", "ü"))):
        back = wire.decode(wire.encode(wire.Propose(plan=plan)), wire.Propose).plan

        assert back == plan
        assert back.sha256 == plan.sha256


def test_the_header_made_here_is_the_encoding() -> None:
    """Control: without changes the test's own header is accepted, so refusals below are for the change."""
    assert header() == wire.encode(OPEN)
    assert wire.decode(header(), wire.Open) == OPEN


@pytest.mark.parametrize("version", [2, 0, -1, "1", 1.0, True, None, [1], "x" * 1000, "\x1b[2J"])
def test_an_unknown_wire_version_is_refused_by_name(version: object) -> None:
    """The error names the version found and the one spoken here, briefly and in printable characters."""
    with pytest.raises(WireError, match=r"wire version .* is unknown here, expected 1; update") as caught:
        wire.decode(header(wire=version), wire.Open)

    assert len(str(caught.value)) < 150
    assert str(caught.value).isprintable()
    assert str(version)[:10].isprintable() is False or str(version)[:10] in str(caught.value)


BAD = {
    "not JSON": (b"{", "not JSON"),
    "not UTF-8": (b'{"wire":1,"kind":"\xff"}', "not JSON"),
    "a list": (b"[1]", "no wire version"),
    "no version": (header(wire=...), "no wire version"),
    "another kind": (header(kind="ready"), "expected kind open, found ready"),
    "no kind": (header(kind=...), "expected kind open"),
    "a field beside the body": (header(extra=1), "expected kind open"),
    "an unknown field": (header(body={"extra": 1}), "unknown key"),
    "a missing field": (header(body={"round": ...}), "found nothing"),
    "text for a number": (header(body={"round": "2"}), "expected a int"),
    "a float for an integer": (header(body={"round": 2.0}), "expected a int"),
    "a truth value for an integer": (header(body={"round": True}), "expected a int"),
    "nothing for text": (header(body={"plan_sha256": None}), "expected a str"),
    "spaces": (header().replace(b":", b": "), "not in canonical form"),
    "a trailing newline": (header() + b"\n", "not in canonical form"),
    "another order": (json.dumps(json.loads(header()), separators=(",", ":")).encode()[:1] + b'"kind":"open",'
                      + header()[1:].replace(b'"kind":"open",', b""), "not in canonical form"),
    "a key twice": (header().replace(b'"round":2', b'"round":2,"round":2'), "not in canonical form"),
    "an escaped letter": (header().replace(b'"a"', b'"\\u0061"'), "not in canonical form"),
    "another encoding": (header().decode().encode("utf-16"), "not in canonical form"),
    "half a character": (header().replace(b'"a"', b'"\\ud800"'), "no canonical form"),
    "too long": (header(body={"plan_sha256": "x" * wire.MAX_HEADER_BYTES}), "expected at most 1048576"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_the_protocol_is_refused(case: str) -> None:
    """One message, one encoding; no field more or less."""
    data, text = BAD[case]

    with pytest.raises(WireError, match=text):
        wire.decode(data, wire.Open)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused_where_any_value_may_stand(make_plan: MakePlan, text: str) -> None:
    """LoRA's options are free-form; still, what has no canonical form is no plan."""
    data = wire.encode(wire.Propose(plan=make_plan(lora={"r": 2})))
    hostile = data.replace(b'"lora":{"r":2}', f'"lora":{{"r":{text}}}'.encode())
    assert hostile != data

    with pytest.raises(WireError, match="no canonical form"):
        wire.decode(hostile, wire.Propose)


@pytest.mark.parametrize("depth", [50, 500, 900, 5_000, 200_000])
def test_nesting_is_refused_or_taken_but_never_overflows(make_plan: MakePlan, depth: int) -> None:
    """A deep document ends in a WireError, not in a crash."""
    data = wire.encode(wire.Propose(plan=make_plan(lora={"r": 2})))
    hostile = data.replace(b'"lora":{"r":2}', b'"lora":{"r":' + b"[" * depth + b"]" * depth + b"}")

    try:
        plan = wire.decode(hostile, wire.Propose).plan
    except WireError:
        assert depth > 50
    else:
        assert depth < 5_000
        assert wire.encode(wire.Propose(plan=plan)) == hostile


@pytest.mark.parametrize("name", ["", "\x1b[2Jnorth", "north\nsouth", "x" * 201])
def test_site_names_that_cannot_be_shown_are_refused(name: str) -> None:
    """A name ends up in terminals and reports."""
    tree = {"wire": 1, "kind": "accept", "body": {"site": name, "plan_sha256": "p"}}
    data = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    with pytest.raises(WireError, match="printable"):
        wire.decode(data, wire.Accept)
    with pytest.raises(ValueError, match="printable"):
        wire.Roster(plan_sha256="p", round=1, attempt=1, sites=("north", name))


def published(**changes: Any) -> dict[str, Any]:
    """A file of a published adapter, as it stands on the wire."""
    return {"name": "adapter_model.safetensors", "size": 10, "sha256": "c" * 64} | changes


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([published(name="../../etc/passwd")], "files"),
        ([published(name="adapter_model.bin")], "files"),
        ([published(sha256="c" * 63)], "64 lower-case hex digits"),
        ([published(size=-1)], "files of at most"),
        ([published(name="README.md", size=(1 << 22) + 1), published()], "files of at most"),
        ([published(name="README.md")], "the weights among them"),
        ([published(), published()], "without repeats"),
        ([published(name="privacy.json"), published()], "sorted by name"),
    ],
)
def test_a_published_directory_holds_known_files_only(
    make_plan: MakePlan, files: list[dict[str, Any]], text: str
) -> None:
    """No path, no other ending, no second file of a name; the control is one that comes back."""
    right = wire.Publish(
        plan=make_plan(),
        adapter_sha256="a" * 64,
        files=(wire.PublishedFile(name="README.md", size=3, sha256="b" * 64), wire.PublishedFile(**published())),
    )
    tree = json.loads(wire.encode(right))
    assert wire.decode(wire.encode(right), wire.Publish) == right
    tree["body"]["files"] = files

    with pytest.raises(WireError, match=text):
        wire.decode(json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(), wire.Publish)


def test_an_unknown_refusal_code_is_refused() -> None:
    """Codes are a closed list: a site cannot be made to send words."""
    data = wire.encode(SMALL[1]).replace(b"policy", b"because")

    with pytest.raises(WireError, match="code"):
        wire.decode(data, wire.Refuse)


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"{}", b"\xff", b"[" * 100_000, b" " * (1 << 21)])
def test_a_kind_is_read_from_headers_only(data: bytes) -> None:
    """What has no kind, or is larger than any header, is refused before it is dispatched on."""
    with pytest.raises(WireError, match="message header"):
        wire.kind_of(data)


PATCHES = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "insert", "repeat"]), st.integers(0, 5000), st.binary(max_size=6)),
    min_size=4,
    max_size=4,
)


def mutated(data: bytes, patches: list[tuple[str, int, bytes]]) -> bytes:
    """Overwrite, cut, insert or repeat at places of a message."""
    for what, place, piece in patches:
        at = place % (len(data) + 1)
        if what == "set":
            data = data[:at] + piece + data[at + len(piece) :]
        elif what == "cut":
            data = data[:at] + data[at + 1 + place % 40 :]
        elif what == "insert":
            data = data[:at] + piece + data[at:]
        else:
            data = data[:at] + data[max(0, at - 30) : at] + data[at:]
    return data


@settings(max_examples=2_500, deadline=None)
@given(st.integers(0, len(SMALL) - 1), PATCHES)
def test_a_mutated_message_is_refused_or_is_its_own_encoding(which: int, patches: list[tuple[str, int, bytes]]) -> None:
    """Nothing but WireError comes out, and nothing that decodes has a second spelling."""
    for count in range(1, len(patches) + 1):
        data = mutated(wire.encode(SMALL[which]), patches[:count])

        try:
            message = wire.decode(data, type(SMALL[which]))
        except WireError:
            continue

        assert wire.encode(message) == data


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(st.data(), TREES)
def test_a_plan_with_any_one_value_exchanged_is_refused_or_canonical(data: st.DataObject, value: object) -> None:
    """Whatever stands in one place of the plan, the decoder either refuses or gives exactly that plan."""
    tree = json.loads(PROPOSAL)
    node: Any = tree["body"]["plan"]
    key = data.draw(st.sampled_from(sorted(node)))
    while isinstance(node[key], dict) and node[key] and data.draw(st.booleans()):
        node = node[key]
        key = data.draw(st.sampled_from(sorted(node)))
    node[key] = value
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    try:
        plan = wire.decode(text.encode("utf-8", "surrogatepass"), wire.Propose).plan
    except WireError:
        return

    assert wire.encode(wire.Propose(plan=plan)) == text.encode()


PROPOSAL = (
    '{"body":{"plan":{"base_sha256":"b","dp":{"clip_norm":1.0,"clipping":"abadi","contribution_bound":null,'
    '"delta":0.0001,"engine":"hooks","epsilon":8.0,"loss_clip":8.0,"loss_noise_multiplier":4.0,"noise":"gaussian",'
    '"noise_multiplier":1.0,"on_sum":null,"sampling_rate":0.1,'
    '"unit":"record"},"encoding":{"blocks":[{"clip":4.0,"name":"update","norm":"l2","rotate":true,"size":8}],'
    '"field_bits":32,"max_sites":5},"frozen_sha256":"f","labels":[],"layout":{"tensors":[{"name":"b","shape":[4,2],'
    '"trained":true}]},"lora":{"r":2},"masked":true,"max_length":64,"method":"ffa","minimum_cohort":3,"optimizer":{"beta2":0.99,'
    '"learning_rate":1.0,"momentum":0.9,"name":"fedavg","tau":0.001},"question":null,"rotation":0.0,"rounds":3,"rounds_per_turn":1,"run":"run-1",'
    '"sampling_rate":0.1,"seed":null,"spot_checks":true,"start_sha256":"s","study":"train","task":"causal_lm","training":{"adam_beta1":0.9,'
    '"adam_beta2":0.999,"group_by_length":true,"learning_rate":0.01,"lr_scheduler_type":"constant","optim":"adamw",'
    '"per_device_eval_batch_size":64,"per_device_train_batch_size":16,"prox_mu":0.0,"steps_per_round":2,"weight_decay":0.0},"turns":[]}},'
    '"kind":"propose","wire":1}'
)
"""A proposal as it stands on the wire."""


def test_the_proposal_above_is_accepted() -> None:
    """Control: unchanged it decodes, so the refusals above are for the exchanged value."""
    assert wire.decode(PROPOSAL.encode(), wire.Propose).plan.rounds == 3


def test_vectors_keep_every_bit() -> None:
    """Floats and words travel as little-endian bytes; words are not copied."""
    values = np.array([0.0, -0.0, 1e-45, 3.4e38, -1.5], np.float32)
    words = np.array([0, 1, 2**64 - 1, 0x0102030405060708], np.uint64)

    assert wire.floats(wire.vector_bytes(values), size=5).tobytes() == values.tobytes()
    assert wire.vector_bytes(words)[-8:] == bytes([8, 7, 6, 5, 4, 3, 2, 1])
    data = wire.vector_bytes(words)
    back = wire.words(data, size=4)
    assert (back == words).all()
    assert np.shares_memory(back, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("size", [3, 5, 0])
def test_a_vector_of_another_length_is_refused(size: int) -> None:
    """Not one byte more or less than agreed."""
    with pytest.raises(WireError, match="vector: found 16 bytes"):
        wire.floats(bytes(16), size=size)
    with pytest.raises(WireError, match="vector: found 32 bytes"):
        wire.words(bytes(32), size=size)
    with pytest.raises(WireError, match="vector: found 17 bytes"):
        wire.floats(bytes(17), size=4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_adapter_that_is_not_finite_is_refused(bad: float) -> None:
    """A NaN from the coordinator never reaches a model."""
    with pytest.raises(WireError, match="not finite"):
        wire.floats(wire.vector_bytes(np.array([0, bad], np.float32)), size=2)
