"""The studies, and the grids in which they are run.

full is for a GPU. cpu takes at most three hours on two idle cores. smoke takes seconds and has made-up records: it
shows that the program works and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from partsong.common.errors import ConfigError
from partsong.simulations.studies import banking77, made_up, medquad
from partsong.simulations.studies.corpus import Corpus
from partsong.simulations.studies.declare import Axes, Budget, Grid, Method, Split, Study
from partsong.simulations.studies.sources import Source

_RATES = (3e-3, 1e-2, 3e-2)
"""Half a decade apart. The head starts at random and has few steps: after two rounds of FFA on MedQuAD the training
loss is 2.19 at 3e-3 and 1.71 at 1e-2."""
_PRIVATE_RATES = (3e-2, 1e-1, 3e-1)
"""Under a clip a step is short: at epsilon 8 with noise at each site FFA on MedQuAD gets .28 of the validation records
right at 1e-2, .43 at 3e-2 and .76 at 1e-1."""
FEDIT = Method(
    name="fedit", adapter={"method": "fedit", "a_init": "kaiming"}, rates=_RATES, private_rates=_PRIVATE_RATES
)
FFA = Method(name="ffa", adapter={"method": "ffa", "a_init": "orthonormal"}, rates=_RATES, private_rates=_PRIVATE_RATES)
FFA_KAIMING = Method(name="ffa-kaiming", adapter={"method": "ffa", "a_init": "kaiming"}, rates=_RATES)
FFA_SVD = Method(name="ffa-svd", adapter={"method": "ffa", "a_init": "public_svd"}, rates=_RATES)
FFA_REFRESH = Method(
    name="ffa-refresh4", adapter={"method": "ffa", "a_init": "orthonormal", "refresh": 4}, rates=_RATES
)
ROLORA = Method(
    name="rolora", adapter={"method": "rolora", "a_init": "orthonormal"}, rates=_RATES, private_rates=_PRIVATE_RATES
)
FEDROT = Method(name="fedrot", adapter={"method": "fedrot", "a_init": "orthonormal"}, rates=_RATES)
FFA_LOCKSTEP = dataclasses.replace(FFA, name="ffa-lockstep", lockstep=True)
FEDSB = Method(
    name="fedsb", adapter={"method": "fedsb", "a_init": "public_svd"}, rates=_RATES, private_rates=_PRIVATE_RATES
)
HLORA = Method(name="hlora", adapter={"method": "hlora", "a_init": "kaiming"}, rates=_RATES, site_ranks=(2, 4, 8, 16))


def _sketch(width: int) -> Method:
    return dataclasses.replace(
        HLORA, name=f"sketch{width}", adapter={"method": "sketch", "sketch": width, "a_init": "kaiming"}
    )


_SHORT = (FEDIT, FFA, ROLORA, FEDROT)
_ALL = (FEDIT, FFA, FFA_KAIMING, FFA_SVD, FFA_REFRESH, ROLORA, FEDROT, FEDSB)
_SKEWED = (FFA_LOCKSTEP,)
"""Where sites see different labels, several steps of each undo a part of each other's."""

BANKING = Split(
    corpus="banking77",
    alpha=0.1,
    sites=10,
    max_length=32,
    plain=Budget(rounds=20, steps_per_round=6, sampling_rate=0.0178),
    private=Budget(rounds=10, steps_per_round=3, sampling_rate=0.0712),
    test_limit=1540,
)
"""About 19,000 visits of its 9,000 training records."""
MEDQUAD = Split(
    corpus="medquad",
    alpha=None,
    sites=None,
    max_length=64,
    plain=Budget(rounds=16, steps_per_round=5, sampling_rate=0.012),
    private=Budget(rounds=8, steps_per_round=3, sampling_rate=0.04),
)
"""About 10,000 visits of its 10,306 training records."""
MADE_UP = Split(
    corpus="made-up",
    alpha=1.0,
    sites=3,
    max_length=16,
    plain=Budget(rounds=2, steps_per_round=1, sampling_rate=0.2),
    private=Budget(rounds=2, steps_per_round=1, sampling_rate=0.2),
)


def _larger(split: Split, *, alpha: float | None = None, times: int = 3) -> Split:
    """Visit more records, keep more tokens, and score every test record, as a GPU allows."""
    return dataclasses.replace(
        split,
        alpha=split.alpha if alpha is None else alpha,
        max_length=2 * split.max_length,
        plain=dataclasses.replace(split.plain, rounds=times * split.plain.rounds),
        private=dataclasses.replace(split.private, rounds=times * split.private.rounds),
        test_limit=None,
    )


def _smoke(*methods: Method) -> Axes:
    return Axes(splits=(MADE_UP,), methods=methods, ranks=(2,), seeds=(0,), baseline=FEDIT)


_BANKING77 = Study(
    name="banking77",
    title="BANKING77 at ten sites with skewed intents",
    question="Which method loses least where sites see different intents?",
    grids={
        "full": Axes(
            splits=tuple(_larger(BANKING, alpha=alpha) for alpha in (0.1, 0.01, 0.5)),
            methods=_ALL + _SKEWED,
            ranks=(2, 8),
            seeds=(0, 1, 2),
            baseline=FEDIT,
        ),
        "cpu": Axes(
            splits=(BANKING, dataclasses.replace(BANKING, alpha=0.01)),
            methods=_SHORT + _SKEWED,
            ranks=(2,),
            seeds=(0, 1, 2),
            baseline=FEDIT,
        ),
        "smoke": _smoke(FFA),
    },
)
_MEDQUAD = Study(
    name="medquad",
    title="MedQuAD at its six publishers",
    question="Does joining pay for publishers that differ in labels and in style?",
    grids={
        "full": Axes(splits=(_larger(MEDQUAD),), methods=_ALL, ranks=(8, 2), seeds=(0, 1, 2), baseline=FEDIT),
        "cpu": Axes(splits=(MEDQUAD,), methods=_SHORT, ranks=(8,), seeds=(0, 1, 2), baseline=FEDIT),
        "smoke": _smoke(ROLORA),
    },
)
_PRIVACY = Study(
    name="privacy",
    title="Differential privacy: noise at each site and noise on the sum",
    question="What does record-level privacy cost at equal visits, and what does placing its noise on the sum save?",
    grids={
        "full": Axes(
            splits=(_larger(BANKING), _larger(MEDQUAD)),
            methods=(FFA, ROLORA, FEDIT, FEDSB),
            ranks=(8,),
            seeds=(0, 1, 2),
            privacy=tuple((epsilon, place) for epsilon in (8.0, 3.0, 1.0) for place in ("site", "sum")),
            baseline=FEDIT,
        ),
        "cpu": Axes(
            splits=(BANKING, MEDQUAD),
            methods=(FFA,),
            ranks=(8,),
            seeds=(0, 1, 2),
            privacy=((8.0, "site"), (8.0, "sum"), (1.0, "site"), (1.0, "sum")),
            baseline=FEDIT,
        ),
        "smoke": dataclasses.replace(_smoke(FFA), privacy=((8.0, "site"), (8.0, "sum"))),
    },
)
_BYTES = Study(
    name="bytes",
    title="Bytes to accuracy",
    question="How few bytes does a site have to send for an accuracy?",
    scored_often=True,
    grids={
        "full": Axes(
            splits=(_larger(BANKING),),
            methods=(FFA, ROLORA, FEDSB),
            ranks=(8, 32),
            seeds=(0, 1, 2),
            field_bits=(21, 16, 12),
        ),
        "cpu": Axes(
            splits=(BANKING,), methods=(FFA, ROLORA, FEDSB), ranks=(8,), seeds=(0, 1, 2), field_bits=(21, 16, 12)
        ),
        "smoke": dataclasses.replace(_smoke(FEDSB), field_bits=(21, 16)),
    },
)
_RANKS = Study(
    name="ranks",
    title="Sites of different ranks",
    question="What is lost where each site trains at the rank that it can, against all at the smallest or the largest?",
    scored_often=True,
    looks_at_updates=True,
    grids={
        "full": Axes(
            splits=tuple(_larger(BANKING, alpha=alpha) for alpha in (0.1, 0.01)),
            # The ranks of ten sites are 66 together: a sketch of that width loses nothing.
            methods=(FEDIT, HLORA, _sketch(66), _sketch(32)),
            ranks=(16, 2, 4, 8),
            seeds=(0, 1, 2),
        ),
        "cpu": Axes(splits=(BANKING,), methods=(FEDIT, HLORA, _sketch(66)), ranks=(16, 2), seeds=(0, 1, 2)),
        "smoke": Axes(
            splits=(MADE_UP,),
            methods=tuple(
                dataclasses.replace(method, site_ranks=(1, 2)) if method.site_ranks else method
                for method in (FEDIT, HLORA, _sketch(4))
            ),
            ranks=(2, 1),
            seeds=(0,),
        ),
    },
)
STUDIES: Mapping[str, Study] = {study.name: study for study in (_BANKING77, _MEDQUAD, _PRIVACY, _BYTES, _RANKS)}
SOURCES: Mapping[str, tuple[Source, ...]] = {
    "banking77": banking77.SOURCES,
    "medquad": medquad.SOURCES,
    "made-up": (),
}


def read_corpora(study: Study, grid: Grid, data_dir: Path | None) -> dict[str, Corpus]:
    """Read every corpus of a grid, each file checked.

    Raises:
        DataError: a file is absent or has other bytes.
        ConfigError: no folder was named although the grid needs one, or one although it needs none.
    """
    names = {split.corpus for split in study.grids[grid].splits}
    if data_dir is None and names != {"made-up"}:
        raise _absent(names)
    return {name: read_corpus(name, data_dir) for name in sorted(names)}


def read_corpus(name: str, data_dir: Path | None) -> Corpus:
    """Read one corpus; errors are those of `read_corpora`."""
    if name == "made-up":
        if data_dir is not None:
            raise ConfigError("data_dir", found="a folder with grid=smoke", expected="nothing: its records are made up")
        return made_up.make()
    if data_dir is None:
        raise _absent({name})
    return {"banking77": banking77.read, "medquad": medquad.read}[name](data_dir)


def _absent(names: set[str]) -> ConfigError:
    folders = ", ".join(f"{name}/" for name in sorted(names))
    return ConfigError("data_dir", found="nothing", expected=f"the folder that holds {folders}")
