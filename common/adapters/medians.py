"""The median of the groups' means: one step of the adapter out of as many sums as there are groups.

Covers: what coordinates a minority of the groups sends moves the median no further than the others' means are apart.
Does not cover: a majority. A step for which a group's sum is missing is not taken: the median of fewer groups would
tolerate fewer bad ones than the plan says.

Deterministic float64 arithmetic on opened means, so each site can compute it again.

Source: Yin et al. 2018 (arXiv 1803.01498), definition 1, of the means of groups as in Chen, Su and Xu 2017 (arXiv
1705.05491).
Shape letter: Q values of a mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partsong.common.groups import Groups

Vec64 = NDArray[np.float64]
Memory = dict[str, Vec64]

_WAITING = "group/"


def can_be_taken(memory: Memory, groups: Groups, *, number: int) -> bool:
    """Whether the step that round `number` is a part of has the means of all its groups before this one."""
    own = f"{_WAITING}{groups.step(number)}/"
    return sum(name.startswith(own) for name in memory) == groups.place(number)


def collect(memory: Memory, mean_Q: Vec64, groups: Groups, *, number: int) -> tuple[Memory, Vec64 | None]:
    """Take up one group's mean.

    Args:
        memory: what the server remembers, with the means of this step's earlier groups.
        mean_Q: (Q,) mean update of the group that round `number` asked.
        groups: of the plan.
        number: of the round.
    Returns:
        the memory after it, and with the last group of a step the (Q,) median over all groups, coordinate by
        coordinate; None before, and where a group of this step has no sum. Of an even number of groups it is the mean
        of the middle two.
    """
    own = f"{_WAITING}{groups.step(number)}/"
    rest = {name: value for name, value in memory.items() if not name.startswith(_WAITING)}
    means = {name: value for name, value in memory.items() if name.startswith(own)}
    means[f"{own}{groups.place(number)}"] = mean_Q
    if groups.place(number) < groups.count - 1:
        return rest | means, None
    if len(means) < groups.count:
        return rest, None
    return rest, np.median(np.stack([means[name] for name in sorted(means)]), axis=0)
