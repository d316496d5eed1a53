"""Features of frozen encoders on disk: a text's features never change, and they are the dear part of a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partsong.client.data.encode import Record, fingerprint
from partsong.client.model.host import ModelHost
from partsong.common.files import replacing
from partsong.simulations.studies.features import Matrix, features

_BLOCK = 1024
"""Records that are lost when a study is killed."""
_BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureShelf:
    """A folder of features, by base model, its number format, and records."""

    folder: Path
    tick: Callable[[int], None] = lambda _: None
    """Told how many records were done."""

    def features(self, host: ModelHost, records: Sequence[Record]) -> Matrix:
        """Give each record its features, (N, D); computes what is not there yet.

        Args:
            host: with its adapter at its start.
            records: encoded, so that another cut of the texts is another set of records.
        """
        blocks = [records[start : start + _BLOCK] for start in range(0, len(records), _BLOCK)]
        return np.concatenate([self._block(host, block) for block in blocks])

    def _block(self, host: ModelHost, records: Sequence[Record]) -> Matrix:
        # A sign of its own for each number format but the first: the same base gives other features in it.
        dtype = str(next(host.model.parameters()).dtype).removeprefix("torch.")
        sign = "" if dtype == "float32" else f"-{dtype}"
        file = self.folder / f"features-{host.files.sha256[:16]}{sign}-{fingerprint(records)[:32]}.npy"
        if not file.is_file():
            found_ND = features(host, records, batch_size=_BATCH, tick=self.tick)
            with replacing(file) as part, part.open("wb") as out:
                np.save(out, found_ND, allow_pickle=False)
        kept_ND: Matrix = np.load(file, allow_pickle=False)
        return kept_ND
