"""Known ways in which a claim of differential privacy fails, and what was done about each in a run.

Source: NIST SP 800-226 (2025), whose pyramid has the guarantee, the algorithm with its side channels and its
trust model, and the exposure of the data as its levels.
"""

from __future__ import annotations

from partsong.common.plan import Plan
from partsong.common.privacy.terms import DpPlan
from partsong.server.report.facts import Hazard


def hazards(plan: Plan, *, evaluated: bool) -> tuple[Hazard, ...]:
    """List the hazards of a run; without differential privacy nothing about noise is covered.

    Args:
        plan: of the run.
        evaluated: whether scores on held-out records stand in its report.
    """
    own = _NO_GUARANTEE if plan.dp is None else _of_guarantee(plan.dp)
    return (*own, _scores(evaluated=evaluated), _tuning(plan), _reader(plan), *_ALWAYS)


_NO_GUARANTEE = (
    Hazard(
        name="no guarantee for anybody in the records",
        covered="no",
        how="the run was asked for without differential privacy, and each site's policy has to allow that by name",
        where="client/rules/consent.py",
    ),
)


def _of_guarantee(dp: DpPlan) -> tuple[Hazard, ...]:
    return (_unit(dp), *_FOR_ALL_PLANS, _rounding(dp), _drops(dp), *_FOR_ALL_NOISE)


def _drops(dp: DpPlan) -> Hazard:
    name = "sites that drop out take noise with them"
    if dp.on_sum is None:
        how = "each site adds all of its own noise, whoever else takes part"
        return Hazard(name=name, covered="yes", how=how, where="client/dp/engine.py")
    how = f"no site confirms a sum of fewer than {dp.on_sum.minimum_sum}, whose noise is enough"
    return Hazard(name=name, covered="yes", how=how, where="common/secure_sum/noised.py")


def _unit(dp: DpPlan) -> Hazard:
    name = "the unit is smaller than a person"
    if dp.unit == "patient":
        how = "patients are sampled, clipped and counted whole, by the unit column of each site"
        return Hazard(name=name, covered="yes", how=how, where="client/dp/units.py")
    how = "epsilon counts single records; a person with several is protected less, see what is not protected"
    return Hazard(name=name, covered="no", how=how, where="guarantee")


_FOR_ALL_PLANS = (
    Hazard(
        name="epsilon without delta, unit, relation or accountant",
        covered="yes",
        how="they stand together wherever an epsilon does",
        where="guarantee",
    ),
    Hazard(
        name="delta too large for the number of units",
        covered="yes",
        how="each site refuses a plan whose delta times its own number of units is 1 or more",
        where="client/rules/consent.py",
    ),
    Hazard(
        name="sampling is not what the accountant assumes",
        covered="yes",
        how="each unit is drawn by its own coin from the operating system; shuffled batches are refused",
        where="client/dp/sampler.py, client/dp/guards.py",
    ),
    Hazard(
        name="a unit moves the sum by more than the clip",
        covered="yes",
        how="gradients of whole units are clipped; models and losses that mix units are refused; tested leave-one-out",
        where="client/dp/clipping.py, tests/client/dp/test_sensitivity.py",
    ),
    Hazard(
        name="noise that can be predicted or replayed",
        covered="yes",
        how="each draw has a fresh key from the operating system; there is no seed",
        where="client/dp/noise.py",
    ),
)


def _rounding(dp: DpPlan) -> Hazard:
    name = "noise that its floating-point rounding gives away"
    if dp.noise == "discrete":
        how = "noise is drawn and added in integers, and the rounding is accounted for"
        return Hazard(name=name, covered="yes", how=how, where="client/dp/discrete.py")
    how = "four normal values are added into one, against known attacks; arithmetic with 53 bits is not proven"
    return Hazard(name=name, covered="partly", how=how, where="client/dp/noise.py")


_FOR_ALL_NOISE = (
    Hazard(
        name="metrics released outside the accountant",
        covered="yes",
        how="the training loss is clipped, noised and counted in the same epsilon",
        where="common/privacy/accounting.py",
    ),
    Hazard(
        name="one unit at several sites",
        covered="partly",
        how="the epsilon for two sites is shown; for more, and for sites that do not know that they share, it is not",
        where="sites and federation",
    ),
    Hazard(
        name="the same records in many runs",
        covered="partly",
        how="each site's ledger adds up all runs and refuses beyond its ceiling; this report sees one run",
        where="client/budget/ledger.py",
    ),
)


def _scores(*, evaluated: bool) -> Hazard:
    name = "scores on held-out records are released without noise"
    if evaluated:
        how = "the simulator scored held-out records; their scores are in no epsilon"
        return Hazard(name=name, covered="no", how=how, where="evaluation")
    how = "no held-out records were scored in this run"
    return Hazard(name=name, covered="yes", how=how, where="evaluation")


def _tuning(plan: Plan) -> Hazard:
    how = "runs before this one are in each site's ledger; what people chose from them cannot be seen here"
    return Hazard(
        name="settings chosen by looking at private records",
        covered="no" if plan.dp is None else "partly",
        how=how,
        where="client/budget/ledger.py",
    )


def _reader(plan: Plan) -> Hazard:
    name = "the coordinator reads single updates"
    if plan.masked:
        how = "updates open only as a sum, with the floors of the charter"
        return Hazard(name=name, covered="yes", how=how, where="common/PROTOCOL.md")
    how = "secure_sum=off: updates were added up as they came"
    return Hazard(name=name, covered="no", how=how, where="trust")


_ALWAYS = (
    Hazard(
        name="timing, memory and traffic of a site give something away",
        covered="no",
        how="how long a step takes shows the size of its sample to whoever watches the machine",
        where="client/dp/sampler.py",
    ),
    Hazard(
        name="a site that trains on wrong records",
        covered="no",
        how="a vector is limited in length; what it says is not checked",
        where="common/PROTOCOL.md",
    ),
    Hazard(
        name="what the adapter says about everybody",
        covered="no",
        how="differential privacy hides who was present, not what holds in general",
        where="not protected",
    ),
)
