"""What the coordinator holds, alone or with corrupt sites, looks like noise."""

from collections.abc import Callable

import numpy as np
import pytest

from partsong.common.derive import derive
from partsong.common.secure_sum.masks import apply_masks
from partsong.common.secure_sum.result import words_from_bytes
from partsong.common.secure_sum.shamir import BadShares
from partsong.common.secure_sum.tag import TAG_WORDS
from partsong.simulations.secure_sum import next_header


def chi_square(words: np.ndarray) -> float:
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return float(((counts - expected) ** 2 / expected).sum())


def correlation(one: np.ndarray, two: np.ndarray) -> float:
    return float(abs(np.corrcoef(one.astype(np.float64), two.astype(np.float64))[0, 1]))


# Mean 255 and standard deviation 22.6 for uniform bytes. Six of them: one false alarm in 1e9 runs.
CHI_SQUARE_LIMIT = 255 + 6 * 22.6


@pytest.fixture
def wide(lab: Callable) -> Callable:
    """Five sites with vectors long enough for statistics."""

    def make(fill: Callable[[np.random.Generator, int], np.ndarray], sites: int = 5):
        made = lab(sites)
        made.words = 40_000
        made.header = next_header(made.federation, words=made.words)
        made.vectors = {i: fill(np.random.default_rng(i), made.words) for i in made.everyone}
        made.up_to_reports()
        return made

    return make


def masked(made, site: int) -> np.ndarray:
    return words_from_bytes(made.reports[site].words, words=made.words + TAG_WORDS)


@pytest.mark.parametrize(
    "fill",
    [
        lambda rng, n: np.full(n, 7, np.uint64),
        lambda rng, n: (rng.standard_normal(n) * 1000 + 2**20).astype(np.uint64),
    ],
    ids=["constant", "update"],
)
def test_masked_words_of_a_constant_and_of_an_update_look_alike(wide: Callable, fill: Callable) -> None:
    """Bytes are uniform, neighbours and sites uncorrelated; the bare words fail by far, which is the control."""
    made = wide(fill)
    words = [masked(made, site) for site in made.everyone]
    six_standard_errors = 6 / made.words**0.5

    assert chi_square(made.vectors[0]) > 10 * CHI_SQUARE_LIMIT
    assert all(chi_square(vector) < CHI_SQUARE_LIMIT for vector in words)
    assert all(correlation(vector[1:], vector[:-1]) < six_standard_errors for vector in words)
    assert all(correlation(words[i], words[j]) < six_standard_errors for i in range(5) for j in range(i))


def test_with_all_but_two_sites_corrupt_the_rest_is_still_noise(wide: Callable) -> None:
    """Corrupt sites take off all masks they know, and even the two own masks: one pair mask remains on each."""
    made = wide(lambda rng, n: np.full(n, 7, np.uint64))
    corrupt = (2, 3, 4)
    left = {}
    for honest in (0, 1):
        words = masked(made, honest)
        seeds = {k: derive(made.state(k).keys_by_peer()[honest], "mask", made.context) for k in corrupt}
        own = made.combine({k: made.all_shares_of(k)[honest][0] for k in corrupt})
        apply_masks(words, plus=[], minus=[derive(own, "own mask", made.context), *seeds.values()])
        left[honest] = words[: made.words]

    assert all(chi_square(vector) < CHI_SQUARE_LIMIT for vector in left.values())
    assert correlation(left[0], left[1] ^ np.uint64(2**64 - 1)) > 0.9
    assert (left[0] + left[1] == 14).all()


def test_below_the_threshold_own_masks_stay_closed(wide: Callable) -> None:
    """Two corrupt holders of five have one share too few, and a guessed third share opens nothing."""
    made = wide(lambda rng, n: np.full(n, 7, np.uint64))
    assert made.threshold == 3
    shares = {k: made.all_shares_of(k)[0][0] for k in (3, 4)}
    with pytest.raises(BadShares, match="found 2, expected 3"):
        made.combine(shares)
    for guess in range(20):
        try:
            seed = made.combine(shares | {1: guess.to_bytes(3, "little") * 13})
        except BadShares:
            continue
        words = masked(made, 0)
        apply_masks(words, plus=[], minus=[derive(seed, "own mask", made.context)])
        assert chi_square(words) < CHI_SQUARE_LIMIT
