"""The facts of a run with the coordinator's signature over them and over the files of the adapter: `facts.json`.

Covers: a word of the facts, or a byte of a published file, that is changed after the coordinator signed; facts of
another run, or signed with another key than the charter names.
Does not cover: a coordinator that signs what is not so. `partsong verify` recomputes what follows from the sums; the
rest is the coordinator's word. A run without the secure sum has no charter and nobody's signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partsong.common.build import build, canonical_json, to_tree
from partsong.common.derive import digest
from partsong.common.errors import ConfigError, DataError
from partsong.common.files import sha256_file
from partsong.common.identity.keys import Signer, signature_fits
from partsong.server.report.facts import Facts

FACTS = "facts.json"
_LARGEST = 1 << 26
"""Bytes of a file that is read: a thousand sites in a thousand rounds stay below it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """Of the coordinator, with its identity key of the charter."""

    key: str
    """Lower-case hex, as `value`."""
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedFacts:
    """What `facts.json` holds; `read_facts` is the only way in from outside."""

    format: Literal["partsong-facts"] = "partsong-facts"
    version: Literal[4] = 4
    facts: Facts
    files: Mapping[str, str]
    """SHA-256 of each file of the adapter's directory, by name."""
    signature: Signature | None
    """None: an unmasked run."""

    def to_bytes(self) -> bytes:
        """Encode for a file; equal values give equal bytes."""
        return (json.dumps(to_tree(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def message(self) -> bytes:
        """What is signed: a labelled hash of everything but the signature."""
        tree = {name: value for name, value in to_tree(self).items() if name != "signature"}
        return digest("facts of a run", canonical_json(tree))


def sign_facts(facts: Facts, *, adapter: Path, signer: Signer | None) -> SignedFacts:
    """Bind facts to the published files and sign both.

    Args:
        facts: of the run.
        adapter: the directory that was published.
        signer: with the coordinator's key of the charter; None for a run that has none.
    Raises:
        ValueError: a signer for a run without a charter, none for one with, or one with another key.
    """
    expected = None if facts.charter is None else facts.charter.coordinator
    if (None if signer is None else signer.public_key.hex()) != expected:
        raise ValueError("the signer that the charter names, and none where there is no charter")
    unsigned = SignedFacts(facts=facts, files=digests(adapter), signature=None)
    if signer is None:
        return unsigned
    return SignedFacts(facts=facts, files=unsigned.files, signature=sign_digest(unsigned.message(), signer))


def sign_digest(message: bytes, signer: Signer) -> Signature:
    """Sign a labelled hash, and name the key that did."""
    return Signature(key=signer.public_key.hex(), value=signer.sign(message).hex())


def is_signed(signature: Signature, message: bytes) -> bool:
    """Say whether the key that a signature names made it over this message; false where it is not in hex."""
    try:
        key, value = bytes.fromhex(signature.key), bytes.fromhex(signature.value)
    except ValueError:
        return False
    return signature_fits(key, value, message)


def digests(adapter: Path) -> dict[str, str]:
    """Hash the files of an adapter's directory."""
    return {file.name: sha256_file(file) for file in sorted(adapter.iterdir()) if file.is_file()}


def read_facts(file: Path) -> SignedFacts:
    """Read a file of facts and check its signature.

    Guarantees: the facts are those that the holder of the key in them signed. Whose key that is, the charter says.
    Raises:
        DataError: missing, damaged, in another form than it was written, or not what was signed.
    """
    try:
        data = file.read_bytes() if file.stat().st_size <= _LARGEST else b""
        found = build(SignedFacts, json.loads(data), where=file.name)
        written = found.to_bytes()
    except (OSError, ValueError, RecursionError, ConfigError) as err:
        raise DataError(file.name, found="no facts that can be read", expected="what a finished run wrote") from err
    if written != data:
        raise DataError(file.name, found="another form than a run writes", expected="the file as it was")
    _check(found, file.name)
    return found


def _check(found: SignedFacts, place: str) -> None:
    named, signature = found.facts.charter, found.signature
    if (named is None) != (signature is None):
        raise DataError(place, found="a charter without a signature, or the reverse", expected="both or neither")
    if named is None or signature is None:
        return
    if signature.key != named.coordinator or not is_signed(signature, found.message()):
        raise DataError(place, found="facts that this key did not sign", expected="the file as it was signed")
