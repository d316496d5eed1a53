"""Padding, and passes of like length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.data.batch import by_length, pad
from partsong.client.data.encode import Record


def record(size: int, label: int = -1) -> Record:
    """Make a record of `size` tokens with loss on all but the first."""
    ids = np.arange(1, size + 1, dtype=np.int32)
    return Record(input_ids=ids, labels=np.where(ids > 1, ids, -100).astype(np.int32), label=label, unit=None)


def test_short_records_are_filled_on_the_right() -> None:
    """Ids, mask, labels and classes of a batch of two."""
    batch = pad([record(2, label=4), record(3)], pad_id=9)

    assert batch.input_ids.tolist() == [[1, 2, 9], [1, 2, 3]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.labels.tolist() == [[-100, 2, -100], [-100, 2, 3]]
    assert batch.label.tolist() == [4, -1]
    assert {a.dtype for a in (batch.input_ids, batch.attention_mask, batch.labels, batch.label)} == {np.dtype(np.int64)}


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), max_size=8), st.integers(1, 16), st.integers(0, 50))
def test_padding_can_be_taken_off_again(sizes: list[int], multiple_of: int, pad_id: int) -> None:
    """Each row holds its record and nothing else under the mask; the width is the smallest allowed one."""
    records = [record(size) for size in sizes]

    batch = pad(records, pad_id=pad_id, multiple_of=multiple_of)

    width = batch.input_ids.shape[1]
    assert width % multiple_of == 0
    assert width - multiple_of < max(sizes, default=1) <= width
    for i, item in enumerate(records):
        kept = batch.attention_mask[i] == 1
        assert np.array_equal(batch.input_ids[i][kept], item.input_ids)
        assert np.array_equal(batch.labels[i][kept], item.labels)
        assert set(batch.input_ids[i][~kept]) <= {pad_id}
        assert set(batch.labels[i][~kept]) <= {-100}


def test_no_record_is_an_empty_batch() -> None:
    """A Poisson sample may be empty, and so may be what is made of it."""
    batch = pad([], pad_id=0, multiple_of=8)

    assert batch.input_ids.shape == batch.labels.shape == batch.attention_mask.shape == (0, 8)
    assert batch.label.shape == (0,)
    assert by_length([], [3, 4], batch_size=2) == []


@settings(deadline=None)
@given(st.data(), st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 7))
def test_every_index_is_in_one_pass_and_lengths_never_rise(data: st.DataObject, lengths: list[int], size: int) -> None:
    """The sample is the same, only its order is not; equal lengths keep theirs."""
    indices = data.draw(st.lists(st.integers(0, len(lengths) - 1)))

    passes = by_length(np.array(indices, dtype=np.int64), lengths, batch_size=size)

    flat = [int(i) for batch in passes for i in batch]
    assert flat == sorted(indices, key=lambda i: -lengths[i])
    assert all(len(batch) == size for batch in passes[:-1])
    assert all(0 < len(batch) <= size for batch in passes)


def test_passes_of_like_length_need_less_padding() -> None:
    """The reason to sort: on lengths that alternate, half the rectangle was padding."""
    lengths = [2, 20] * 8
    records = [record(size) for size in lengths]

    def area(passes: list[np.ndarray]) -> int:
        return sum(pad([records[i] for i in batch], pad_id=0).input_ids.size for batch in passes)

    assert area(by_length(range(16), lengths, batch_size=4)) == sum(lengths)
    assert area([np.arange(i, i + 4) for i in range(0, 16, 4)]) == 16 * 20


def test_an_index_beyond_the_records_is_an_error() -> None:
    """Nothing is clipped or wrapped around."""
    with pytest.raises(IndexError):
        by_length([2], [1, 1], batch_size=1)
