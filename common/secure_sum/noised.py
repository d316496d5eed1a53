"""Sums that carry noise: each site's words hold a share of it, and no share is enough by itself.

Covers: a sum of up to `max_sites` encoded vectors decodes to the sum of the clipped vectors plus all shares of noise;
    one unit more or less at one site moves that site's integers by at most `sensitivity` before the noise is added.
Does not cover: who answers. The noise of a sum is that of the sites in it; `survivor_floor` checks their number. The
    arithmetic before the noise is float64, the sum of clipped gradients float32, as without a sum.

The order is fixed: clip the site's sum, rotate, cut each coordinate, round at random, add noise. Nothing is cut after
the noise, which would make its distribution depend on the values. Clipping and cutting move two sums no farther apart.

Rounding. The fraction of a coordinate is compared with a uniform number that depends on no record. With the same
numbers, two sums that differ by a vector x become integers that differ by a randomised rounding of x. It is shorter
than the bound of `sensitivity` but with probability `LONG_ROUNDING`, which counts in delta. Drawing again until a
site's whole vector is short, as for one vector per person, would tie the rounding to all records.

Width. A value with its noise takes the room -Q..Q of `fixed_point`, of which a field holds `max_sites`. With R the
range of a coordinate and s the scale of a share, it leaves that room at any of S sites in any of all D coordinates
with at most the chance `OVERFLOW`, which counts in delta too:
    R / step + 1 + s sqrt(2 ln(2 S D / OVERFLOW)) <= Q.
The grid is the finest for which this holds. A value outside is not cut; the sum of the words is still the sum of the
values, unless it leaves its own, wider field.

Noise. A share is discrete Gaussian with an integer scale s of at least `LEAST_SCALE` steps. The sum of m of them is a
discrete Gaussian of scale s sqrt(m) up to a factor exp(+-t) with t <= 10 D m exp(-pi**2 s**2), below 1e-1000 here.

Shapes: P values of a block, D values after padding, W words.

Source: Kairouz, Liu & Steinke 2021 (arXiv 2102.06387), algorithm 1 and theorem 1 for the order, the length after
rounding and the sum of discrete Gaussians; Canonne, Kamath & Steinke 2020 (arXiv 2004.00010) for their tails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from partsong.common.secure_sum.fixed_point import (
    Block,
    Encoding,
    EncodingError,
    WordVec,
    block_seed,
    check_seed,
    check_words,
    clip_into,
    peak_of,
    unpack,
)
from partsong.common.secure_sum.rotation import FloatVec, padded_shape, rotate, rotate_back

Integers = npt.NDArray[np.int64]
Draw = Callable[[int, int], Integers]
"""Gives a number of independent discrete Gaussian values of an integer scale."""

OVERFLOW = 2.0**-40
"""Chance, in a round, that a value with its noise is outside the room of a value anywhere."""
LONG_ROUNDING = 2.0**-50
"""Chance that rounding moves two neighbouring vectors farther apart than `Grid.sensitivity`."""
LEAST_SCALE = 64
"""Steps of the grid in one standard deviation of a share. From here on what the lattice does to epsilon is below the
accountant's own grid, 1e-4 for one step (measured against the accountant's discrete Gaussian)."""
MOST_SCALE = 1 << 20
"""Beyond, a finer grid tells nothing, and integers of the sampler would overflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """The integers of one block."""

    block: Block
    scale: int
    """Standard deviation of one share [steps]."""
    step: float
    """Distance between neighbouring values [unit of the values]."""

    def sensitivity(self, bound: float) -> float:
        """Bound how far apart the integers of two sums are that differ by a vector of length `bound` [steps].

        Guarantees: but for a chance of `LONG_ROUNDING`.
        """
        length, root = bound / self.step, math.sqrt(self.block.coordinates)
        surplus = math.sqrt(2 * math.log(1 / LONG_ROUNDING)) * (length + root / 2)
        return min(length + root, math.sqrt(length**2 + root**2 / 4 + surplus))


@dataclass(frozen=True, kw_only=True, slots=True)
class NoisedEncoding:
    """How every site encodes where the sum carries the noise."""

    encoding: Encoding
    share_stds: Mapping[str, float]
    """By block, the standard deviation of one site's share [unit of the values], > 0."""

    def __post_init__(self) -> None:
        if set(self.share_stds) != {block.name for block in self.encoding.blocks}:
            raise ValueError("noise for each block, and for no other")
        for block in self.encoding.blocks:
            self.grid(block)

    def grid(self, block: Block) -> Grid:
        """Give the finest grid on which values with their noise have room.

        Raises:
            ValueError: a grid is too coarse for its noise, and how wide fields would have to be.
        """
        scale = min(int((self.encoding.top - 1) / self._reach(block)), MOST_SCALE)
        if scale < LEAST_SCALE:
            raise ValueError(f"field_bits of at least {self._least_width()} for this noise")
        return Grid(block=block, scale=scale, step=self.share_stds[block.name] / scale)

    def multiplier(self, name: str, *, bound: float, shares: int) -> float:
        """Give the noise multiplier of what a sum says of one block.

        Args:
            name: of the block.
            bound: how far one unit moves the sum of its site [unit of the values].
            shares: of the noise that nobody else knows, >= 1.
        """
        grid = self.grid(next(block for block in self.encoding.blocks if block.name == name))
        return grid.scale * math.sqrt(shares) / grid.sensitivity(bound)

    def _reach(self, block: Block) -> float:
        """Give how many scales a value with the largest of all sites' shares reaches: these are subgaussian."""
        coordinates = sum(each.coordinates for each in self.encoding.blocks)
        tail = math.sqrt(2 * math.log(2 * self.encoding.max_sites * coordinates / OVERFLOW))
        return block.value_range / self.share_stds[block.name] + tail

    def _least_width(self) -> int:
        encoding = self.encoding
        top = LEAST_SCALE * max(map(self._reach, encoding.blocks)) + 1
        return math.ceil(math.log2(top + 1)) + 1 + encoding.field_bits - encoding.value_bits


def encode(
    values: Mapping[str, FloatVec],
    noised: NoisedEncoding,
    *,
    rotation_seed: bytes,
    rng: np.random.Generator,
    noise: Draw,
) -> WordVec:
    """Turn one site's exact sums into words with this site's share of the noise.

    Args:
        values: for each block's name its (P,) float32 or float64 values, and nothing else.
        noised: of the round.
        rotation_seed: 32 public bytes, the same at every site of the round.
        rng: of the rounding; may be known to others, but depends on no record.
        noise: exact, from secret randomness.
    Raises:
        NotFinite: a value is NaN or infinite; nothing was encoded.
        EncodingError: names, sizes or types are not those of the round; nothing was encoded.
    """
    check_seed(rotation_seed)
    encoding = noised.encoding
    if set(values) != {block.name for block in encoding.blocks}:
        raise EncodingError(f"values: found blocks {sorted(values)}, expected {[b.name for b in encoding.blocks]}")
    peaks = {block.name: peak_of(values[block.name], block) for block in encoding.blocks}
    words_W = np.zeros(encoding.words(), np.uint64)
    for block, place in encoding.slices():
        grid, ready_D = noised.grid(block), np.empty(block.coordinates, np.float64)
        clip_into(ready_D, values[block.name], block, peak=peaks[block.name])
        if block.rotate:
            rotate(ready_D, shape=padded_shape(block.size), seed=block_seed(rotation_seed, block))
        whole_D = _rounded(ready_D, grid, rng)
        whole_D += noise(block.coordinates, grid.scale)
        whole_D += encoding.top
        words_W[place] = _packed(whole_D, encoding, words=encoding.block_words(block))
    return words_W


def decode_sum(
    words: WordVec, noised: NoisedEncoding, *, sites: int, rotation_seed: bytes
) -> dict[str, npt.NDArray[np.float64]]:
    """Turn a sum of encoded vectors into the noisy sum of their values.

    Guarantees: bit-identical on every machine; unbiased, but for coordinates that were cut before the noise.
    Args:
        words: (W,) sum of `sites` encoded vectors, modulo 2**64; stays as it is.
        noised: that all of them used.
        sites: how many vectors were added, 1..max_sites.
        rotation_seed: that all of them used.
    Raises:
        SumOutOfRange: a field is larger than `sites` values make it, or a bit outside every field is set; nothing was
            decoded.
        EncodingError: `words` or `sites` do not fit; nothing was decoded.
    """
    check_seed(rotation_seed)
    encoding = noised.encoding
    check_words(words, encoding, sites=sites)
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for block, place in encoding.slices():
        sum_D = unpack(words[place], block, encoding, sites=sites)
        sum_D *= noised.grid(block).step
        if block.rotate:
            rotate_back(sum_D, shape=padded_shape(block.size), seed=block_seed(rotation_seed, block))
        sums[block.name] = sum_D[: block.size]
    return sums


def _rounded(ready_D: npt.NDArray[np.floating[Any]], grid: Grid, rng: np.random.Generator) -> Integers:
    """Cut each coordinate at the block's range and round it up with the probability of its fraction."""
    scaled_D = np.clip(ready_D, -grid.block.value_range, grid.block.value_range) / grid.step
    below_D = np.floor(scaled_D)
    whole_D: Integers = below_D.astype(np.int64)
    whole_D += rng.random(scaled_D.size) < scaled_D - below_D
    return whole_D


def _packed(whole_D: Integers, encoding: Encoding, *, words: int) -> WordVec:
    """Put fields into words as `fixed_point` does, by addition: one below 0 takes from the next, and gives it back."""
    fields = encoding.fields_per_word
    padded = np.zeros(words * fields, np.int64)
    padded[: whole_D.size] = whole_D
    by_field = padded.view(np.uint64).reshape(-1, fields)
    words_W = np.zeros(words, np.uint64)
    for field in range(fields):
        words_W += by_field[:, field] << np.uint64(field * encoding.field_bits)
    return words_W
