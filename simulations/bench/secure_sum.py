"""What the secure sum costs: `python -m partsong.simulations.bench.secure_sum`.

CPU time of one process, medians, rivals interleaved in the same run. A rival that is not installed gives null with
the reason.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from partsong.common.fixed_point import Block, Encoding, WordVec, encode
from partsong.common.masks import apply_masks
from partsong.server.secure_sum import SumRound
from partsong.simulations.secure_sum import Federation, found, next_header, set_up

REPEATS = 5
MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float | None
    unit: str
    target: str
    met: bool | None
    note: str = ""


def encoding_of(parameters: int, *, field_bits: int, sites: int) -> Encoding:
    """Describe one rotated update."""
    block = Block(name="update", size=parameters, clip=1.0, norm="l2", rotate=True)
    return Encoding(blocks=(block,), field_bits=field_bits, max_sites=sites)


def cpu_ms(work: Callable[[], object]) -> float:
    """Take the CPU time of one call."""
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


def at_least(name: str, value: float | None, target: float, *, unit: str, note: str = "") -> Figure:
    """Make a figure that should be large."""
    met = None if value is None else value >= target
    return Figure(name=name, value=value, unit=unit, target=f">= {target}", met=met, note=note)


def at_most(name: str, value: float | None, target: float, *, unit: str, note: str = "") -> Figure:
    """Make a figure that should be small."""
    met = None if value is None else value <= target
    return Figure(name=name, value=value, unit=unit, target=f"<= {target}", met=met, note=note)


def mask_kernel() -> Figure:
    """Compare the mask kernel with the bare cipher, both in bytes of key stream per second."""
    keys = [os.urandom(32) for _ in range(21)]
    words, zeros = np.zeros(MILLION // 3, np.uint64), np.zeros(1 << 18, np.uint8)
    scratch = np.empty_like(zeros)
    cipher = Cipher(AES256(keys[0]), CTR(bytes(16))).encryptor()
    turns = len(keys) * words.nbytes // zeros.size

    def bare() -> None:
        for _ in range(turns):
            cipher.update_into(zeros.data, scratch.data)

    ratios = []
    for _ in range(REPEATS + 1):
        floor = cpu_ms(bare) / (turns * zeros.size)
        ours = cpu_ms(lambda: apply_masks(words, plus=keys[:10], minus=keys[10:])) / (len(keys) * words.nbytes)
        ratios.append(floor / ours)
    return at_least("mask_kernel_over_aes", statistics.median(ratios[1:]), 0.5, unit="1")


def against_flower(peers: int) -> Figure:
    """Compare masking of 1 M parameters with the calls that Flower's SecAgg+ makes for it."""
    name = f"mask_speedup_over_flower_1m_{peers}"
    try:
        rival = importlib.import_module("flwr.common.secure_aggregation.secaggplus_utils")
        sums = importlib.import_module("flwr.common.secure_aggregation.ndarrays_arithmetic")
    except ImportError as err:
        return at_least(name, None, 8, unit="1", note=f"flwr is not installed: {err.name}")
    keys = [os.urandom(32) for _ in range(peers + 1)]
    words = np.zeros(encoding_of(MILLION, field_bits=21, sites=64).words(), np.uint64)
    vector = [np.zeros(MILLION, np.int64)]

    def theirs() -> None:
        total = vector
        for key in keys:
            total = sums.parameters_addition(total, rival.pseudo_rand_gen(key, 1 << 32, [(MILLION,)]))
        sums.parameters_mod(total, 1 << 32)

    ratios = []
    for _ in range(REPEATS):
        slow = cpu_ms(theirs)
        fast = cpu_ms(lambda: apply_masks(words, plus=keys, minus=[]))
        ratios.append(slow / fast)
    return at_least(
        name, statistics.median(ratios), 8, unit="1", note="masks alone, without quantisation on both sides"
    )


def report_stages(sites: int) -> dict[str, float]:
    """Take the CPU time of one site and of the coordinator in a round at 1 M parameters."""
    encoding = encoding_of(MILLION, field_bits=21, sites=sites)
    update = np.random.default_rng(0).standard_normal(MILLION).astype(np.float32)
    start = time.process_time()
    made = set_up(found([f"site{i:03}" for i in range(sites)]), run=bytes(32))
    times: dict[str, list[float]] = {"set-up": [1000 * (time.process_time() - start) / sites]}
    words = encode({"update": update}, encoding, rotation_seed=bytes(32), rng=np.random.default_rng(0))
    for _ in range(REPEATS):
        measured_round(made, words, encoding, update, times)
    return {name: statistics.median(values) for name, values in times.items()}


def measured_round(
    made: Federation, words: WordVec, encoding: Encoding, update: np.ndarray[Any, Any], times: dict[str, list[float]]
) -> None:
    """Run one round, with one site's and the coordinator's parts under the clock."""
    made.rounds += 1
    header = next_header(made, words=words.size)
    header = type(header)(**{f: getattr(header, f) for f in header.__slots__} | {"round": made.rounds})
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=header)

    def clocked(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        value = work()
        times.setdefault(name, []).append(1000 * (time.process_time() - start))
        return value

    first = made.sites[0]
    opening = desk.open(result=b"")
    for site in made.sites.values():
        site.open(opening)
        desk.add_ready(site.ready(verdict=True))
    roster = desk.close_roster()
    seed = clocked("enter", lambda: first.enter(roster)).rotation_seed
    rng = np.random.default_rng(0)
    clocked("encode", lambda: encode({"update": update}, encoding, rotation_seed=seed, rng=rng))
    report = clocked("report", lambda: first.report(words))
    clocked("coordinator add_report", lambda: desk.add_report(report))
    for number, site in list(made.sites.items())[1:]:
        site.enter(roster)
        desk.add_report(site.report(words)) if number not in dropped(made) else None
    requests = desk.close_reports()
    confirms = [clocked("confirm", lambda: first.confirm(requests[0]))]
    confirms += [made.sites[number].confirm(requests[number]) for number in desk.survivors[1:]]
    for confirm in confirms:
        desk.add_confirm(confirm)
    quorum = desk.close_confirms()
    desk.add_unmask(clocked("unmask", lambda: first.unmask(quorum)))
    for number in desk.survivors[1:]:
        desk.add_unmask(made.sites[number].unmask(quorum))
    clocked("coordinator open_sum", desk.open_sum)


def dropped(made: Federation) -> Sequence[int]:
    """Let a tenth of the sites drop out after the roster, where there are enough."""
    return range(1, 1 + len(made.sites) // 10)


def memory() -> Figure:
    """Measure how far one site's report stage at 10 M parameters raises the peak of a fresh process."""
    command = [sys.executable, "-P", "-m", __spec__.name if __spec__ else __name__, "--memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own module
    return at_most(
        "rss_over_vector_10m",
        float(done.stdout),
        2.5,
        unit="1",
        note="encode and report at one of 5 sites, the vector included",
    )


def memory_growth() -> float:
    """Encode and report 10 M parameters at one of five sites; give the peak's growth over the vector's bytes."""
    made = set_up(found([f"site{i}" for i in range(5)]), run=bytes(32))
    encoding = encoding_of(10 * MILLION, field_bits=21, sites=64)
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=encoding.words()))
    for site in made.sites.values():
        site.open(desk.open(result=b""))
        desk.add_ready(site.ready(verdict=True))
    seed = made.sites[0].enter(desk.close_roster()).rotation_seed
    idle = peak_bytes()
    update = np.ones(10 * MILLION, np.float32)
    size = update.nbytes
    words = encode({"update": update}, encoding, rotation_seed=seed, rng=np.random.default_rng(0))
    del update
    made.sites[0].report(words)
    return (peak_bytes() - idle) / size


def peak_bytes() -> int:
    """Read this process's own peak of resident memory; `getrusage` would include its parent's."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def figures() -> list[Figure]:
    """Measure everything."""
    found_figures = [mask_kernel(), *(against_flower(peers) for peers in (5, 20, 100))]
    for name, bits, target in (("default", 21, 2.7), ("compact", 16, 2.01)):
        size = encoding_of(MILLION, field_bits=bits, sites=64).bytes() / MILLION
        found_figures.append(at_most(f"bytes_per_param_{name}", size, target, unit="bytes"))
    for sites in (21, 64):
        stages = report_stages(sites)
        note = ", ".join(f"{name} {value:.1f} ms" for name, value in stages.items())
        total = stages["report"]
        if sites == 21:
            found_figures.append(at_most("report_stage_cpu_ms_n21_1m", total, 40, unit="ms", note=note))
        else:
            site = sum(value for name, value in stages.items() if name in ("enter", "report", "confirm", "unmask"))
            found_figures.append(at_most("site_cpu_ms_n64_1m", site, 250, unit="ms", note=note))
            server = sites * stages["coordinator add_report"] + stages["coordinator open_sum"]
            found_figures.append(at_most("server_cpu_ms_n64_1m", server, 1000, unit="ms"))
    late = "more than 64 sites need the committee of share holders, which is not built"
    found_figures += [
        at_most("site_cpu_ms_n101_1m", None, 250, unit="ms", note=late),
        at_most("server_cpu_ms_n101_1m", None, 1000, unit="ms", note=late),
        memory(),
    ]
    return found_figures


def run() -> dict[str, Any]:
    """Measure everything and give the one object that `--json` prints."""
    names = ("partsong", "cryptography", "numpy", "flwr")
    return {
        "bench": "secure-sum",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
        "figures": [{f: getattr(figure, f) for f in figure.__slots__} for figure in figures()],
    }


if __name__ == "__main__":
    print(memory_growth() if sys.argv[1:] == ["--memory"] else json.dumps(run(), indent=2))
