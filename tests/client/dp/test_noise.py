"""Noise has the variance it claims, no memory, and follows its definition."""

import inspect

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from partsong.client.dp import noise
from partsong.client.dp.noise import standard_normal

COUNT = 460_000
"""A 1 % error of the deviation is then 9.6 standard errors: 1 / sqrt(2 * COUNT) = .10 %."""


def in_band(values: torch.Tensor) -> bool:
    """The 99.9 % band of the chi-square test on the variance, mean known to be 0."""
    square = float((values.double() ** 2).sum())
    low, high = stats.chi2.ppf([0.0005, 0.9995], len(values))
    return bool(low < square < high)


def test_the_deviation_is_one_and_one_percent_off_is_seen() -> None:
    """The right noise passes; a percent less or more does not."""
    noise_N = noise._expand(b"\x07" * 32, COUNT)

    assert in_band(noise_N)
    assert not in_band(noise_N * 0.99)
    assert not in_band(noise_N * 1.01)


def test_the_shape_is_normal() -> None:
    """Kolmogorov-Smirnov at 99.9 %; a uniform of the same variance fails it."""
    noise_N = noise._expand(b"\x08" * 32, COUNT).numpy()

    assert stats.kstest(noise_N, "norm").pvalue > 1e-3
    assert stats.kstest(np.random.default_rng(0).uniform(-(3**0.5), 3**0.5, COUNT), "norm").pvalue < 1e-3


def test_the_system_noise_passes_too() -> None:
    """What is drawn in earnest has the same law; the band is wide enough to fail once in 10**9 runs."""
    square = float((standard_normal(COUNT) ** 2).sum())

    low, high = stats.chi2.ppf([5e-10, 1 - 5e-10], COUNT)
    assert low < square < high


def test_no_release_repeats_another() -> None:
    """Neither in whole nor in part: 4 standard errors on the correlation; a scaled copy fails it."""
    first, second = standard_normal(COUNT), standard_normal(COUNT)

    assert abs(float(torch.corrcoef(torch.stack((first, second)))[0, 1])) < 6 / COUNT**0.5
    assert abs(float(torch.corrcoef(torch.stack((first, 0.5 * first + second)))[0, 1])) > 6 / COUNT**0.5


def test_torch_seeds_have_no_say() -> None:
    """A global seed neither fixes the noise nor is used up by it."""
    torch.manual_seed(0)
    first, after_first = standard_normal(8), torch.rand(1)
    torch.manual_seed(0)
    second, after_second = standard_normal(8), torch.rand(1)

    assert not torch.equal(first, second)
    assert torch.equal(after_first, after_second)


def test_a_second_implementation_gives_the_same_values() -> None:
    """Keystream in one call, pairs as complex numbers by numpy, across a chunk's edge."""
    key, count = bytes(range(32)), noise.CHUNK + 3

    ours = noise._expand(key, count).numpy()

    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(2 * 32 * noise.CHUNK))
    uniform = ((np.frombuffer(stream, "<u8") >> np.uint64(12)) + 0.5) / 2.0**52
    first, second, turn, other_turn = uniform.reshape(2, 4, noise.CHUNK).transpose(1, 0, 2)
    pairs = np.sqrt(-2 * np.log(first)) * np.exp(2j * np.pi * turn)
    pairs += np.sqrt(-2 * np.log(second)) * np.exp(2j * np.pi * other_turn)
    theirs = (pairs.real + np.roll(pairs.imag, 1, axis=1)) / 2
    np.testing.assert_allclose(ours, theirs.ravel()[:count], rtol=0, atol=1e-13)


def test_neighbours_share_no_randomness_that_shows() -> None:
    """Cosine and sine of one pair stand in neighbouring values: uncorrelated, also in size."""
    noise_N = noise._expand(b"\x09" * 32, COUNT)

    for values in (noise_N, noise_N**2):
        lagged = float(torch.corrcoef(torch.stack((values[1:], values[:-1])))[0, 1])
        assert abs(lagged) < 4 / COUNT**0.5


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_the_extreme_words_give_finite_symmetric_uniforms(word: int) -> None:
    """Never 0, whose logarithm would be infinite, nor 1."""
    (uniform,) = noise._uniform(np.array([word], dtype=np.uint64))

    assert uniform == (2.0**-53 if word == 0 else 1 - 2.0**-53)
    assert np.isfinite(np.log(uniform))


def test_nothing_about_noise_can_be_chosen_or_kept() -> None:
    """The public function takes a count and nothing else: no seed, no generator, no state."""
    public = [name for name, value in inspect.getmembers(noise, inspect.isfunction) if not name.startswith("_")]

    assert public == ["standard_normal"]
    assert list(inspect.signature(standard_normal).parameters) == ["count"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_length_is_possible(count: int) -> None:
    """Also none, which an adapter without parameters would ask for."""
    values = standard_normal(count)

    assert (values.shape, values.dtype) == ((count,), torch.float64)
