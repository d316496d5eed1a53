"""Random scripts of faults, for federations of any sites and rounds."""

from hypothesis import strategies as st

from partsong.simulations.faults.script import BEFORE_ROUNDS, IN_ROUND, Corruption, Fault, Kind, Lie, Phase

LIES = ("other_adapter", "other_vector", "other_result", "replay", "begin_again", "short_roster")
HOWS = ("flip", "garbage", "foreign", "refuse")


def moments(rounds: int) -> st.SearchStrategy[tuple[int, Phase]]:
    """Round and phase of a question; most are of a round."""
    in_round = st.tuples(st.integers(1, rounds), st.sampled_from((*IN_ROUND, "result")))
    return st.one_of(in_round, in_round, st.tuples(st.just(0), st.sampled_from(BEFORE_ROUNDS)))


@st.composite
def faults(drawn: st.DrawFn, *, sites: tuple[str, ...], rounds: int) -> Fault:
    """One thing that goes wrong."""
    kinds = ("drop", "lose", "delay", "duplicate", "reorder", "kill", "kill_coordinator", "corrupt", "lie", "skew")
    kind: Kind = drawn(st.sampled_from(kinds))
    site = drawn(st.sampled_from(sites))
    if kind == "skew":
        return Fault(kind=kind, sites=(site,), seconds=drawn(st.sampled_from((-1e6, -60.0, 60.0, 1e6))))
    number, phase = drawn(moments(rounds))
    how: Corruption = drawn(st.sampled_from(HOWS)) if kind == "corrupt" else "flip"
    lie: Lie = drawn(st.sampled_from(LIES)) if kind == "lie" else "other_adapter"
    if kind == "lie":
        number, phase = max(1, number), "roster" if lie == "short_roster" else "open"
    return Fault(
        kind=kind,
        sites=() if kind == "kill_coordinator" else (site,),
        rounds=(number,),
        phases=(phase,),
        seconds=drawn(st.sampled_from((1.0, 1000.0))) if kind == "delay" else 0.0,
        moment=drawn(st.sampled_from(("before", "after"))) if kind.startswith("kill") else "before",
        how=how,
        lie=lie,
    )
