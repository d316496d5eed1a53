"""A finished run's directory gets what people and programs read: the adapter, and the report.

Nothing here needs torch: PEFT's own options come with the job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from partsong.common.files import write_bytes
from partsong.server.adapter_file import keep_end
from partsong.server.planning import epsilon_after
from partsong.server.report import model_card, privacy_facts, provenance_facts, text_report
from partsong.server.run import Result
from partsong.server.run_files import RunFiles
from partsong.server.studies.publish import publish


def publish_run(
    files: RunFiles,
    result: Result,
    *,
    base_name: str,
    peft: Mapping[str, Any],
    config_sha256: str,
    marks: Sequence[str],
) -> None:
    """Write `adapter/` and `report.txt`; what was there before is replaced.

    Args:
        files: of the run.
        result: what it ended with.
        base_name: of the base model, for people.
        peft: what `adapter_config.json` says; see `partsong.server.studies.peft_options`.
        config_sha256: digest of the configuration that the run was asked with.
        marks: what the run does not protect.
    Raises:
        TryAgain: the disk is full; the run can be published again.
    """
    plan = result.plan
    at_two = epsilon_after(plan, len(result.history), sites=2)
    keep_end(files, plan.layout, trained_P=result.trained_P, frozen_F=result.frozen_F)
    publish(
        files.adapter,
        plan=plan,
        trained_P=result.trained_P,
        frozen_F=result.frozen_F,
        peft=peft,
        privacy=privacy_facts(plan, epsilon=result.epsilon, at_two_sites=at_two, marks=marks),
        provenance=provenance_facts(
            plan,
            history=result.history,
            config_sha256=config_sha256,
            base_name=base_name,
            secure_sum=result.secure_sum,
        ),
        card=model_card(plan, epsilon=result.epsilon, marks=marks, base_name=base_name),
    )
    text = text_report(
        plan,
        history=result.history,
        epsilon=result.epsilon,
        at_two_sites=at_two,
        marks=marks,
        base_name=base_name,
        secure_sum=result.secure_sum,
    )
    write_bytes(files.report, text.encode())
