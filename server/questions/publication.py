"""What stays of a question: `answer.json` for programs, signed, and `report.txt` for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from partsong.common.build import build
from partsong.common.errors import DataError
from partsong.common.files import write_bytes
from partsong.common.identity.charter import read as read_charter
from partsong.common.identity.keys import Signer
from partsong.server.questions.answer import Answer
from partsong.server.questions.signed import ANSWER, SignedAnswer, sign_answer
from partsong.server.run import Result
from partsong.server.run_files import RunFiles


def publish_answer(
    files: RunFiles, result: Result, *, base_name: str, marks: Sequence[str], signer: Signer | None
) -> None:
    """Write both; what was there before is replaced.

    Args:
        files: of the run.
        result: of a plan that asked a question.
        base_name: of the base model, for people.
        marks: what the run does not protect.
        signer: with the coordinator's key of the charter; None for a run that has none.
    Raises:
        TryAgain: the disk is full; the run can be published again.
    """
    answer, plan = answer_in(result), result.plan
    unsigned = SignedAnswer(
        run=plan.run,
        base=base_name,
        marks=tuple(marks),
        plan_sha256=plan.sha256,
        charter_sha256=read_charter(files.charter.read_bytes()).charter.hash.hex() if plan.masked else None,
        answer=build(Answer, answer, where=ANSWER),
        signature=None,
    )
    write_bytes(files.path / ANSWER, sign_answer(unsigned, signer=signer).to_bytes())
    write_bytes(files.report, text_of(answer, run=result.plan.run, base_name=base_name, marks=marks).encode())


def answer_in(result: Result) -> Mapping[str, Any]:
    """Give the answer of a run.

    Raises:
        DataError: no round of it has one.
    """
    found = [entry["answer"] for entry in result.history if entry.get("answer") is not None]
    if not found:
        raise DataError("run", found="no round with a sum", expected="the answer to its question")
    answer: Mapping[str, Any] = found[-1]
    return answer


def text_of(answer: Mapping[str, Any], *, run: str, base_name: str, marks: Sequence[str]) -> str:
    """Compose the report."""
    cost = "NO differential privacy"
    if answer["epsilon"] is not None:
        cost = f"epsilon {answer['epsilon']:.4g} at delta {answer['delta']:g} for one {answer['unit']} at each site"
    lines = [f"partsong {answer['study']}: {run}", f"  base {base_name}, adapter {answer['adapter_sha256'][:12]}"]
    lines += [f"  {len(answer['sites'])} sites: {', '.join(answer['sites'])}", f"  {cost}"]
    lines += [f"  ! {mark}" for mark in marks]
    lines += ["", f"  {'':24}{'value':>10}   {answer['level']:.0%} interval, noise and draw included"]
    lines += [_line(figure) for figure in answer["figures"]]
    if answer["noise_sd"] and max(answer["noise_sd"].values()) > 0:
        noise = ", ".join(f"{name} {sd:.3g}" for name, sd in answer["noise_sd"].items())
        lines += ["", f"  noise on each number of the sum (sd): {noise}"]
    return "\n".join(lines) + "\n"


def _line(figure: Mapping[str, Any]) -> str:
    value = "?" if figure["value"] is None else f"{figure['value']:.4g}"
    ends = f"{figure['low']:.4g} to {figure['high']:.4g}"
    return f"  {figure['name'][:24]:24}{value:>10}   {ends:24} {figure['about']}".rstrip()
