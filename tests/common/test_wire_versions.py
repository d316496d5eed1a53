"""What version 1 wrote, from a file that is never written again: this version reads it, or refuses it by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from partsong.common import wire
from partsong.common.build import canonical_json
from partsong.common.errors import WireError
from partsong.common.identity import envelope
from partsong.common.identity.envelope import CoordinatorEnvelope, Letter, SiteEnvelope
from partsong.common.identity.keys import Identity

FROZEN = json.loads((Path(__file__).parents[1] / "vectors" / "wire_v1.json").read_text())
CLASSES: dict[str, Any] = {
    cls.kind: cls for cls in vars(wire).values() if isinstance(cls, type) and hasattr(cls, "kind")
}


def letter(name: str, **changes: Any) -> Letter:
    tree = FROZEN["letters"][name]
    fields = {**tree, "header": bytes.fromhex(tree["header"]), "signature": bytes.fromhex(tree["signature"])}
    note, vector = (bytes.fromhex(tree[part]) for part in ("note", "vector"))
    return Letter.read(fields | changes, kind=tree["kind"], vector=vector, note=note)


def test_the_file_holds_every_kind_there_is() -> None:
    """One that is added later has no frozen form in version 1."""
    assert set(FROZEN["messages"]) == set(CLASSES)


@pytest.mark.parametrize("kind", sorted(CLASSES))
def test_a_message_of_version_1_is_read_and_written_to_the_last_byte(kind: str) -> None:
    """Whoever changes a field, its name or its order breaks this."""
    data = FROZEN["messages"][kind].encode()

    assert wire.encode(wire.decode(data, CLASSES[kind])) == data


@pytest.mark.parametrize("kind", sorted(CLASSES))
@pytest.mark.parametrize("version", [0, 2, "1", 1.0, None])
def test_a_message_of_another_version_is_refused_by_name(kind: str, version: object) -> None:
    """Older, newer, or of another type; before anything else of it is looked at."""
    tree = json.loads(FROZEN["messages"][kind]) | {"wire": version}

    with pytest.raises(WireError) as refused:
        wire.decode(canonical_json(tree), CLASSES[kind])

    assert refused.value.rule == "wire.version"


def test_a_version_that_comes_after_refuses_this_one_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it says how it reads the messages of version 1."""
    monkeypatch.setattr(wire, "WIRE_VERSION", 2)

    with pytest.raises(WireError, match="update the older side") as refused:
        wire.decode(FROZEN["messages"]["open"].encode(), wire.Open)

    assert refused.value.rule == "wire.version"


def test_signatures_of_version_1_hold() -> None:
    """Of the question at the site, of the answer at the coordinator; and this version signs the same bytes."""
    keys = {name: bytes.fromhex(key) for name, key in FROZEN["keys"].items()}
    ward = SiteEnvelope(site="north", signer=Identity(b"\x02" * 32), coordinator=keys["coordinator"])
    office = CoordinatorEnvelope(run="run 1", signer=Identity(b"\x01" * 32), identity_keys={"north": keys["site"]})

    asked = ward.open(letter("question"))
    office.open(letter("answer"), kind="open", site="north", question=asked)

    written = ward.seal(run="run 1", kind="open", question=asked, header=b"answer", vector=b"", note=b"note back")
    assert written == letter("answer")
    with pytest.raises(WireError, match="not signed by the asked site"):
        office.open(letter("answer"), kind="open", site="north", question=bytes(32))


@pytest.mark.parametrize("version", [0, 2])
def test_an_envelope_of_another_version_is_refused_by_name(version: int) -> None:
    """Before its signature is looked at."""
    assert version != envelope.ENVELOPE_VERSION
    ward = SiteEnvelope(site="north", signer=Identity(b"\x02" * 32), coordinator=Identity(b"\x01" * 32).public_key)

    with pytest.raises(WireError) as refused:
        ward.open(letter("question", version=version))

    assert refused.value.rule == "envelope.version"
