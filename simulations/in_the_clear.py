"""How much each round's average lost, measured in a simulation that looks at every site's update.

Covers: the simulator alone. A coordinator sees sums, so none of this can be computed where sites are real; a run that
asks for it says so (`measure_aggregation`).
Does not cover: what a server optimizer other than plain averaging does on purpose: that counts as error here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from partsong.common.adapters.adapter import FloatVec, unflatten
from partsong.common.adapters.aggregation import layer_errors
from partsong.common.adapters.lora import Tensors
from partsong.common.adapters.turns import gather, replaced
from partsong.common.plan import Plan


class InTheClear:
    """Collects updates as sites make them."""

    def __init__(self, plan: Plan, *, start_P: FloatVec, frozen_F: FloatVec) -> None:
        """Begin before the first round; a run that is resumed is measured from its second round on."""
        self._plan, self._frozen_F = plan, frozen_F
        self._before: tuple[int, FloatVec] = (0, start_P)
        self._updates: dict[str, tuple[int, FloatVec]] = {}
        self._lock = threading.Lock()

    def note(self, site: str, number: int, update_P: FloatVec) -> None:
        """Keep what a site would seal for a round."""
        with self._lock:
            self._updates[site] = (number, update_P.copy())

    def measure(self, number: int, adapter_P: FloatVec, *, sites: tuple[str, ...]) -> dict[str, Any]:
        """Compare the adapter after a round with the mean of the products of those in its sum.

        Returns:
            `aggregation_error`: for each layer what two averages, the best of the rank, and this round lost; nothing
            for a round without a sum, or whose start was not seen.
        """
        (seen, before_P), self._before = self._before, (number, adapter_P)
        with self._lock:
            updates = [self._updates[s][1] for s in sites if self._updates.get(s, (0,))[0] == number]
        if seen != number - 1 or not updates or len(updates) != len(sites):
            return {}
        layout, turn = self._plan.layout, self._plan.turn(number)
        part_Q = gather(before_P, layout, turn)
        each = [self._tensors(replaced(before_P, part_Q + update_P, layout, turn)) for update_P in updates]
        errors = layer_errors(each, self._tensors(adapter_P))
        return {"aggregation_error": [asdict(error) for error in errors]}

    def _tensors(self, trained_P: FloatVec) -> Tensors:
        layout = self._plan.layout
        return unflatten(self._frozen_F, layout.frozen) | unflatten(trained_P, layout.trained)


def aggregation_lines(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say for people what the last round that was measured has lost, a line for each layer."""
    measured = [entry for entry in history if "aggregation_error" in entry]
    if not measured:
        return []
    lines = [
        f"what the average of round {measured[-1]['round']} lost of the mean product (two averages, best, this run)"
    ]
    for error in measured[-1]["aggregation_error"]:
        numbers = ", ".join(f"{error[kind]:.2g}" for kind in ("fedit", "best", "ours"))
        lines.append(f"  {error['layer'].removeprefix('base_model.model.')}: {numbers}")
    return lines
