"""Files that run a daemon under systemd, in a container or under Slurm, with the paths of this machine in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from partsong.common.errors import InputError

_GAP = re.compile(r"@([A-Z_]+)@")
_PLAIN = re.compile(r"[^\s\"'\\$%#@`&|;<>]*")
"""Values stand unquoted in units and shell scripts, so they hold nothing that means something there."""


def fill(name: str, values: Mapping[str, str]) -> str:
    """Fill the gaps of a file.

    Guarantees: no gap is left; a line with a gap that has an empty value is left out.
    Args:
        name: of a file of `partsong.conf.deploy`.
        values: for each gap of the file; more may be given.
    Raises:
        InputError: a value holds white space, a quote or another character that the files give a meaning to.
    """
    for gap, value in values.items():
        if not _PLAIN.fullmatch(value):
            option = f"--{gap.lower().replace('_', '-')}"
            raise InputError(option, found=repr(value), expected="no white space, quotes, or one of $ % # @ & | ; < >")
    lines = (files("partsong.conf") / "deploy" / name).read_text().splitlines()
    kept = [line for line in lines if all(values[gap] for gap in _GAP.findall(line))]
    return "\n".join(_GAP.sub(lambda found: values[found[1]], line) for line in kept) + "\n"
