"""The public rotation: an isometry, its own undoing, and an even spread of any pattern."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from partsong.common.secure_sum.rotation import padded_shape, rotate, rotate_back

SEED = bytes(range(32))
SIZES = st.one_of(st.integers(1, 40), st.integers(1, 5000))


def padded(values_P: np.ndarray) -> np.ndarray:
    shape = padded_shape(values_P.size)
    out_D = np.zeros(shape[0] * shape[1])
    out_D[: values_P.size] = values_P
    return out_D


def by_definition(padded_D: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The rotation as matrices, written from the module's description."""
    height, width = shape
    hadamard = np.array([[(-1) ** (i & j).bit_count() for j in range(height)] for i in range(height)], float)

    def signs(stage: int) -> np.ndarray:
        key = hashlib.sha256(b"partsong/1 rotation" + bytes([stage]) + SEED).digest()
        stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(padded_D.size))
        return np.array([1.0 - 2.0 * (stream[i // 8] >> (i % 8) & 1) for i in range(padded_D.size)])

    first = (hadamard @ (padded_D * signs(1)).reshape(height, width)).reshape(-1)
    second = (first * signs(2)).reshape(width, height) @ hadamard.T
    return second.reshape(-1) / height


@given(st.one_of(SIZES, st.integers(1, 20_000_000)))
def test_the_padding_stays_below_four_roots_of_the_size(size: int) -> None:
    """Padding is bounded, the height is a power of two and covers each column four times or the vector once."""
    height, width = padded_shape(size)

    assert height * width >= size
    assert height * width - size < 4 * size**0.5
    assert height & (height - 1) == 0
    assert height >= 4 * width or width == 1


@given(SIZES, st.integers(0, 2**32 - 1))
def test_rotating_back_gives_the_vector(size: int, seed: int) -> None:
    """The two directions are inverse and keep lengths, for any size."""
    before = padded(np.random.default_rng(seed).standard_normal(size))
    shape = padded_shape(size)
    vector = before.copy()

    rotate(vector, shape=shape, seed=SEED)
    length = np.linalg.norm(vector)
    rotate_back(vector, shape=shape, seed=SEED)

    assert length == pytest.approx(np.linalg.norm(before))
    assert np.abs(vector - before).max() < 1e-12


@pytest.mark.parametrize("size", [1, 2, 3, 5, 37, 200])
def test_it_is_the_transform_of_its_description(size: int) -> None:
    """The fast form equals explicit sign and Hadamard matrices."""
    before = padded(np.random.default_rng(size).standard_normal(size))
    vector = before.copy()

    rotate(vector, shape=padded_shape(size), seed=SEED)

    assert np.abs(vector - by_definition(before, padded_shape(size))).max() < 1e-12


def test_float32_gives_the_same_rotation_to_its_own_precision() -> None:
    """The type of the buffer changes the rounding only."""
    wide = padded(np.random.default_rng(3).standard_normal(3000))
    narrow = wide.astype(np.float32)

    rotate(wide, shape=padded_shape(3000), seed=SEED)
    rotate(narrow, shape=padded_shape(3000), seed=SEED)

    assert narrow.dtype == np.float32
    assert np.abs(wide - narrow).max() < 1e-5


def patterns(size: int) -> dict[str, np.ndarray]:
    _, width = padded_shape(size)
    place = np.arange(size)
    return {
        "one entry": (place == 5).astype(float),
        "every eighth": (place % 8 == 0).astype(float),
        "one column": (place % width == 3).astype(float),
        "one run": (place < 512).astype(float),
        "all alike": np.ones(size),
    }


@pytest.mark.parametrize("name", ["one entry", "every eighth", "one column", "one run", "all alike"])
def test_no_pattern_survives(name: str) -> None:
    """Six standard deviations hold every coordinate, whatever the vector looked like."""
    size = 100_000
    vector = padded(patterns(size)[name])
    vector /= np.linalg.norm(vector)

    rotate(vector, shape=padded_shape(size), seed=SEED)

    assert np.abs(vector).max() * vector.size**0.5 < 6


def test_one_round_alone_would_leave_a_pattern() -> None:
    """With the columns transformed but not the runs, the energy of one column stays in it: the control."""
    size = 100_000
    height, width = padded_shape(size)
    vector = padded(patterns(size)["one column"]).reshape(height, width)
    vector /= np.linalg.norm(vector)
    signs = np.where(np.random.default_rng(0).random(height) < 0.5, -1.0, 1.0)
    hadamard = np.array([[(-1) ** (i & j).bit_count() for j in range(height)] for i in range(height)], float)

    column = hadamard @ (vector[:, 3] * signs) / height**0.5

    assert np.abs(column).max() * vector.size**0.5 > 6


def test_another_seed_is_another_rotation() -> None:
    """Two seeds spread one vector in unrelated ways."""
    one = padded(np.random.default_rng(1).standard_normal(4096))
    two = one.copy()

    rotate(one, shape=padded_shape(4096), seed=SEED)
    rotate(two, shape=padded_shape(4096), seed=bytes(32))

    assert abs(np.corrcoef(one, two)[0, 1]) < 0.06
