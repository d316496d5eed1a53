"""What a vote on a round has decided, as events, history and report tell it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from partsong.common.plan import Plan
from partsong.common.questions.counting import is_kept
from partsong.server.desk import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Ballot:
    """One vote. Public like every opened sum."""

    of: int
    """Round that it is about."""
    kept: bool
    """Whether that round's adapter is kept. Without a sum it is not."""
    votes: float | None
    """Sum over the sites, at most `most_votes` each, with the noise of all; None: the vote had no sum."""
    noise_sd: float
    """Of `votes`; 0 without differential privacy."""

    @property
    def words(self) -> str:
        """Say it for people."""
        votes = "no sum of votes" if self.votes is None else f"votes {self.votes:+.1f}"
        noise = f" (noise {self.noise_sd:.1f})" if self.noise_sd else ""
        end = "kept" if self.kept else "dropped, the adapter before it stays"
        return f"round {self.of}: {votes}{noise}; {end}"


def ballot_of(outcome: Outcome, plan: Plan) -> Ballot | None:
    """Read how a vote ended; None of a round that is none.

    Args:
        outcome: of the round.
        plan: of the run.
    """
    number, opened = outcome.state.number, outcome.opened
    if plan.vote is None or not plan.is_vote(number):
        return None
    if opened is None:
        return Ballot(of=number - 1, kept=False, votes=None, noise_sd=0.0)
    return Ballot(
        of=number - 1,
        kept=is_kept(opened.mean_P),
        votes=float(opened.mean_P[0]) * opened.sites,
        noise_sd=(plan.vote.noise_multiplier or 0.0) * math.sqrt(opened.sites),
    )
