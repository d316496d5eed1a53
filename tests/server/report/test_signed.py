"""Facts under a signature: what was signed is read back, and nothing else is."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.common.errors import DataError
from partsong.common.identity.keys import Identity
from partsong.server.ballots import Ballot
from partsong.server.report.facts import Facts, VoteTerms
from partsong.server.report.signed import FACTS, SignedFacts, read_facts, sign_facts

Sign = Callable[[Facts], SignedFacts]


def voted(facts: Facts) -> Facts:
    """The run with a vote on its first round."""
    first, second, *later = facts.rounds
    ballot = Ballot(of=first.round, kept=True, votes=3.0, noise_sd=1.0)
    terms = VoteTerms(most_votes=5, margin=0.5, scale=0.5, noise_multiplier=1.0)
    return dataclasses.replace(facts, vote=terms, rounds=(first, dataclasses.replace(second, vote=ballot), *later))


def paths(tree: Any, place: str = "") -> set[str]:
    """Names of all keys of a tree; lists and mappings by name count as one."""
    if isinstance(tree, list):
        return set().union(*(paths(item, f"{place}[]") for item in tree)) or {f"{place}[]"}
    if isinstance(tree, dict) and place.rpartition(".")[2] not in ("lost", "bytes_out", "files", "versions"):
        return set().union(*(paths(value, f"{place}.{name}") for name, value in tree.items()))
    return {place}


@pytest.mark.parametrize("which", ["facts", "not_private"])
def test_what_was_written_is_read_back(which: str, sign: Sign, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """To the last value, signed or, without a charter, unsigned."""
    signed = sign(request.getfixturevalue(which))
    (tmp_path / FACTS).write_bytes(signed.to_bytes())

    found = read_facts(tmp_path / FACTS)

    assert found == signed
    assert (found.signature is None) is (which == "not_private")
    assert found.files["README.md"] == hashlib.sha256(b"card").hexdigest()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_changed_byte_is_accepted(data: st.DataObject, facts: Facts, sign: Sign, tmp_path: Path) -> None:
    """Wherever it is, and whatever it becomes."""
    written = bytearray(sign(facts).to_bytes())
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / FACTS).write_bytes(written)

    with pytest.raises(DataError):
        read_facts(tmp_path / FACTS)


def test_a_smaller_epsilon_is_refused_although_the_file_is_well_formed(
    facts: Facts, sign: Sign, tmp_path: Path
) -> None:
    """A new form with the old signature, and a new signature with a key that the charter does not name."""
    assert facts.privacy is not None
    better = dataclasses.replace(facts, privacy=dataclasses.replace(facts.privacy, epsilon=0.1))
    stranger = Identity(bytes(32))
    signed = dataclasses.replace(sign(facts), facts=better)
    assert signed.signature is not None
    own = dataclasses.replace(
        signed.signature, key=stranger.public_key.hex(), value=stranger.sign(signed.message()).hex()
    )

    for forged in (signed, dataclasses.replace(signed, signature=own), dataclasses.replace(signed, signature=None)):
        (tmp_path / FACTS).write_bytes(forged.to_bytes())
        with pytest.raises(DataError):
            read_facts(tmp_path / FACTS)


def test_only_the_key_of_the_charter_signs(facts: Facts, not_private: Facts, adapter: Path) -> None:
    """Another key, no key, or a key where there is no charter is a mistake of the caller."""
    for found, signer in ((facts, Identity(bytes(32))), (facts, None), (not_private, Identity(bytes(32)))):
        with pytest.raises(ValueError, match="the signer that the charter names"):
            sign_facts(found, adapter=adapter, signer=signer)


def test_the_form_of_version_4_stands(facts: Facts, together: Facts, not_private: Facts, sign: Sign) -> None:
    """Programs read it: a key that comes or goes needs another version, and a new list beside this file."""
    grouped = dataclasses.replace(facts, groups=(("a", "b", "c"), ("d", "e", "f"), ("g", "h", "i")))
    every = (facts, together, not_private, voted(facts), grouped)
    found = set().union(*(paths(json.loads(sign(one).to_bytes())) for one in every))

    assert sorted(found) == Path(__file__).with_name("facts-4.txt").read_text().splitlines()
