"""The answer of a run with the coordinator's signature over it: `answer.json`.

Covers: a figure, an interval, a count or a mark that is changed after the coordinator signed; an answer of another run
or plan, or one that another key signed than the charter names.
Does not cover: a coordinator that signs what is not so; `partsong verify` reads every figure out of the sum again. A
run without the secure sum has no charter and nobody's signature.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from partsong.common.build import build, canonical_json, to_tree
from partsong.common.derive import digest
from partsong.common.errors import ConfigError, DataError
from partsong.common.identity.keys import Signer
from partsong.server.questions.answer import Answer
from partsong.server.report.signed import Signature, is_signed, sign_digest

ANSWER = "answer.json"
_LARGEST = 1 << 28
"""Bytes of a file that is read: a confusion matrix of a thousand classes stays below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedAnswer:
    """What `answer.json` holds; `read_answer` is the only way in from outside."""

    format: Literal["partsong-answer"] = "partsong-answer"
    version: Literal[1] = 1
    run: str
    base: str
    """Name of the base model, for people."""
    marks: tuple[str, ...]
    """What the run does not protect."""
    plan_sha256: str
    charter_sha256: str | None
    """None: an unmasked run."""
    answer: Answer
    signature: Signature | None
    """None: an unmasked run."""

    def to_bytes(self) -> bytes:
        """Encode for a file; equal values give equal bytes."""
        return (json.dumps(to_tree(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def message(self) -> bytes:
        """What is signed: a labelled hash of everything but the signature."""
        tree = {name: value for name, value in to_tree(self).items() if name != "signature"}
        return digest("answer of a run", canonical_json(tree))


def sign_answer(unsigned: SignedAnswer, *, signer: Signer | None) -> SignedAnswer:
    """Sign an answer.

    Args:
        unsigned: names the charter of its run, where there is one.
        signer: with the coordinator's key of that charter; None for a run that has none.
    Raises:
        ValueError: a signer for a run without a charter, or none for one with.
    """
    if (signer is None) != (unsigned.charter_sha256 is None):
        raise ValueError("the signer that the charter names, and none where there is no charter")
    return unsigned if signer is None else replace(unsigned, signature=sign_digest(unsigned.message(), signer))


def read_answer(file: Path) -> SignedAnswer:
    """Read an answer and check its signature.

    Guarantees: the answer is what the holder of the key in it signed. Whose key that is, the charter says.
    Raises:
        DataError: missing, damaged, in another form than it was written, or not what was signed.
    """
    try:
        data = file.read_bytes() if file.stat().st_size <= _LARGEST else b""
        found = build(SignedAnswer, json.loads(data), where=file.name)
        written = found.to_bytes()
    except (OSError, ValueError, RecursionError, ConfigError) as err:
        raise DataError(file.name, found="no answer that can be read", expected="what a finished run wrote") from err
    if written != data:
        raise DataError(file.name, found="another form than a run writes", expected="the file as it was")
    if (found.charter_sha256 is None) != (found.signature is None):
        raise DataError(file.name, found="a charter without a signature, or the reverse", expected="both or neither")
    if found.signature is not None and not is_signed(found.signature, found.message()):
        raise DataError(file.name, found="an answer that this key did not sign", expected="the file as it was signed")
    return found
