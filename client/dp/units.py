"""Records that belong to one unit: their gradients are added before anything is clipped.

Covers: a unit whose records are spread over several physical batches. What it has so far is carried, unclipped, to
    the next one, and clipped once, when it is complete.
Does not cover: whose record is whose. Two names for one patient are two units.

B records and U units of a physical batch, P trainable parameters, X parameters of one layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from partsong.common.errors import Refused


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segments:
    """The units of one physical batch."""

    spans: tuple[tuple[int, int], ...]
    """First record and the one behind the last, of each of U units, one after the other."""
    carry_P: torch.Tensor | None = None
    """What unit 0 has from earlier physical batches."""

    def collapse(self, rows_BX: torch.Tensor, *, start: int = 0) -> torch.Tensor:
        """Add up the rows of each unit, in place: the first U rows are the result, (U, X).

        Row by row and not by index, because a sum that scatters has another order, and so another rounding, each time
        on a GPU.

        Args:
            rows_BX: gradients of records.
            start: where their parameters begin in `carry_P`.
        """
        for unit, (first, behind) in enumerate(self.spans):
            if behind - first > 1 or unit != first:
                rows_BX[unit] = rows_BX[first:behind].sum(dim=0)
        if self.carry_P is not None:
            rows_BX[0] += self.carry_P[start : start + rows_BX.shape[1]]
        return rows_BX[: len(self.spans)]

    def spread(self, weight_U: torch.Tensor) -> torch.Tensor:
        """Give each record the weight of its unit, (B,)."""
        sizes = torch.tensor([behind - first for first, behind in self.spans], device=weight_U.device)
        return weight_U.repeat_interleave(sizes)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenUnit:
    """The last unit of a physical batch: the next one may hold more of it."""

    number: int
    gradient_P: torch.Tensor
    """Unclipped."""
    loss_1: torch.Tensor
    """(1,) float32, unclipped."""


def spans_of(unit_B: Sequence[int], *, after: int | None) -> tuple[tuple[int, int], ...]:
    """Cut a physical batch into units.

    Args:
        unit_B: number of each record's unit.
        after: the unit that the physical batch before ended with.
    Raises:
        Refused: `unit_comes_back`; nothing was added.
    """
    spans: list[tuple[int, int]] = []
    last = after
    for place, number in enumerate(unit_B):
        if last is not None and number < last:
            raise Refused(
                "unit_comes_back",
                reason="records of one unit that come apart would be clipped apart, and the unit would count twice",
                remedy="let the records of each unit follow one another",
            )
        if spans and number == last:
            spans[-1] = (spans[-1][0], place + 1)
        else:
            spans.append((place, place + 1))
        last = number
    return tuple(spans)


def require_units(unit_B: Sequence[int] | None, *, patients: bool, records: int) -> None:
    """Refuse a pass that does not say whose records it holds where this matters, or says it where it does not.

    Raises:
        Refused: `units_unknown`; nothing was added.
    """
    if (unit_B is not None) != patients or (unit_B is not None and len(unit_B) != records):
        raise Refused(
            "units_unknown",
            reason=f"clipping {'patients' if patients else 'records'}, and a pass of {records} records came with "
            f"{'no units' if unit_B is None else f'{len(unit_B)} units'}",
            remedy="give the unit of each record with unit=patient, and none with unit=record",
        )
