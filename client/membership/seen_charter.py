"""The newest charter that a site has worked under: an older one that is put back in its place is refused.

Covers: a lower version, another charter of the same version, another consortium in the same directory.
Does not cover: somebody who can change this file as well. The other sites refuse the older charter too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from partsong.common.build import build, to_tree
from partsong.common.errors import ConfigError, DataError, Refused
from partsong.common.files import write_json
from partsong.common.identity.charter import Charter


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is remembered."""

    consortium: str
    version: int
    sha256: str


def require_newest(file: Path, charter: Charter) -> None:
    """Let a site work under the newest charter that it has seen, and remember it.

    Args:
        file: need not exist yet.
        charter: pinned, with checked signatures.
    Raises:
        Refused: `charter_rolled_back`, `charter_replaced` or `other_consortium`; nothing was changed.
        DataError: the file is damaged.
    """
    now = Seen(consortium=charter.consortium, version=charter.version, sha256=charter.hash.hex())
    seen = _read(file)
    if seen is not None and seen.consortium != now.consortium:
        raise _refused("other_consortium", f"this directory is of consortium {seen.consortium[:40]}")
    if seen is not None and now.version < seen.version:
        raise _refused("charter_rolled_back", f"charter version {now.version} after version {seen.version}")
    if seen is not None and now.version == seen.version and now.sha256 != seen.sha256:
        raise _refused("charter_replaced", f"another charter of version {now.version}")
    if now != seen:
        write_json(file, to_tree(now))


def _read(file: Path) -> Seen | None:
    try:
        return build(Seen, json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, ConfigError) as err:
        raise DataError(file.name, found="a damaged file", expected="the newest charter that was seen") from err


def _refused(rule: str, reason: str) -> Refused:
    return Refused(rule, reason=reason, remedy="pin the newest charter again, as it was signed by all")
