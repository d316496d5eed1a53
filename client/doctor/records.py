"""The site's records, read as a run would read them.

Covers: no record, label or patient stands in what is found; errors name the row and the field.
Does not cover: the counts themselves, which are for the site's own eyes.
"""

from __future__ import annotations

from pathlib import Path

import transformers

from partsong.client.data.encode import Encoded, encode
from partsong.client.data.table import read_table
from partsong.client.model.source import locate
from partsong.common.config import DataConfig, ModelConfig
from partsong.common.doctor.finding import Seen, fail, ok, warn

MANY_CUT = 0.1
"""Share of records that lose tokens from which on somebody should look."""


def check_records(model: ModelConfig, data: DataConfig) -> Seen:
    """Read, check and tokenise all records.

    Raises:
        DataError: names file, row and field; never quotes a record.
        ConfigError: labels or lengths do not fit.
        ModelError: no tokenizer.
    """
    if data.path is None:
        return fail("data.path is not set", cause="a site trains on records", remedy="name the file in site.yaml")
    table = read_table(Path(data.path), data)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        locate(model.source).folder, local_files_only=True, trust_remote_code=False
    )
    return _judge(encode(table, tokenizer, data, task=model.task), kind=table.kind)


def _judge(encoded: Encoded, *, kind: str) -> Seen:
    report = encoded.report
    share = report.truncated / report.records
    patients = encoded.count("patient")
    of = "" if patients is None else f" of {patients} patients"
    found = f"{report.records} records{of} ({kind}), {share:.1%} cut at {report.max_length} tokens"
    if report.without_loss:
        return warn(
            f"{found}; {report.without_loss} have nothing left to learn",
            cause="their answers lie behind the cut; they cost budget and teach nothing",
            remedy="shorten the prompts, or ask for a study with a larger max_length",
        )
    if share > MANY_CUT:
        return warn(
            found,
            cause=f"the longest record has {report.longest} tokens; what is cut off is not learned",
            remedy="shorten the records, or ask for a study with a larger max_length",
        )
    return ok(found)
