"""An answer under a signature: what was signed is read back, and nothing else is."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partsong.common.errors import DataError
from partsong.common.identity.keys import Identity
from partsong.server.questions.answer import Answer
from partsong.server.questions.figures import Figure
from partsong.server.questions.signed import ANSWER, SignedAnswer, read_answer, sign_answer

COORDINATOR = Identity(bytes(range(32)))
PLAIN = SignedAnswer(
    run="trial",
    base="tiny",
    marks=(),
    plan_sha256="a" * 64,
    charter_sha256=None,
    answer=Answer(
        study="evaluate", adapter_sha256="b" * 64, sites=("bonn", "graz", "lyon"), level=0.95, unit="record",
        epsilon=1.0, delta=1e-5,
        figures=(
            Figure(name="accuracy", value=0.75, low=0.5, high=0.875, about="share of units"),
            Figure(name="loss", value=None, low=0.0, high=8.0, about="mean"),
        ),
        tables={"confusion": {"heart": {"heart": 3.0, "lung": -0.5}}}, noise_sd={"units": 2.5},
    ),
    signature=None,
)  # fmt: skip
UNDER_CHARTER = dataclasses.replace(PLAIN, charter_sha256="c" * 64)


@pytest.mark.parametrize("unsigned", [PLAIN, UNDER_CHARTER], ids=["no charter", "charter"])
def test_what_was_written_is_read_back(unsigned: SignedAnswer, tmp_path: Path) -> None:
    """To the last value; signed where there is a charter."""
    signed = sign_answer(unsigned, signer=COORDINATOR if unsigned.charter_sha256 else None)
    (tmp_path / ANSWER).write_bytes(signed.to_bytes())

    found = read_answer(tmp_path / ANSWER)

    assert found == signed
    assert (found.signature is None) is (unsigned.charter_sha256 is None)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_changed_byte_is_accepted(data: st.DataObject, tmp_path: Path) -> None:
    """Wherever it is, and whatever it becomes."""
    written = bytearray(sign_answer(UNDER_CHARTER, signer=COORDINATOR).to_bytes())
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / ANSWER).write_bytes(written)

    with pytest.raises(DataError):
        read_answer(tmp_path / ANSWER)


def test_a_better_accuracy_is_refused_although_the_file_is_well_formed(tmp_path: Path) -> None:
    """A new figure under the old signature, under none, and with a signature that is no hex."""
    signed = sign_answer(UNDER_CHARTER, signer=COORDINATOR)
    figures = (dataclasses.replace(signed.answer.figures[0], value=0.99), *signed.answer.figures[1:])
    better = dataclasses.replace(signed, answer=dataclasses.replace(signed.answer, figures=figures))
    assert better.signature is not None
    odd = dataclasses.replace(better, signature=dataclasses.replace(better.signature, value="zz"))

    for forged in (better, dataclasses.replace(better, signature=None), odd):
        (tmp_path / ANSWER).write_bytes(forged.to_bytes())
        with pytest.raises(DataError, match="sign"):
            read_answer(tmp_path / ANSWER)


def test_a_signer_without_a_charter_is_a_mistake_and_none_with_one_too() -> None:
    """Both are the caller's."""
    for unsigned, signer in ((PLAIN, COORDINATOR), (UNDER_CHARTER, None)):
        with pytest.raises(ValueError, match="where there is no charter"):
            sign_answer(unsigned, signer=signer)
