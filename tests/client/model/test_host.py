"""The resident model: losses record by record, and an adapter that goes in and out."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.client.data.batch import Batch, pad
from partsong.client.data.encode import Record
from partsong.client.model.host import ModelHost
from partsong.common.errors import WireError

MakeHost = Callable[..., ModelHost]
MakeRecords = Callable[..., tuple[Record, ...]]


def batch_of(host: ModelHost, *records: Record, multiple_of: int = 1) -> Batch:
    return pad(records, pad_id=host.pad_id, multiple_of=multiple_of)


def alone(host: ModelHost, records: tuple[Record, ...]) -> np.ndarray:
    """The reference: each record in a pass of its own."""
    return np.array([float(host.loss_B(batch_of(host, r)).detach()[0]) for r in records])


@pytest.mark.parametrize("base", ["llama", "bert"])
def test_a_records_loss_does_not_depend_on_the_rest_of_its_pass(
    base: str, make_records: MakeRecords, request: pytest.FixtureRequest
) -> None:
    """Unequal lengths, extra padding, another order: the same losses as with batch size 1."""
    host, records = request.getfixturevalue(base), make_records()
    expected = alone(host, records)

    together = host.loss_B(batch_of(host, *records, multiple_of=16)).detach().numpy()
    backwards = host.loss_B(batch_of(host, *records[::-1])).detach().numpy()[::-1]

    assert together == pytest.approx(expected, rel=2e-5)
    assert backwards == pytest.approx(expected, rel=2e-5)
    assert len(set(expected.round(3))) == len(records)


@pytest.mark.parametrize("base", ["llama", "bert"])
def test_a_records_gradient_does_not_depend_on_the_rest_of_its_pass(
    base: str, make_records: MakeRecords, request: pytest.FixtureRequest
) -> None:
    """The gradient of entry b of the loss vector is that of record b alone."""
    host, records = request.getfixturevalue(base), make_records((9, 3, 6))
    loss_B = host.loss_B(batch_of(host, *records))

    for i, record in enumerate(records):
        together = torch.autograd.grad(loss_B[i], host.trainable(), retain_graph=True)
        by_itself = torch.autograd.grad(host.loss_B(batch_of(host, record))[0], host.trainable())
        for a, b in zip(together, by_itself, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_the_mean_loss_of_transformers_is_not_ours(llama: ModelHost, make_records: MakeRecords) -> None:
    """Control: its mean over all tokens of a pass weighs records by length, so it is neither sum nor mean of ours."""
    records = make_records()
    batch = batch_of(llama, *records)
    loss_B = llama.loss_B(batch).detach().numpy()

    theirs = float(
        llama.model(
            input_ids=torch.from_numpy(batch.input_ids),
            attention_mask=torch.from_numpy(batch.attention_mask),
            labels=torch.from_numpy(batch.labels),
        ).loss.detach()
    )

    tokens_B = np.array([(r.labels[1:] != -100).sum() for r in records])
    assert theirs == pytest.approx((loss_B * tokens_B).sum() / tokens_B.sum(), rel=1e-4)
    assert abs(theirs - loss_B.mean()) > 1e-3


def test_logits_of_kept_positions_give_the_loss_of_all_logits(llama: ModelHost, make_records: MakeRecords) -> None:
    """Leaving the prompts' vocabulary projection out changes no loss."""
    records = make_records((9, 12, 7), prompt=5)
    batch = batch_of(llama, *records)
    logits = llama.model(
        input_ids=torch.from_numpy(batch.input_ids), attention_mask=torch.from_numpy(batch.attention_mask)
    ).logits[:, :-1]
    target = torch.from_numpy(batch.labels)[:, 1:]
    token = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target, ignore_index=-100, reduction="none")
    expected = token.sum(1) / (target != -100).sum(1)

    kept, _ = llama._kept(batch)

    assert kept.shape[1] == 7 < logits.shape[1]
    torch.testing.assert_close(llama.loss_B(batch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_record_without_anything_to_predict_has_loss_zero_and_is_no_hit(
    llama: ModelHost, make_records: MakeRecords, length: int
) -> None:
    """One token, or a completion that was cut off: finite, zero, no gradient, and not counted as right."""
    silent = make_records((length,), prompt=length)[0]
    (other,) = make_records((4,))

    for records in ((silent,), (silent, other)):
        loss_B = llama.loss_B(batch_of(llama, *records))
        gradient = torch.autograd.grad(loss_B[0], llama.trainable(), allow_unused=True)
        scores = llama.scores(batch_of(llama, *records))

        assert float(loss_B.detach()[0]) == 0.0
        assert all(g is None or not g.any() for g in gradient)
        assert scores.loss_N[0] == 0.0
        assert not scores.hit_N[0]


def test_a_hit_is_what_greedy_decoding_would_write(llama: ModelHost, make_records: MakeRecords) -> None:
    """The model's own greedy continuation is a hit; with its last token exchanged it is none."""
    prompt = torch.from_numpy(make_records((6,))[0].input_ids[None].astype(np.int64))
    with torch.no_grad():
        out = llama.model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False,
            pad_token_id=llama.pad_id, eos_token_id=None,
        )  # fmt: skip
    ids = out[0].numpy().astype(np.int32)
    right, wrong = ids.copy(), ids.copy()
    wrong[-1] = wrong[-1] + 1 if wrong[-1] < 1000 else 5
    records = []
    for completion in (right, wrong):
        labels = completion.copy()
        labels[:6] = -100
        records.append(Record(input_ids=completion, labels=labels, label=-1, unit=None))

    hit_N = llama.scores(batch_of(llama, *records)).hit_N

    assert hit_N.tolist() == [True, False]


def test_a_class_is_a_hit_where_its_logit_is_the_largest(bert: ModelHost, make_records: MakeRecords) -> None:
    """Exactly one of a record's possible labels is a hit."""
    (record,) = make_records((7,))
    labelled = [Record(input_ids=record.input_ids, labels=record.labels, label=k, unit=None) for k in range(3)]

    scores = bert.scores(batch_of(bert, *labelled))

    assert scores.hit_N.sum() == 1
    assert scores.hit_N.argmax() == scores.loss_N.argmin()


def test_a_decoder_that_classifies_reads_the_last_token_of_each_record(
    make_host: MakeHost, make_records: MakeRecords
) -> None:
    """Padding does not move the place that is read."""
    host = make_host(model={"task": "classification"})
    records = make_records((9, 3, 6))

    together = host.loss_B(batch_of(host, *records, multiple_of=16)).detach().numpy()

    assert together == pytest.approx(alone(host, records), rel=2e-5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), trained=st.booleans())
def test_what_is_put_in_is_taken_out_bit_for_bit(llama: ModelHost, *, seed: int, trained: bool) -> None:
    """`put` and `take` are inverses for both parts, and leave the other part alone."""
    size = llama.layout.size(trained=trained)
    vector = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    other = llama.take(trained=not trained)

    llama.put(vector, trained=trained)

    assert llama.take(trained=trained).tobytes() == vector.tobytes()
    assert llama.take(trained=not trained).tobytes() == other.tobytes()


def test_an_adapter_of_another_size_is_refused_and_changes_nothing(llama: ModelHost) -> None:
    """Nothing of a misfit is written."""
    before = llama.take()

    with pytest.raises(WireError, match="expected"):
        llama.put(before[:-1] + 1)

    assert (llama.take() == before).all()


def test_training_mode_ends_with_its_block(llama: ModelHost) -> None:
    """Also when the block fails."""
    assert not llama.model.training

    def fail() -> None:
        with llama.training() as model:
            assert model.training
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not llama.model.training


def test_an_answer_is_text_that_follows_the_prompt(llama: ModelHost) -> None:
    """Greedy, so it is the same twice; special tokens are left out."""
    first = llama.answer("Fracture of the", max_new_tokens=4)

    assert first == llama.answer("Fracture of the", max_new_tokens=4)
    assert "<|" not in first
