"""The published adapter directory against the plan and the sums: weights, options, guarantee, contributors.

Covers: other weights, other LoRA options (which change what the same weights do), a smaller epsilon than the rounds
cost, contributors that no sum names.
Does not cover: the model card, and what the JSON files say besides for people, the base model's name among it; the
plan has the base's digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from partsong.common.adapters.adapter import AdapterLayout, FloatVec, TensorSpec, digest, flatten
from partsong.common.adapters.lora import is_plain, published
from partsong.common.adapters.options import odd_option
from partsong.common.errors import DataError, PartsongError
from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.server.adapter_file import read_adapter
from partsong.server.planning import epsilon_after
from partsong.server.report.claims import placement

WEIGHTS, OPTIONS = "adapter_model.safetensors", "adapter_config.json"
PRIVACY, ORIGIN = "privacy.json", "provenance.json"

_ROUNDING = 1e-9
"""Relative; the accountant gives the same bits on one machine, and its FFT others on another."""


class Differs(PartsongError):
    """A published file is not what follows from the sums."""

    def __init__(self, *, found: str, expected: str) -> None:
        """Say what differs."""
        super().__init__(f"found {found}, expected {expected}")


def require_weights(folder: Path, plan: Plan, *, trained_P: FloatVec | None, start: Path) -> str:
    """Compare every tensor, bit by bit.

    Args:
        folder: the adapter directory.
        plan: of the run.
        trained_P: recomputed from the sums; None: only the frozen part and the layout are compared.
        start: file of the adapter before the first round, whose frozen part the plan names.
    Returns:
        digest of the trained part; of all tensors where they are published in another form than they were trained.
    Raises:
        DataError, Differs: other tensors, or one with other values.
    """
    if not is_plain(spec.name for spec in plan.layout.tensors):
        _, start_F = read_adapter(start, plan.layout)
        return _require_written(folder / WEIGHTS, plan, trained_P=trained_P, frozen_F=start_F)
    published_P, frozen_F = read_adapter(folder / WEIGHTS, plan.layout)
    if digest(frozen_F) != plan.frozen_sha256:
        raise Differs(found="another frozen part", expected="the one that the plan names")
    if trained_P is not None and digest(published_P) != digest(trained_P):
        other = int(np.count_nonzero(published_P.view(np.uint32) != trained_P.view(np.uint32)))
        raise Differs(
            found=f"{other} of {trained_P.size} trained values that do not follow from the sums",
            expected=f"the adapter of sha256 {digest(trained_P)}",
        )
    return digest(published_P)


def _require_written(file: Path, plan: Plan, *, trained_P: FloatVec | None, frozen_F: FloatVec) -> str:
    """Write the adapter once more as A and B; where the trained part is unknown, only A can be compared."""
    if digest(frozen_F) != plan.frozen_sha256:
        raise Differs(found="another frozen part", expected="the one that the plan names")
    known_P = np.zeros(plan.layout.size(trained=True), np.float32) if trained_P is None else trained_P
    expected = published(plan.layout, trained_P=known_P, frozen_F=frozen_F)
    form = AdapterLayout(
        tensors=tuple(
            TensorSpec(name=name, shape=value.shape, trained=".lora_B." in name) for name, value in expected.items()
        )
    )
    b, a = read_adapter(file, form)
    same = digest(a) == digest(flatten(expected, form.frozen))
    if not same or (trained_P is not None and digest(b) != digest(flatten(expected, form.trained))):
        raise Differs(found="factors that do not follow from the sums", expected="the adapter written as A and B")
    return digest(np.concatenate([b, a]))


def require_options(folder: Path, plan: Plan) -> None:
    """Compare LoRA's options with the plan's; one that the plan does not name has to be off.

    Raises:
        DataError, Differs: an option of another value.
    """
    odd = odd_option(_json(folder / OPTIONS), plan)
    if odd is not None:
        raise Differs(found=f"another {odd}", expected="LoRA options as the plan has them")


def require_guarantee(folder: Path, plan: Plan, *, rounds: int) -> None:
    """Compute epsilon again; a published one may be larger, where a round was asked and gave no sum.

    Args:
        folder: the adapter directory.
        plan: of the run.
        rounds: up to the last one that has a sum; those before it were asked.
    Raises:
        DataError, Differs: a smaller epsilon, or terms that are not the plan's.
    """
    guarantee = _json(folder / PRIVACY).get("guarantee")
    if (plan.dp is None) != (guarantee is None):
        raise Differs(found="a guarantee that the plan does not give, or none", expected="that of the plan")
    spent = epsilon_after(plan, rounds)
    if plan.dp is None or guarantee is None or spent is None:
        return
    try:
        epsilon, delta, unit = float(guarantee["epsilon"]), float(guarantee["delta"]), guarantee["unit"]
    except (KeyError, TypeError, ValueError) as err:
        raise Differs(found="no epsilon, delta and unit", expected="all three") from err
    if placement_named(guarantee) != placement_of(plan.dp):
        raise Differs(found="noise placed otherwise", expected=f"noise placed as planned: {placement(plan.dp)}")
    if not epsilon >= spent * (1 - _ROUNDING) or (delta, unit) != (plan.dp.delta, plan.dp.unit):
        raise Differs(
            found=f"epsilon {epsilon:g} at delta {delta:g} for one {unit}",
            expected=f"{spent:g} or more at delta {plan.dp.delta:g} for one {plan.dp.unit}",
        )


def placement_of(dp: DpPlan) -> tuple[int, int] | None:
    """Sites of a sum and colluders among them; None where each site's own noise is enough."""
    return None if dp.on_sum is None else (dp.on_sum.minimum_sum, dp.on_sum.colluders)


def placement_named(guarantee: dict[str, Any]) -> tuple[int, int] | None:
    """Read the same from a guarantee. One that does not say counts on each site's own noise.

    Raises:
        Differs: neither of the two.
    """
    named = guarantee.get("placement", "site")
    if named == "site":
        return None
    try:
        return int(named["sum"]["minimum_sum"]), int(named["sum"]["colluders"])
    except (KeyError, TypeError, ValueError) as err:
        raise Differs(found="no placement of the noise", expected="site, or sum with its sites") from err


def require_origin(
    folder: Path, plan: Plan, *, sums: Mapping[int, tuple[str, ...]] | None, checked_by: tuple[str, ...] | None
) -> None:
    """Compare the names of plan, base and contributors, and of those that checked the last sum.

    Args:
        folder: the adapter directory.
        plan: of the run.
        sums: by round, the sites whose vectors are in its sum; None: nobody signed who took part.
        checked_by: sites whose signed word on the last sum is kept; None: nobody's.
    Raises:
        DataError, Differs: another one.
    """
    origin = _json(folder / ORIGIN)
    try:
        named = origin["plan_sha256"], origin["base"]["sha256"], origin["run"]
        rounds = {int(line["round"]): tuple(line["sites"]) for line in origin["rounds"] if line["sites"]}
        contributors = tuple(origin["contributors"])
    except (KeyError, TypeError, ValueError, OverflowError) as err:
        raise Differs(found="no plan, base, rounds and contributors", expected="all four") from err
    if named != (plan.sha256, plan.base_sha256, plan.run):
        raise Differs(found="another plan, base or run", expected="those of plan.json")
    if sums is not None and (rounds, contributors) != (
        dict(sums),
        tuple(sorted({s for of in sums.values() for s in of})),
    ):
        raise Differs(found="other contributors", expected="the sites that signed their part in each sum")
    if checked_by is not None and _checkers(origin) != checked_by:
        raise Differs(found="others that checked the last sum", expected="those whose signed word is kept")


def _checkers(origin: dict[str, Any]) -> tuple[str, ...]:
    found = origin.get("secure_sum")
    return tuple(found["checked_by"]) if isinstance(found, dict) and isinstance(found.get("checked_by"), list) else ()


def _json(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as err:
        raise DataError(file.name, found="no JSON that can be read", expected="what the run published") from err
    if not isinstance(read, dict):
        raise DataError(file.name, found="no JSON object", expected="what the run published")
    return read
