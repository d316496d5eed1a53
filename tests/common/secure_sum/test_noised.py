"""Sums that carry noise: exact without it, noised as promised with it, and never out of their fields."""

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.client.dp.discrete import discrete_gaussian
from partsong.common.secure_sum.fixed_point import Block, Encoding, NotFinite, SumOutOfRange
from partsong.common.secure_sum.noised import LEAST_SCALE, NoisedEncoding, decode_sum, encode

SEED = bytes(range(32))


def silence(count: int, _scale: int) -> np.ndarray:
    return np.zeros(count, np.int64)


def real(count: int, scale: int) -> np.ndarray:
    return discrete_gaussian(count, scale=scale)


def made(*, size: int = 40, sites: int = 5, field_bits: int = 32, std: float = 0.5, clip: float = 30.0):
    blocks = (
        Block(name="update", size=size, clip=clip, norm="l2", rotate=True),
        Block(name="loss", size=1, clip=clip, norm="linf", rotate=False),
    )
    encoding = Encoding(blocks=blocks, field_bits=field_bits, max_sites=sites)
    return NoisedEncoding(encoding=encoding, share_stds={"update": std, "loss": std})


def total(vectors, noised, *, noise=silence, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    words = [encode(v, noised, rotation_seed=SEED, rng=rng, noise=noise) for v in vectors]
    return decode_sum(np.sum(words, axis=0, dtype=np.uint64), noised, sites=len(vectors), rotation_seed=SEED)


@settings(deadline=None, max_examples=25)
@given(
    sites=st.integers(1, 7),
    size=st.integers(1, 70),
    field_bits=st.integers(21, 32),
    length=st.floats(0, 29),
    seed=st.integers(0, 2**32 - 1),
)
def test_without_noise_a_sum_is_the_sum_of_the_vectors(sites, size, field_bits, length, seed) -> None:
    """To within one step of the grid for each site and coordinate."""
    noised = made(size=size, sites=sites, field_bits=field_bits)
    rng = np.random.default_rng(seed)
    vectors = [{"update": rng.normal(size=size), "loss": rng.uniform(0, 30, 1)} for _ in range(sites)]
    for vector in vectors:
        vector["update"] *= length / max(1e-9, np.linalg.norm(vector["update"]))

    sums = total(vectors, noised, seed=seed)

    for block in noised.encoding.blocks:
        exact, grid = sum(v[block.name] for v in vectors), noised.grid(block)
        assert np.linalg.norm(sums[block.name] - exact) <= sites * grid.step * math.sqrt(block.coordinates) + 1e-9


def test_a_sum_that_is_too_long_is_shortened_before_the_noise() -> None:
    """A site's vector of twice the bound counts with the bound."""
    noised = made(std=1e-3)
    vector = np.full(40, 60 / math.sqrt(40))

    sums = total([{"update": vector, "loss": np.array([60.0])}], noised)

    assert np.linalg.norm(sums["update"]) == pytest.approx(30, rel=1e-3)
    assert sums["loss"][0] == pytest.approx(30, rel=1e-3)


@pytest.mark.parametrize(("survivors", "known", "variance"), [(10, 0, 10 / 4), (7, 0, 7 / 4), (7, 3, 1.0)])
def test_the_noise_of_an_opened_sum_is_that_of_its_unknown_shares(survivors, known, variance) -> None:
    """Ten sites, at least seven in a sum, three of whom collude: what is left at the floor is sigma squared, no less.

    16,384 values: the estimate is off by 7 %, six of its standard deviations, once in 500 million runs.
    """
    size, sigma, shares = 1 << 14, 2.0, 7 - 3
    noised = made(size=size, sites=10, std=sigma / math.sqrt(shares), field_bits=32)
    zeros = {"update": np.zeros(size), "loss": np.zeros(1)}

    sums = total([zeros] * (survivors - known), noised, noise=real)

    found = sums["update"].var() / sigma**2
    assert found == pytest.approx(variance, rel=0.07)
    assert found != pytest.approx(variance * (survivors - known + 1) / (survivors - known), rel=0.07)


def test_a_share_spread_over_all_who_answer_leaves_too_little() -> None:
    """The control: a share of sigma squared over N - t leaves four sevenths where three of the seven collude."""
    size, sigma = 1 << 14, 2.0
    naive = made(size=size, sites=10, std=sigma / math.sqrt(7))
    zeros = {"update": np.zeros(size), "loss": np.zeros(1)}

    sums = total([zeros] * 4, naive, noise=real)

    assert sums["update"].var() / sigma**2 == pytest.approx(4 / 7, rel=0.07)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), bits=st.sampled_from([13, 14, 21]), width=st.sampled_from([1, 5, 200]))
def test_one_unit_moves_the_integers_by_no_more_than_the_sensitivity(seed, bits, width) -> None:
    """Rounded with the same numbers, sums that differ by one clipped vector are as close as the accountant is told."""
    noised = made(size=256, sites=3, field_bits=bits, std=4.0, clip=12.0)
    block, rng = noised.encoding.blocks[0], np.random.default_rng(seed)
    grid, others, mine = noised.grid(block), rng.normal(size=256) / 2, np.zeros(256)
    mine[:width] = rng.normal(size=width)
    mine /= np.linalg.norm(mine)

    both = [
        total([{"update": sum_P, "loss": np.zeros(1)}], noised, seed=seed)["update"]
        for sum_P in (others, others + mine)
    ]

    assert np.linalg.norm(both[1] - both[0]) / grid.step <= grid.sensitivity(1.0) * (1 + 1e-9)


def test_rounding_makes_some_pairs_longer_than_the_clip() -> None:
    """The control: without the surplus for rounding the bound would not hold on a coarse grid."""
    noised = made(size=256, sites=3, field_bits=13, std=4.0, clip=12.0)
    block, rng = noised.encoding.blocks[0], np.random.default_rng(1)
    grid, unit = noised.grid(block), np.full(256, 1 / 16)
    longest = 0.0
    for seed in range(50):
        others = rng.normal(size=256) / 2
        both = [
            total([{"update": v, "loss": np.zeros(1)}], noised, seed=seed)["update"] for v in (others, others + unit)
        ]
        longest = max(longest, float(np.linalg.norm(both[1] - both[0])) / grid.step)

    assert longest > 1.0 / grid.step


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_values_and_the_longest_tail_stay_in_their_fields(sign) -> None:
    """Every site at its bound with noise of 2**-40 likelihood: the sum is right."""
    noised = made(size=1, sites=5, field_bits=21, std=0.5, clip=4.0)
    reach = math.sqrt(2 * math.log(2 * 5 * 2 * 2.0**40))
    vectors = [{"update": np.array([sign * 4.0]), "loss": np.array([sign * 4.0])}] * 5

    sums = total(vectors, noised, noise=lambda n, scale: np.full(n, sign * int(reach * scale), np.int64))

    assert sums["loss"][0] == pytest.approx(5 * sign * (4.0 + reach * 0.5), rel=1e-2)
    with pytest.raises(SumOutOfRange):
        total(vectors, noised, noise=lambda n, scale: np.full(n, sign * int(2 * reach * scale), np.int64))


def test_noise_outside_of_one_site_s_room_does_not_spoil_its_neighbours() -> None:
    """A value is not cut after the noise: the sum of the words is still the sum of the values."""
    noised = made(size=8, sites=4, field_bits=21, std=0.5, clip=1.0)
    low, zeros = noised.encoding.top + 5, {"update": np.zeros(8), "loss": np.zeros(1)}
    draws = iter([-low, 0, low - 3, 0])

    sums = total([zeros, zeros], noised, noise=lambda n, _s: np.full(n, next(draws), np.int64))

    assert (
        np.abs(np.linalg.norm(sums["update"]) - 3 * math.sqrt(8) * noised.grid(noised.encoding.blocks[0]).step) < 1e-9
    )


def test_fields_too_narrow_for_the_noise_are_refused_with_the_width_that_does() -> None:
    """The width that the refusal names is enough, and one bit less is not."""
    with pytest.raises(ValueError, match=r"field_bits of at least (\d+)") as refused:
        made(field_bits=12)
    width = int(str(refused.value).split("at least ")[1].split()[0])

    assert made(field_bits=width).grid(made(field_bits=width).encoding.blocks[0]).scale >= LEAST_SCALE
    with pytest.raises(ValueError, match="field_bits"):
        made(field_bits=width - 1)


def test_what_is_not_finite_is_not_encoded() -> None:
    """A NaN stops the site before any noise is drawn."""
    with pytest.raises(NotFinite):
        total([{"update": np.full(40, np.nan), "loss": np.zeros(1)}], made())


def _pmf(scale: float, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * scale**2))
    return weights / weights.sum()


@pytest.mark.parametrize(("scale", "shares"), [(1.0, 2), (1.0, 4), (2.0, 3)])
def test_a_sum_of_discrete_gaussians_is_one_up_to_the_bound_of_the_source(scale, shares) -> None:
    """Convolved exactly: the ratio stays within exp(tau) where the mass is, and tau vanishes as the scale grows."""
    whole = _pmf(scale, 40)
    for _ in range(shares - 1):
        whole = np.convolve(whole, _pmf(scale, 40))
    centre, near = len(whole) // 2, int(4 * scale * math.sqrt(shares))
    single, middle = _pmf(scale * math.sqrt(shares), centre), slice(centre - near, centre + near + 1)
    tau = 10 * sum(math.exp(-2 * math.pi**2 * scale**2 * k / (k + 1)) for k in range(1, shares))

    ratio = np.abs(np.log(whole[middle] / single[middle])).max()

    assert ratio <= tau + 1e-12
    # At the least scale that is used here: ln tau is below -40,000, so it is 0 beside any delta.
    assert math.log(10 * 64) - math.pi**2 * LEAST_SCALE**2 < -40_000


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 2.0])
def test_at_the_least_scale_the_lattice_does_not_show_in_epsilon(multiplier) -> None:
    """The accountant's own discrete Gaussian, one coordinate carrying all of the shift, agrees with the continuous."""
    shift = round(LEAST_SCALE / multiplier)

    discrete = pld.from_discrete_gaussian_mechanism(LEAST_SCALE, sensitivity=shift, value_discretization_interval=1e-4)
    smooth = pld.from_gaussian_mechanism(LEAST_SCALE / shift, value_discretization_interval=1e-4)

    epsilons = [one.get_epsilon_for_delta(1e-5) for one in (discrete, smooth)]
    assert epsilons[0] == pytest.approx(epsilons[1], abs=1.5e-4)
    coarse = pld.from_discrete_gaussian_mechanism(
        2, sensitivity=round(2 / multiplier), value_discretization_interval=1e-4
    )
    assert coarse.get_epsilon_for_delta(1e-5) != pytest.approx(epsilons[1], abs=1.5e-3)
