"""The newest commit of a site's ledger, kept in a file of its own: a ledger put back from a backup is refused.

Covers: `ledger.sqlite` alone restored from a backup, emptied, or replaced by another one.
Does not cover: somebody who puts this file back as well; the other sites remember heads of their own, see
    `partsong site ledger verify --head`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from partsong.client.budget.chain import Head
from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError
from partsong.common.files import write_json

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RememberedHead:
    """What a site remembers of its own ledger."""

    file: Path

    def read(self) -> Head | None:
        """Give the newest commit; None: nothing was ever committed here.

        Raises:
            DataError: the file is damaged.
        """
        try:
            head = build(Head, json.loads(self.file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, ConfigError) as err:
            raise self._damaged() from err
        if head.number < 1 or not _DIGEST.fullmatch(head.digest):
            raise self._damaged()
        return head

    def keep(self, head: Head) -> None:
        """Remember a commit; once this returns it survives a power cut.

        Raises:
            TryAgain: the disk is full; the one before is remembered.
        """
        write_json(self.file, to_tree(head))

    def _damaged(self) -> DataError:
        return DataError(
            self.file.name,
            found="a damaged file",
            expected="the newest commit of this site's ledger",
            remedy="check the ledger with `partsong site ledger verify --head`, with a head that another site "
            "remembers; then remove this file",
        )
