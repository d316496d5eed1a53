"""A policy as a file: YAML, read strictly.

Covers: an unknown key, a key given twice, a value of another type or out of range: the file is refused as a whole.
Does not cover: who may write the file. That is the operating system's business.
"""

from __future__ import annotations

from pathlib import Path

from partsong.client.rules.policy import Policy
from partsong.common.strict_yaml import LARGEST_FILE_BYTES, parse_yaml, read_yaml

__all__ = ["LARGEST_FILE_BYTES", "parse_policy", "read_policy"]


def read_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        ConfigError: the file is missing, is no YAML, gives a key twice, or says something that no policy can say; the
            text names the key, what was found, what was expected and the closest known key. Nothing is allowed then.
    """
    return read_yaml(Policy, path, what="policy")


def parse_policy(text: str, *, where: str = "policy") -> Policy:
    """Make a policy of YAML text; empty text is the empty policy, which allows nothing.

    Raises:
        ConfigError: as `read_policy`.
    """
    return parse_yaml(Policy, text, where=where, what="policy")
