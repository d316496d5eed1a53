"""What a refusal's code, or the loss of a site in a round, means to whoever runs the coordinator, and what to do.

Rule and numbers of a refusal stay at the site; a code of a short public list is all that the coordinator hears.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from partsong.common.wire import RefusalCode


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """Of one code."""

    rule: str
    """Whose rule it is, in words."""
    remedy: str


MEANINGS: Mapping[RefusalCode, Meaning] = {
    "plan": Meaning(
        rule="the message does not fit the plan that the site accepted",
        remedy="compare the versions of coordinator and site; begin the run anew",
    ),
    "policy": Meaning(
        rule="a rule of the site's policy, or a person there, says no",
        remedy="ask the site which rule (`partsong site plans --all` there); ask for less in a new job",
    ),
    "budget": Meaning(
        rule="the plan costs more than is left of the privacy budget there",
        remedy="fewer rounds or a smaller epsilon, or the site raises its ceiling",
    ),
    "data": Meaning(
        rule="the site's records are too few for its rules, or do not say whose they are",
        remedy="the site looks at its records: `partsong doctor` there",
    ),
    "model": Meaning(
        rule="the base model there is another one than the plan's",
        remedy="compare the digests; install the same base at the site",
    ),
    "state": Meaning(
        rule="the site pauses, or a person has not decided about the plan yet",
        remedy="wait: it is asked again until `start_timeout_s` has passed",
    ),
    "sum": Meaning(
        rule="the site found something wrong with a sum, or with what it was asked to open",
        remedy="stop, compare what the sites found, and run `partsong verify` over the run",
    ),
}
LOST: Mapping[str, str] = {
    "refused": "refused this round",
    "failed": "failed at the site; its log says why",
    "silent": "did not answer in time",
    "malformed": "sent what no site sends; compare the versions",
}
_UNKNOWN = Meaning(rule="a code that this version does not know", remedy="compare the versions of coordinator and site")


def meaning_of(code: str) -> Meaning:
    """Say what a code means."""
    return next((meaning for known, meaning in MEANINGS.items() if known == code), _UNKNOWN)
