"""Secrets of 256 bits cut into shares, any `threshold` of which give them back.

Covers: fewer than `threshold` shares say nothing about a secret; a wrong share is noticed whenever more than
`threshold` shares are at hand, or when what comes out is no 256-bit number, and passed over whenever there are two
more for each wrong one.
Does not cover: whether a share that does not fit was changed by its holder or made so by its dealer; authenticity in
transit.

A secret is 13 limbs of 20 bits, the lowest first, each shared on its own over the prime field of 2**21 - 9. Limbs
of many secrets are columns of one matrix product in float64: sums of at most 2048 products below 2**42 stay under
2**53, so every intermediate value is an exact integer, whatever order a library adds them in.

Shapes: H holders, T coefficients (the threshold), S secrets, L = 13 limbs.

Source: Shamir 1979, "How to share a secret"; decoding with errors, Welch and Berlekamp 1986 (US patent 4,633,470,
expired), in the form of Gemmell and Sudan 1992, "Highly resilient correctors for polynomials".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from partsong.common.errors import RoundAborted

Entropy = Callable[[int], bytes]
IntMat = npt.NDArray[np.int64]

PRIME = 2**21 - 9
SECRET_BYTES = 32
LIMBS = 13
LIMB_BITS = 20
SHARE_BYTES = 3 * LIMBS
_MOST_HOLDERS = 2048


class BadShares(RoundAborted):
    """Shares that no honest dealer made; no secret was reconstructed."""


def split(secrets: Sequence[bytes], *, threshold: int, holders: Sequence[int], entropy: Entropy) -> list[bytes]:
    """Share each of `secrets` among `holders`.

    Guarantees:
        - any `threshold` of the results give all secrets back, fewer are uniform noise.
    Args:
        secrets: S secrets of 32 bytes.
        threshold: 1 <= threshold <= number of holders.
        holders: H distinct numbers from 1 to 2048, the places at which the polynomials are read.
        entropy: secret uniform bytes, in production `os.urandom`.
    Returns:
        for each holder the shares of all secrets in order, 39 bytes each.
    """
    points = list(holders)
    if not 1 <= threshold <= len(points) or len(set(points)) != len(points):
        raise ValueError(f"threshold: found {threshold} for {len(set(points))} holders, expected 1 to as many")
    if not all(1 <= point <= _MOST_HOLDERS for point in points):
        raise ValueError(f"holders: expected numbers from 1 to {_MOST_HOLDERS}")
    limbs_SL = _limbs(secrets)
    coefficients = np.vstack([limbs_SL.reshape(1, -1), _uniform(threshold - 1, limbs_SL.size, entropy)])
    shares = _product(_powers(points, threshold), coefficients)
    return [_to_bytes(row) for row in shares]


def combine(shares: Mapping[int, bytes], *, threshold: int) -> list[bytes]:
    """Give back the secrets whose shares these are.

    Guarantees:
        - with more than `threshold` shares, all of them lie on the polynomials, or nothing is given back.
    Args:
        shares: for each holder's number the bytes that `split` made for it; all of one dealer.
        threshold: with which they were made.
    Raises:
        BadShares: too few, of unequal or wrong length, outside the field, contradicting each other, or no 256-bit
            secret; nothing was reconstructed.
    """
    if len(shares) < threshold:
        raise BadShares(f"shares: found {len(shares)}, expected {threshold}; no secret was reconstructed")
    points = sorted(shares)
    rows = _from_bytes([shares[point] for point in points])
    secrets, off = _interpolate(points, rows, threshold)
    if off.any():
        raise _contradiction()
    return _secrets(secrets.reshape(-1, LIMBS))


def repair(shares: Mapping[int, bytes], *, threshold: int) -> tuple[list[bytes], tuple[int, ...]]:
    """Give back the secrets although some shares are wrong, and name the holders of those.

    Guarantees:
        - of H shares up to (H - threshold) // 2 may be wrong: the secrets are those of the others, and exactly the
          wrong ones are named;
        - without wrong shares the same as `combine`.
    Args:
        shares: as for `combine`.
        threshold: with which they were made.
    Returns:
        the secrets, and the numbers of the holders whose shares do not fit the others, ascending.
    Raises:
        BadShares: as for `combine`, or too many are wrong; nothing was reconstructed.
    """
    if len(shares) < threshold:
        raise BadShares(f"shares: found {len(shares)}, expected {threshold}; no secret was reconstructed")
    points, wrong = sorted(shares), set[int]()
    rows = dict(zip(points, _from_bytes([shares[point] for point in points]), strict=True))
    while True:
        fitting = [point for point in points if point not in wrong]
        secrets, off = _interpolate(fitting, np.array([rows[point] for point in fitting]), threshold)
        if not off.any():
            return _secrets(secrets.reshape(-1, LIMBS)), tuple(sorted(wrong))
        # Each turn finds a wrong holder at least, in the first place where the shares disagree.
        column = int(off.argmax())
        wrong |= _wrong_ones(fitting, np.array([rows[point][column] for point in fitting]), threshold)
        if 2 * len(wrong) > len(points) - threshold:
            raise _contradiction()


def agree(shares: Mapping[int, bytes], *, threshold: int) -> bool:
    """Say whether shares, the threshold of them or more, all lie on the same polynomials."""
    points = sorted(shares)
    return not _interpolate(points, _from_bytes([shares[point] for point in points]), threshold)[1].any()


def in_field(share: bytes) -> bool:
    """Say whether bytes are the share of some whole number of secrets."""
    try:
        return bool(_from_bytes([share]).size)
    except BadShares:
        return False


def _interpolate(points: Sequence[int], rows: IntMat, threshold: int) -> tuple[IntMat, npt.NDArray[np.bool_]]:
    """Read each column's polynomial at zero, and say in which columns the shares contradict each other."""
    weights = _lagrange(tuple(points[:threshold]), (0, *points[threshold:]))
    values = _product(weights, rows[:threshold])
    return values[0], (values[1:] != rows[threshold:]).any(axis=0)


def _wrong_ones(points: Sequence[int], values_H: IntMat, threshold: int) -> set[int]:
    """Find the points that are off the one polynomial through most of them.

    With e errors there are E of degree e, zero at the wrong points, and Q = E f with Q(x) = y E(x) at all points. Any
    solution of these linear equations gives f, so the wrong points are among the zeros of its E.
    """
    most = (len(points) - threshold) // 2
    powers = _powers(points, threshold + 2 * most)
    left, right = powers[:, : threshold + most], powers[:, : most + 1]
    solution = _kernel_vector(np.hstack([left, (PRIME - values_H[:, None]) * right % PRIME]))
    if solution is None:
        raise _contradiction()
    at_points = _product(right, solution[threshold + most :, None])[:, 0]
    sound = [place for place, value in enumerate(at_points.tolist()) if value]
    base, others = sound[:threshold], [place for place in range(len(points)) if place not in sound[:threshold]]
    weights = _lagrange(tuple(points[place] for place in base), tuple(points[place] for place in others))
    expected = _product(weights, values_H[base, None])[:, 0]
    wrong = {points[place] for place, value in zip(others, expected.tolist(), strict=True) if value != values_H[place]}
    if len(wrong) > most:
        raise _contradiction()
    return wrong


def _kernel_vector(matrix: IntMat) -> IntMat | None:
    """Find a vector that is not zero and that the matrix sends to zero, by elimination; None where there is none."""
    left, pivots = matrix.copy(), list[int]()
    for column in range(matrix.shape[1]):
        row = len(pivots)
        candidates = np.flatnonzero(left[row:, column])
        if not candidates.size:
            vector = np.zeros(matrix.shape[1], np.int64)
            vector[column] = 1
            vector[pivots] = (PRIME - left[:row, column]) % PRIME
            return vector
        pivot = row + int(candidates[0])
        left[[row, pivot]] = left[[pivot, row]]
        left[row] = left[row] * _inverse(left[row, column : column + 1]) % PRIME
        others = np.flatnonzero(left[:, column])
        others = others[others != row]
        left[others] = (left[others] - left[others, column, None] * left[row]) % PRIME
        pivots.append(column)
    return None


def _contradiction() -> BadShares:
    return BadShares("shares: found some that contradict each other; no secret was reconstructed")


def _limbs(secrets: Sequence[bytes]) -> IntMat:
    if any(len(secret) != SECRET_BYTES for secret in secrets):
        raise ValueError(f"secrets: expected {SECRET_BYTES} bytes each")
    mask = (1 << LIMB_BITS) - 1
    numbers = [int.from_bytes(secret, "big") for secret in secrets]
    return np.array([[n >> (LIMB_BITS * i) & mask for i in range(LIMBS)] for n in numbers], np.int64)


def _secrets(limbs_SL: IntMat) -> list[bytes]:
    top_bits = 8 * SECRET_BYTES - LIMB_BITS * (LIMBS - 1)
    if (limbs_SL >> LIMB_BITS).any() or (limbs_SL[:, -1] >> top_bits).any():
        raise BadShares("shares: found a value that is no secret; no secret was reconstructed")
    return [
        sum(int(limb) << (LIMB_BITS * i) for i, limb in enumerate(row)).to_bytes(SECRET_BYTES, "big")
        for row in limbs_SL
    ]


def _uniform(rows: int, columns: int, entropy: Entropy) -> IntMat:
    """Draw field elements without bias: 21-bit numbers, those of 2**21 - 9 and above thrown away."""
    wanted = rows * columns
    drawn = np.empty(0, np.int64)
    while drawn.size < wanted:
        # Nine in two million are thrown away; a few spare draws make a second turn rare.
        raw = np.frombuffer(entropy(4 * (wanted - drawn.size + 8)), "<u4").astype(np.int64) & (2**21 - 1)
        drawn = np.concatenate([drawn, raw[raw < PRIME]])
    return drawn[:wanted].reshape(rows, columns)


def _powers(points: Sequence[int], count: int) -> IntMat:
    column = np.array(points, np.int64)
    powers = np.ones((len(points), count), np.int64)
    for exponent in range(1, count):
        powers[:, exponent] = powers[:, exponent - 1] * column % PRIME
    return powers


def _product(left: IntMat, right: IntMat) -> IntMat:
    """Multiply matrices over the field, exactly."""
    exact = left.astype(np.float64) @ right.astype(np.float64)
    return exact.astype(np.int64) % PRIME


@lru_cache(maxsize=8)
def _lagrange(base: tuple[int, ...], targets: tuple[int, ...]) -> IntMat:
    """Weights that turn values at `base` into values at each of `targets`, none of which is in `base`."""
    points = np.array(base, np.int64)
    others = np.array(targets, np.int64)
    denominators = np.ones(len(base), np.int64)
    level = np.ones(len(targets), np.int64)
    for place, point in enumerate(base):
        gaps = points - point
        gaps[place] = 1
        denominators = denominators * gaps % PRIME
        level = level * (others - point) % PRIME
    distances = (others[:, None] - points[None, :]) % PRIME
    return level[:, None] * _inverse(distances * denominators[None, :] % PRIME) % PRIME


def _inverse(values: IntMat) -> IntMat:
    """Invert each non-zero element by Fermat's little theorem."""
    result = np.ones_like(values)
    power, exponent = values % PRIME, PRIME - 2
    while exponent:
        if exponent & 1:
            result = result * power % PRIME
        power = power * power % PRIME
        exponent >>= 1
    return result


def _to_bytes(row: IntMat) -> bytes:
    return row.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def _from_bytes(parts: Sequence[bytes]) -> IntMat:
    size = len(parts[0])
    if size % SHARE_BYTES or any(len(part) != size for part in parts):
        raise BadShares("shares: found unequal or broken lengths; no secret was reconstructed")
    wide = np.zeros((len(parts), size // 3, 4), np.uint8)
    wide[:, :, :3] = np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), -1, 3)
    rows = wide.view("<u4")[:, :, 0].astype(np.int64)
    if (rows >= PRIME).any():
        raise BadShares("shares: found a value outside the field; no secret was reconstructed")
    return rows
