"""How long to wait before the same request is sent again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

FIRST_S, LONGEST_S = 0.5, 20.0


def delays_s(uniform: Callable[[], float]) -> Iterator[float]:
    """Give waiting times without end.

    Guarantees: the nth (from 0) lies in [0, min(`LONGEST_S`, `FIRST_S` * 2**n)), uniformly, so that sites which lost
        the coordinator at one moment do not come back at one moment.
    Args:
        uniform: draws from [0, 1).
    Source: Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog: full jitter.
    """
    most_s = FIRST_S
    while True:
        yield most_s * uniform()
        most_s = min(most_s * 2, LONGEST_S)
