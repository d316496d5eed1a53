"""What a round over the network costs: `partsong bench round`.

The coordinator is one process, every site is `partsong site up` in a process of its own; they talk over loopback with
mutual TLS, signed envelopes and the real secure sum, journals and checkpoints included. The run is a canary: nothing is
trained. Times are wall time, medians; peak memory is that of the whole process since it began. Stock Flower is measured
in the same run, with no load beside it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from partsong.simulations.bench.figures import Figure, report
from partsong.simulations.bench.process_memory import peak_bytes
from partsong.simulations.bench.round_consortium import Consortium, at_work, make_consortium
from partsong.simulations.bench.stages import Moment, Stage, in_turn, quiet
from partsong.simulations.bench.stock_flower import NotMeasured, stock_rounds

PACKAGES = ("partsong", "flwr", "cryptography", "numpy")
EMPTY = 64
"""Numbers in the update of an empty round."""
SIZES_MB = (2, 20, 80)
EMPTY_ROUND_S = 3.0
_BYTES_PER_NUMBER = 8 / 3
"""Of a sealed update: three numbers in a word."""
_FREE_MB, _UPDATES_HELD = 200, 3
_LIMIT_S = 1200.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Rounds of one size."""

    seconds: tuple[float, ...]
    phases: tuple[dict[str, float], ...]
    """Of each round."""
    coordinator_bytes: int
    """Peak."""
    site_bytes: int
    """Peak of the largest."""

    def note(self) -> str:
        """Name the phases with their medians."""
        medians = {name: statistics.median(phases[name] for phases in self.phases) for name in self.phases[0]}
        return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in medians.items())


def run(*, rounds: int = 5, tell: Callable[[Moment], None] = quiet) -> dict[str, Any]:
    """Measure everything and give the one object that `--json` prints.

    Args:
        rounds: of each size; the largest and stock Flower take fewer.
        tell: told what is next.
    """
    with tempfile.TemporaryDirectory() as folder:
        few = make_consortium(Path(folder) / "few", sites=3)
        sizes = {megabytes: min(rounds, 3) if megabytes > 20 else rounds for megabytes in SIZES_MB}
        stages = [
            Stage(what="empty rounds of 3 sites", usual_s=40, measure=lambda: [empty_rounds(few, rounds=2 * rounds)]),
            Stage(what="stock Flower", usual_s=30, measure=lambda: [stock(few, rounds=2)]),
            *(
                Stage(
                    what=f"rounds of {megabytes} MB",
                    usual_s=25 + number * megabytes / 4,
                    measure=partial(full_rounds, few, megabytes=megabytes, rounds=number),
                )
                for megabytes, number in sizes.items()
            ),
            Stage(
                what="empty rounds of 10 sites",
                usual_s=90,
                measure=lambda: [empty_rounds(make_consortium(Path(folder) / "many", sites=10), rounds=rounds)],
            ),
        ]
        figures = in_turn(stages, tell=tell)
    return report("round", figures, packages=PACKAGES)


def empty_rounds(made: Consortium, *, rounds: int) -> Figure:
    """Time rounds without content."""
    sites = len(made.names)
    found = measure(made, numbers=EMPTY, rounds=rounds)
    return Figure(
        name=f"empty_round_s_{sites}_sites",
        value=statistics.median(found.seconds),
        unit="s",
        target=EMPTY_ROUND_S if sites == 3 else None,
        note=f"a process for every site; {found.note()}; largest {max(found.seconds):.2f} s",
    )


def stock(made: Consortium, *, rounds: int) -> Figure:
    """Time empty rounds of four phases over stock Flower; null with the reason where it does not run."""
    name = f"stock_flower_round_s_{len(made.names)}_sites"
    try:
        seconds = stock_rounds(made, rounds=rounds)
    except NotMeasured as err:
        return Figure(name=name, value=None, unit="s", reason=str(err))
    note = "four empty phases, send_and_receive, SuperNodes with their processes; no secure sum"
    return Figure(name=name, value=statistics.median(seconds), unit="s", note=note)


def full_rounds(made: Consortium, *, megabytes: int, rounds: int) -> list[Figure]:
    """Time rounds whose updates have so many megabytes sealed, and read the peaks of memory."""
    sites = len(made.names)
    found = measure(made, numbers=int(megabytes * 1e6 / _BYTES_PER_NUMBER), rounds=rounds)
    size = f"{megabytes}mb"
    return [
        Figure(
            name=f"round_s_{sites}_sites_{size}", value=statistics.median(found.seconds), unit="s", note=found.note()
        ),
        Figure(
            name=f"coordinator_rss_mb_{sites}_sites_{size}",
            value=found.coordinator_bytes / 1e6,
            unit="MB",
            target=_FREE_MB + _UPDATES_HELD * sites * megabytes,
            note="peak of the process since it began",
        ),
        Figure(name=f"site_rss_mb_{size}", value=found.site_bytes / 1e6, unit="MB", note="peak of the largest site"),
    ]


def measure(made: Consortium, *, numbers: int, rounds: int) -> Measured:
    """Play a canary over new processes.

    Args:
        made: the consortium.
        numbers: in an update.
        rounds: to time.
    Raises:
        RuntimeError: a process failed; its last words are in the text.
    """
    words = [sys.executable, "-P", "-m", "partsong.simulations.bench.round_coordinator"]
    with at_work(made) as sites:
        command = [*words, str(made.folder), str(numbers), str(rounds)]
        done = subprocess.run(  # noqa: S603 - our own module
            command, capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )
        if done.returncode:
            raise RuntimeError(f"the coordinator ended with {done.returncode}: {_last_line(done.stderr)}")
        site_bytes = max(map(peak_bytes, sites))
    told = json.loads(done.stdout)
    return Measured(
        seconds=tuple(told["seconds"]),
        phases=tuple(told["phases"]),
        coordinator_bytes=told["peak_bytes"],
        site_bytes=site_bytes,
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def main(arguments: Sequence[str]) -> None:
    """Print the report."""
    if arguments:
        raise SystemExit("takes no arguments")
    print(json.dumps(run(), indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
