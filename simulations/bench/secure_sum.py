"""What the secure sum costs: `partsong bench secure-sum`.

CPU time of one process, medians, rivals interleaved in the same run. A rival that is not installed gives null with the
reason.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from partsong.common.secure_sum.fixed_point import encode
from partsong.common.secure_sum.masks import apply_masks
from partsong.server.secure_sum.protocol import SumRound
from partsong.simulations.bench.figures import Figure, report
from partsong.simulations.bench.stages import Moment, Stage, in_turn, quiet
from partsong.simulations.bench.sum_generated import generated
from partsong.simulations.bench.sum_rounds import cpu_ms, encoding_of, played
from partsong.simulations.secure_sum import found, next_header, set_up

REPEATS = 5
MILLION = 1_000_000
PACKAGES = ("partsong", "cryptography", "numpy", "flwr", "tenseal")
_GENERATED_SITES, _GENERATED_BYTES = 1000, 12 << 30
_PROCESS = Path("/proc/self")


def run(*, repeats: int = REPEATS, tell: Callable[[Moment], None] = quiet) -> dict[str, Any]:
    """Measure everything and give the one object that `--json` prints.

    Args:
        repeats: of each measurement; medians are reported.
        tell: told what is next.
    """
    stages = [
        Stage(what="mask kernel", usual_s=1, measure=lambda: [mask_kernel(repeats=repeats)]),
        Stage(
            what="masks beside Flower's",
            usual_s=5,
            measure=lambda: [against_flower(peers, repeats=repeats) for peers in (5, 20, 100)],
        ),
        Stage(what="masks beside CKKS", usual_s=3, measure=lambda: against_ckks(repeats=repeats)),
        Stage(what="sizes", usual_s=1, measure=sizes),
        Stage(what="rounds of 21 and of 101 sites", usual_s=60, measure=lambda: whole_rounds(repeats=repeats)),
        Stage(what="rounds of 1000 sites", usual_s=110, measure=a_thousand_sites),
        Stage(what="memory", usual_s=2, measure=lambda: [memory()]),
    ]
    return report("secure-sum", in_turn(stages, tell=tell), packages=PACKAGES)


def mask_kernel(*, repeats: int, words: int = MILLION // 3) -> Figure:
    """Compare the mask kernel with the bare cipher, both in bytes of key stream per second."""
    keys = [os.urandom(32) for _ in range(21)]
    vector, zeros = np.zeros(words, np.uint64), np.zeros(1 << 18, np.uint8)
    scratch = np.empty_like(zeros)
    cipher = Cipher(AES256(keys[0]), CTR(bytes(16))).encryptor()
    turns = max(1, len(keys) * vector.nbytes // zeros.size)

    def bare() -> None:
        for _ in range(turns):
            cipher.update_into(zeros.data, scratch.data)

    ratios = []
    for _ in range(repeats + 1):
        floor = cpu_ms(bare) / (turns * zeros.size)
        ours = cpu_ms(lambda: apply_masks(vector, plus=keys[:10], minus=keys[10:])) / (len(keys) * vector.nbytes)
        ratios.append(floor / ours)
    value = statistics.median(ratios[1:])
    return Figure(name="mask_kernel_over_aes", value=value, unit="ratio", target=0.5, better="higher")


def against_flower(peers: int, *, repeats: int, parameters: int = MILLION) -> Figure:
    """Compare masking with the calls that Flower's SecAgg+ makes for it."""
    name = f"mask_speedup_over_flower_1m_{peers}"
    try:
        rival = importlib.import_module("flwr.common.secure_aggregation.secaggplus_utils")
        sums = importlib.import_module("flwr.common.secure_aggregation.ndarrays_arithmetic")
    except ImportError as err:
        reason = f"flwr is not installed: {err.name}"
        return Figure(name=name, value=None, unit="ratio", target=8, better="higher", reason=reason)
    keys = [os.urandom(32) for _ in range(peers + 1)]
    words = np.zeros(encoding_of(parameters, field_bits=21, sites=64).words(), np.uint64)
    vector = [np.zeros(parameters, np.int64)]

    def theirs() -> None:
        total = vector
        for key in keys:
            total = sums.parameters_addition(total, rival.pseudo_rand_gen(key, 1 << 32, [(parameters,)]))
        sums.parameters_mod(total, 1 << 32)

    value = _ratio(theirs, lambda: apply_masks(words, plus=keys, minus=[]), repeats=repeats)
    note = "masks alone, without quantisation on both sides"
    return Figure(name=name, value=value, unit="ratio", target=8, better="higher", note=note)


def against_ckks(*, repeats: int, parameters: int = MILLION) -> list[Figure]:
    """Compare encoding and masking for 20 peers with encryption under TenSEAL's CKKS, as NVFlare sets it up."""
    names = ("report_speedup_over_ckks_1m_20", "bytes_per_param_ckks")
    try:
        tenseal = importlib.import_module("tenseal")
    except ImportError as err:
        reason = f"tenseal is not installed: {err.name}"
        return [
            Figure(name=name, value=None, unit=u, reason=reason) for name, u in zip(names, ("ratio", "B"), strict=True)
        ]
    scheme, symmetric = tenseal.SCHEME_TYPE.CKKS, tenseal.ENCRYPTION_TYPE.SYMMETRIC
    context = tenseal.context(scheme, 8192, coeff_mod_bit_sizes=[60, 40, 40], encryption_type=symmetric, n_threads=1)
    context.global_scale = 2**40
    update = np.random.default_rng(0).standard_normal(parameters)
    sent: list[int] = []

    def theirs() -> None:
        parts = [update[start : start + 4096] for start in range(0, parameters, 4096)]
        sent.append(sum(len(tenseal.ckks_vector(context, part).serialize()) for part in parts))

    encoding = encoding_of(parameters, field_bits=21, sites=21)
    keys, single = [os.urandom(32) for _ in range(21)], update.astype(np.float32)

    def ours() -> None:
        rng = np.random.default_rng(0)
        words = encode({"update": single}, encoding, rotation_seed=bytes(32), rng=rng)
        apply_masks(words, plus=keys, minus=[])

    value = _ratio(theirs, ours, repeats=repeats)
    note = "polynomials of 8192, moduli 60-40-40, symmetric: encrypt and serialise; encode and mask on this side"
    return [
        Figure(name=names[0], value=value, unit="ratio", note=note),
        Figure(name=names[1], value=round(sent[0] / parameters, 2), unit="B"),
    ]


def _ratio(theirs: Callable[[], None], ours: Callable[[], None], *, repeats: int) -> float:
    return statistics.median(cpu_ms(theirs) / cpu_ms(ours) for _ in range(repeats))


def sizes() -> list[Figure]:
    """Count the bytes of a masked vector."""
    note = "the rotation pads a million values to 1 001 472"
    return [
        Figure(
            name=f"bytes_per_param_{name}",
            value=round(encoding_of(MILLION, field_bits=bits, sites=64).bytes() / MILLION, 2),
            unit="B",
            target=target,
            note=note,
        )
        for name, bits, target in (("default", 21, 2.7), ("compact", 16, 2.0))
    ]


def whole_rounds(*, repeats: int, parameters: int = MILLION) -> list[Figure]:
    """Run rounds of 21 sites, and of 101 with a committee, ten of which drop out."""
    small = played(sites=21, dropped=2, parameters=parameters, repeats=repeats)
    large = played(sites=101, dropped=10, parameters=parameters, repeats=repeats)
    stage = small.of_site("encode", "report")
    note = "a share holder, from OPEN to UNMASK, its encoding included"
    return [
        Figure(name="report_stage_cpu_ms_n21_1m", value=stage, unit="ms", target=40, note=small.note()),
        Figure(
            name="site_cpu_ms_n101_1m", value=large.of_site(), unit="ms", target=250, note=f"{note}: {large.note()}"
        ),
        Figure(name="server_cpu_ms_n101_1m", value=large.of_coordinator(), unit="ms", target=1000),
    ]


def a_thousand_sites(*, parameters: int = MILLION) -> list[Figure]:
    """Run one round of 1000 sites with a committee, 100 of which drop out; one site is real."""
    names = ("site_cpu_ms_n1000_1m", "server_cpu_ms_n1000_1m")
    free = _available_bytes()
    if free < _GENERATED_BYTES:
        reason = f"the coordinator's bundles take {_GENERATED_BYTES >> 30} GiB, {free >> 30} GiB are free"
        return [Figure(name=name, value=None, unit="ms", reason=reason) for name in names]
    costs = generated(sites=_GENERATED_SITES, dropped=_GENERATED_SITES // 10, parameters=parameters)
    note = "one round, the other sites' messages made up"
    return [
        Figure(name=names[0], value=costs.of_site(), unit="ms", note=f"{note}: {costs.note()}"),
        Figure(name=names[1], value=costs.of_coordinator(), unit="ms", note=note),
    ]


def memory() -> Figure:
    """Measure how far one site's report stage at 10 M parameters raises the memory of a fresh process."""
    name, note = "rss_over_vector_10m", "encode and report at one of 5 sites, the vector included"
    command = [sys.executable, "-P", "-m", "partsong.simulations.bench.secure_sum", "--memory"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    if done.returncode:
        return Figure(name=name, value=None, unit="ratio", target=2.5, reason="no memory could be read here")
    return Figure(name=name, value=float(done.stdout), unit="ratio", target=2.5, note=note)


def memory_growth(*, parameters: int = 10 * MILLION) -> float:
    """Encode and report at one of five sites; give the peak's growth over what was resident, in vectors' bytes."""
    made = set_up(found([f"site{i}" for i in range(5)]), run=bytes(32))
    encoding = encoding_of(parameters, field_bits=21, sites=64)
    desk = SumRound(run=made.run, signer=made.consortium.coordinator, header=next_header(made, words=encoding.words()))
    for site in made.sites.values():
        site.open(desk.open(result=b""))
        desk.add_ready(site.ready(verdict=True))
    seed = made.sites[0].enter(desk.close_roster()).context
    (_PROCESS / "clear_refs").write_text("5")  # the peak begins anew
    idle = _own_bytes("VmRSS")
    update = np.ones(parameters, np.float32)
    size = update.nbytes
    words = encode({"update": update}, encoding, rotation_seed=seed, rng=np.random.default_rng(0))
    del update
    made.sites[0].report(words)
    return (_own_bytes("VmHWM") - idle) / size


def _own_bytes(line: str) -> int:
    """Read this process's own memory; `getrusage` would include its parent's."""
    return _kilobytes(_PROCESS / "status", line)


def _available_bytes() -> int:
    """Read what the machine has to spare; 0 where that cannot be read."""
    meminfo = Path("/proc/meminfo")
    return _kilobytes(meminfo, "MemAvailable") if meminfo.exists() else 0


def _kilobytes(file: Path, line: str) -> int:
    (found_line,) = (text for text in file.read_text().splitlines() if text.startswith(f"{line}:"))
    return 1024 * int(found_line.split()[1])


if __name__ == "__main__":
    print(memory_growth() if sys.argv[1:] == ["--memory"] else json.dumps(run(), indent=2))
