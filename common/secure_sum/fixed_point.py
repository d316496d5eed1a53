"""From a site's vectors to words that add up, and from their sum back.

Covers: a sum of up to `max_sites` encoded vectors decodes to the sum of the clipped vectors within the error
bound below, whatever the vectors hold; no field ever runs into its neighbour; a vector with a NaN or an infinity
is not encoded.
Does not cover: secrecy (masks do that) and differential privacy (clipping here bounds one site's influence on the
sum, not one record's).

A block of values is clipped, rotated if asked, scaled to integers -Q..Q with Q = 2**(value_bits - 1) - 1, shifted
by Q to be non-negative and packed, `64 // field_bits` fields in a word. A field has ceil(log2 max_sites) bits
more than a value needs.

Error bound. Let R be the range of one coordinate: `clip` without rotation, clip * min(1, 6 / sqrt(D)) with it, D
being the padded size. One step is R / Q. Rounding moves a coordinate of one vector by less than one step, without
bias. So for a sum over S sites
    each coordinate of an unrotated block is off by less than S * R / Q, with standard deviation
    at most sqrt(S) * R / (2 Q);
    a rotated block is off by less than S * R / Q * sqrt(D) <= 6 * S * clip / Q in L2 norm, sqrt(S) * 3 * clip / Q
    in root mean square,
plus one part in a hundred for float rounding. The rotated bound takes it that no coordinate was cut at R. For a
vector of the full length `clip` that happens to one coordinate in about 5e8, if at all, and costs that
coordinate's excess; up to 36 coordinates it cannot happen.

Shapes: P values of a block, D values after padding, W words.

Source: stochastic rounding after a random rotation, Suresh et al. 2017 (arXiv 1611.00429); packing into a ring
with headroom, Bonawitz et al. 2017 (ia.cr/2017/281).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from partsong.common.errors import PartsongError, RoundAborted
from partsong.common.secure_sum.rotation import SEED_BYTES, FloatVec, padded_shape, rotate, rotate_back

WordVec = npt.NDArray[np.uint64]

WORD_BITS = 64
# A rotated coordinate leaves +-6 clip / sqrt(D) with probability 2e-9 (normal tail at six standard deviations).
RANGE_IN_DEVIATIONS = 6.0
# Float32 holds values up to this width with an error far below one step.
_FLOAT32_VALUE_BITS = 16
# Far inside float32, so that nothing on the way to the words overflows or vanishes.
_SMALLEST_CLIP, _LARGEST_CLIP = 1e-15, 1e15
_CHUNK_ENTRIES = 1 << 15
_CHUNK_WORDS = 1 << 13


class EncodingError(PartsongError):
    """The values do not fit the encoding that the plan fixed; nothing was encoded."""


class NotFinite(EncodingError):
    """A block holds a NaN or an infinity; nothing was encoded."""

    def __init__(self, block: str) -> None:
        """Name the block, never the value or where in the block it stands."""
        super().__init__(f"block {block}: found a value that is not finite, expected finite values")
        self.block = block


class SumOutOfRange(RoundAborted):
    """The words are no sum of that many encoded vectors; nothing was decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A run of values with one bound."""

    name: str
    size: int
    """Number of values, P."""
    clip: float
    """Bound of one site's values, in their own unit."""
    norm: Literal["l2", "linf"]
    """l2: the whole block is scaled down to length `clip`. linf: each value is cut at +-`clip`."""
    rotate: bool
    """Spread the block over its coordinates first; for l2 only."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a block name")
        if self.size < 1:
            raise ValueError(f"size of at least 1, not {self.size}")
        if not _SMALLEST_CLIP <= self.clip <= _LARGEST_CLIP:
            raise ValueError(f"clip between {_SMALLEST_CLIP} and {_LARGEST_CLIP}, not {self.clip}")
        if self.rotate and self.norm != "l2":
            raise ValueError("norm=l2 where rotate is set: a rotation keeps lengths, not single values")

    @property
    def coordinates(self) -> int:
        """Entries that are packed, D: the values, and for a rotated block its padding."""
        height, width = padded_shape(self.size)
        return height * width if self.rotate else self.size

    @property
    def value_range(self) -> float:
        """Bound R of one packed coordinate, in the unit of the values."""
        return self.clip * min(1.0, RANGE_IN_DEVIATIONS / math.sqrt(self.coordinates)) if self.rotate else self.clip


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How every site of a run encodes: part of the plan, the same for all."""

    blocks: tuple[Block, ...]
    """In the order in which they stand in the words; each starts a word."""
    field_bits: int
    """Width of one field, 8 to 32."""
    max_sites: int
    """Most vectors that may be added up."""

    def __post_init__(self) -> None:
        if not self.blocks or len({block.name for block in self.blocks}) != len(self.blocks):
            raise ValueError("at least one block, and block names without repeats")
        if not 8 <= self.field_bits <= 32:
            raise ValueError(f"field_bits between 8 and 32, not {self.field_bits}")
        if self.max_sites < 1:
            raise ValueError(f"max_sites of at least 1, not {self.max_sites}")
        if self.value_bits < 2:
            raise ValueError(
                f"field_bits of at least {self.field_bits - self.value_bits + 2} for {self.max_sites} sites, "
                f"not {self.field_bits}"
            )

    @property
    def value_bits(self) -> int:
        """Width of one site's value; the rest of the field is headroom for the sum."""
        return self.field_bits - (self.max_sites - 1).bit_length()

    @property
    def top(self) -> int:
        """Largest integer Q that a value becomes; the smallest is -Q."""
        return (1 << (self.value_bits - 1)) - 1

    @property
    def fields_per_word(self) -> int:
        """Fields that share a word."""
        return WORD_BITS // self.field_bits

    def step(self, block: Block) -> float:
        """Distance between neighbouring values of `block`, in the unit of the values."""
        return block.value_range / self.top

    def block_words(self, block: Block) -> int:
        """Words that `block` takes."""
        return -(-block.coordinates // self.fields_per_word)

    def words(self) -> int:
        """Words of an encoded vector, W."""
        return sum(self.block_words(block) for block in self.blocks)

    def bytes(self) -> int:
        """Bytes of an encoded vector."""
        return self.words() * (WORD_BITS // 8)

    def slices(self) -> Iterator[tuple[Block, slice]]:
        """Each block with its place in the words."""
        start = 0
        for block in self.blocks:
            stop = start + self.block_words(block)
            yield block, slice(start, stop)
            start = stop


def encode(
    values: Mapping[str, FloatVec], encoding: Encoding, *, rotation_seed: bytes, rng: np.random.Generator
) -> WordVec:
    """Turn one site's values into words.

    Guarantees:
        - every field of the result is in 0..2Q, so `max_sites` of them add up without touching a neighbour;
        - the expectation over `rng` of the decoded value is the clipped value, cut coordinates apart;
        - the same values, seed and state of `rng` give the same words; `values` stays as it is.
    Args:
        values: for each block's name its (P,) float32 or float64 values, and nothing else.
        encoding: of the plan.
        rotation_seed: 32 public bytes, the same at every site of the round.
        rng: of the rounding. It decides about precision, not about secrecy.
    Raises:
        NotFinite: a value is NaN or infinite; nothing was encoded.
        EncodingError: names, sizes or types are not those of `encoding`; nothing was encoded.
    """
    check_seed(rotation_seed)
    if set(values) != {block.name for block in encoding.blocks}:
        raise EncodingError(f"values: found blocks {sorted(values)}, expected {[b.name for b in encoding.blocks]}")
    peaks = {block.name: peak_of(values[block.name], block) for block in encoding.blocks}
    kind = np.dtype(np.float32 if encoding.value_bits <= _FLOAT32_VALUE_BITS else np.float64)
    # Coordinates are turned into words where they stand: a word takes no more room than its fields' coordinates,
    # and what lies behind the words of one block is free for the coordinates of the next.
    ends = (8 * place.start + kind.itemsize * block.coordinates for block, place in encoding.slices())
    words_W = np.zeros(-(-max(8 * encoding.words(), *ends) // 8), np.uint64)
    for block, place in encoding.slices():
        ready_D = words_W[place.start :].view(kind)[: block.coordinates]
        clip_into(ready_D, values[block.name], block, peak=peaks[block.name])
        if block.rotate:
            rotate(ready_D, shape=padded_shape(block.size), seed=block_seed(rotation_seed, block))
        _round_and_pack(ready_D, words_W[place], block, encoding, rng)
    del ready_D
    # No view is left, so the room behind the last word can be given back without a copy.
    words_W.resize(encoding.words(), refcheck=False)
    return words_W


def add_into(total: WordVec, words: WordVec) -> None:
    """Add `words` to `total` in place, each word modulo 2**64.

    Raises:
        EncodingError: the lengths differ; `total` stays as it is.
    """
    if total.shape != words.shape or total.dtype != np.uint64 or words.dtype != np.uint64:
        raise EncodingError(f"words: found {words.dtype} {words.shape}, expected {total.shape} of uint64")
    np.add(total, words, out=total)


def decode_sum(
    words: WordVec, encoding: Encoding, *, sites: int, rotation_seed: bytes
) -> dict[str, npt.NDArray[np.float64]]:
    """Turn a sum of encoded vectors into the sum of their values.

    Guarantees:
        - within the module's error bound of the sum of the clipped values;
        - bit-identical on every machine.
    Args:
        words: (W,) sum of `sites` encoded vectors, modulo 2**64; stays as it is.
        encoding: that all of them used.
        sites: how many vectors were added, 1..max_sites.
        rotation_seed: that all of them used.
    Returns:
        for each block's name the (P,) sum, not the mean.
    Raises:
        SumOutOfRange: a field is larger than `sites` values can make it, or a bit outside every field is set;
            nothing was decoded.
        EncodingError: `words` or `sites` do not fit `encoding`; nothing was decoded.
    """
    check_seed(rotation_seed)
    check_words(words, encoding, sites=sites)
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for block, place in encoding.slices():
        sum_D = unpack(words[place], block, encoding, sites=sites)
        sum_D *= encoding.step(block)
        if block.rotate:
            rotate_back(sum_D, shape=padded_shape(block.size), seed=block_seed(rotation_seed, block))
        sums[block.name] = sum_D[: block.size]
    return sums


def check_words(words: WordVec, encoding: Encoding, *, sites: int) -> None:
    """Refuse words of another length or type, and a number of sites that no sum has."""
    if not 1 <= sites <= encoding.max_sites:
        raise EncodingError(f"sites: found {sites}, expected 1 to {encoding.max_sites}")
    if words.dtype != np.uint64 or words.shape != (encoding.words(),):
        raise EncodingError(f"words: found {words.dtype} {words.shape}, expected {encoding.words()} of uint64")


def check_seed(seed: bytes) -> None:
    """Refuse a rotation seed of another length."""
    if len(seed) != SEED_BYTES:
        raise EncodingError(f"rotation_seed: found {len(seed)} bytes, expected {SEED_BYTES}")


def block_seed(seed: bytes, block: Block) -> bytes:
    """Give the seed of one block's own rotation."""
    return hashlib.sha256(b"partsong/1 rotation of block" + seed + block.name.encode()).digest()


def peak_of(values_P: FloatVec, block: Block) -> float:
    """Largest magnitude, after all checks of one block."""
    if values_P.dtype not in (np.float32, np.float64) or values_P.shape != (block.size,):
        raise EncodingError(
            f"block {block.name}: found {values_P.dtype} {values_P.shape}, "
            f"expected ({block.size},) of float32 or float64"
        )
    peak = max(abs(float(values_P.max())), abs(float(values_P.min())))
    if not math.isfinite(peak):
        raise NotFinite(block.name)
    return peak


def clip_into(ready_D: FloatVec, values_P: FloatVec, block: Block, *, peak: float) -> None:
    """Copy the values into their padded place, scaled or cut to the bound."""
    ready_D[block.size :] = 0
    if block.norm == "linf" and values_P.dtype == ready_D.dtype:
        # Rounding keeps the order of numbers: a value cut at the rounded bound is the rounded cut value.
        bound = ready_D.dtype.type(block.clip)
        np.clip(values_P, -bound, bound, out=ready_D[: block.size])
        return
    shrink = _power_of_two_below(peak)
    length = _length(values_P, shrink=shrink) if block.norm == "l2" else 0.0
    for start in range(0, block.size, _CHUNK_ENTRIES):
        part = values_P[start : start + _CHUNK_ENTRIES].astype(np.float64)
        if block.norm == "linf":
            np.clip(part, -block.clip, block.clip, out=part)
        elif length > block.clip * shrink:
            # Scaling by the peak first keeps huge values from overflowing on the way.
            part *= shrink
            part *= block.clip / length
        ready_D[start : start + part.size] = part


def _power_of_two_below(peak: float) -> float:
    """Give 2**-k that brings the peak to between 1/2 and 1, as far as float64 has it: products with it are exact."""
    return math.ldexp(1.0, min(-math.frexp(peak)[1], 1000)) if peak else 1.0


def _length(values_P: FloatVec, *, shrink: float) -> float:
    """Euclidean norm of the shrunken values in float64, without overflow and without a copy of the whole vector."""
    squares = 0.0
    for start in range(0, values_P.size, _CHUNK_ENTRIES):
        part = values_P[start : start + _CHUNK_ENTRIES].astype(np.float64)
        part *= shrink
        # Not `np.dot`, which wakes the threads of BLAS for a millisecond's work.
        squares += float(np.square(part, out=part).sum())
    return math.sqrt(squares)


def _round_and_pack(
    ready_D: FloatVec, words_W: WordVec, block: Block, encoding: Encoding, rng: np.random.Generator
) -> None:
    """Round each coordinate up or down at random, in proportion to its fraction, and put it into its field.

    Coordinate d goes into word d // fields_per_word, field d % fields_per_word, the first field lowest. `words_W` may
    lie over `ready_D`: each piece is read before it is written over.
    """
    scale, top, fields = 1 / encoding.step(block), encoding.top, encoding.fields_per_word
    for start in range(0, words_W.size, _CHUNK_WORDS):
        part_D = ready_D[start * fields : (start + _CHUNK_WORDS) * fields]
        scaled = part_D.astype(np.float64)
        scaled *= scale
        scaled += top
        np.maximum(scaled, 0, out=scaled)
        scaled += rng.random(part_D.size, dtype=np.float32)
        # Cuts what lies above +Q, and the sum above, which may round up to 2Q + 1 in its last place.
        np.minimum(scaled, 2 * top, out=scaled)
        part_W = words_W[start : start + _CHUNK_WORDS]
        whole = np.zeros(part_W.size * fields, np.uint64)
        whole[: scaled.size] = scaled
        by_field = whole.reshape(-1, fields)
        part_W[...] = by_field[:, 0]
        for field in range(1, fields):
            part_W |= by_field[:, field] << np.uint64(field * encoding.field_bits)


def unpack(words_W: WordVec, block: Block, encoding: Encoding, *, sites: int) -> npt.NDArray[np.float64]:
    """Read the fields, check their range and take off the offset of `sites` vectors."""
    fields, bits = encoding.fields_per_word, encoding.field_bits
    sum_D = np.empty(block.coordinates, np.float64)
    mask, largest, used = np.uint64((1 << bits) - 1), np.uint64(sites * 2 * encoding.top), fields * bits
    for start in range(0, words_W.size, _CHUNK_WORDS):
        part_W = words_W[start : start + _CHUNK_WORDS]
        if used < WORD_BITS and (part_W >> np.uint64(used)).any():
            raise SumOutOfRange(f"block {block.name}: found a bit outside every field; nothing was decoded")
        by_field = np.empty((part_W.size, fields), np.uint64)
        for field in range(fields):
            by_field[:, field] = (part_W >> np.uint64(field * bits)) & mask
        part_D = sum_D[start * fields : (start + _CHUNK_WORDS) * fields]
        whole = by_field.reshape(-1)
        if whole[part_D.size :].any():
            raise SumOutOfRange(f"block {block.name}: found a bit outside every field; nothing was decoded")
        if (whole > largest).any():
            raise SumOutOfRange(
                f"block {block.name}: found a field too large for a sum of {sites}; nothing was decoded"
            )
        part_D[...] = whole[: part_D.size]
    sum_D -= sites * encoding.top
    return sum_D
