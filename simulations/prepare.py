"""What a simulated federation needs before its first round: base model, records site by site, held-out set."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from partsong.client.data.encode import Encoded, EncodingReport, encode
from partsong.client.data.table import Table, read_table, table_from_rows
from partsong.client.model.host import ModelHost
from partsong.client.model.load import load
from partsong.common.config import SimulationConfig
from partsong.common.errors import ConfigError, DataError
from partsong.common.simulated import PartitionConfig
from partsong.simulations import builtin
from partsong.simulations.partition import manifest, partition
from partsong.simulations.site_ids import site_ids

_ENDINGS = (".jsonl", ".ndjson", ".csv", ".parquet", ".pq")
_SAVED = ("dataset_info.json", "state.json", "dataset_dict.json")
"""Files that make a folder one saved dataset, not a folder of sites."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteTables:
    """Raw records, site by site."""

    sites: dict[str, Table]
    held_out: Table | None
    held_out_by_site: dict[str, NDArray[np.int64]]
    """Which held-out records are of a site's own kind; empty where nobody knows."""
    labels: tuple[str, ...]
    manifest: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A federation that can start."""

    config: SimulationConfig
    host: ModelHost
    tables: SiteTables
    sites: dict[str, Encoded]
    held_out: Encoded | None

    def with_config(self, config: SimulationConfig) -> Prepared:
        """The same model and records under another configuration of the run."""
        return dataclasses.replace(self, config=config)


def prepare(
    config: SimulationConfig,
    *,
    tables: SiteTables | None = None,
    only: frozenset[str] | None = None,
    host: ModelHost | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Read the records, load the model, tokenise.

    Args:
        config: of the run.
        tables: records that were read already; None: what `config.data` names.
        only: sites whose records are tokenised, and held-out ones only where sites test on them; None: all of them.
        host: what `load_host` gave for this configuration; None: it is loaded now.
        say: told what is going on.
    Raises:
        InputError: the first thing that is wrong with configuration, data or model; no run directory exists yet.
    """
    tables = tables or read_tables(config)
    if host is None:
        host = load_host(config, tables, say=say)
    elif config.model.threads is not None:
        torch.set_num_threads(config.model.threads)
    check_length(host, config.data.max_length, key="data.max_length")
    data = dataclasses.replace(config.data, labels=tables.labels)
    for line in dict.fromkeys(filter(None, map(_left_out, tables.sites.values()))):
        say(line)
    chosen = {name: table for name, table in tables.sites.items() if only is None or name in only}
    say(f"tokenising {sum(map(len, chosen.values()))} records of {len(chosen)} sites")
    sites = {name: encode(table, host.tokenizer, data, task=config.model.task) for name, table in chosen.items()}
    for name, site in sites.items():
        if site.report.truncated:
            say(f"{name}: {_cut_off(site.report, config.data.max_length)}")
    tested = only is None or config.purpose == "evaluate" or config.vote.mode == "holdout"
    held_out = tables.held_out if tested else None
    encoded = None if held_out is None else encode(held_out, host.tokenizer, data, task=config.model.task)
    return Prepared(config=config, host=host, tables=tables, sites=sites, held_out=encoded)


def load_host(
    config: SimulationConfig, tables: SiteTables, *, say: Callable[[str], None] = lambda _: None
) -> ModelHost:
    """Load the base model with its adapter; errors are those of `partsong.client.model.load.load`."""
    return load(
        config.model,
        config.adapter,
        labels=tables.labels if config.model.task == "classification" else (),
        private=config.privacy.mode == "dp",
        say=say,
    )


def check_length(host: ModelHost, max_length: int, *, key: str) -> None:
    """Refuse sequences that the base model has no positions for.

    Raises:
        ConfigError: longer than its context.
    """
    settings: Any = host.model.config
    context = getattr(settings, "max_position_embeddings", None)
    if context is not None and max_length > context:
        raise ConfigError(key, found=str(max_length), expected=f"at most {context}, the context of {host.name}")


def _left_out(table: Table) -> str | None:
    found = table.opted_out
    if found is None:
        return None
    missing = f"; {found.listed - found.units} of the list have none here" if found.units < found.listed else ""
    return f"{table.source}: left out {found.records} records of {found.units} units in data.opt_out{missing}"


def _cut_off(report: EncodingReport, max_length: int) -> str:
    lost = f"; {report.without_loss} lost all that is learned" if report.without_loss else ""
    return (
        f"{report.truncated} of {report.records} records were longer than data.max_length={max_length} and cut, "
        f"the longest had {report.longest} tokens{lost}"
    )


def read_tables(config: SimulationConfig) -> SiteTables:
    """Read or make the records of every site."""
    if config.data.builtin is not None and config.data.path is not None:
        raise ConfigError("data", found="both data.builtin and data.path", expected="one of them")
    if config.data.builtin is not None:
        return _builtin(config)
    if config.data.path is None:
        raise ConfigError("data.path", found="nothing", expected="a dataset, or a folder with one dataset per site")
    path = Path(config.data.path)
    held_out = None if config.data.held_out is None else read_table(Path(config.data.held_out), config.data)
    if _is_folder_of_sites(path):
        sites = _read_folder(path, config)
        whole: dict[str, Any] = {name: {"records": len(table)} for name, table in sites.items()}
    else:
        sites, whole = _divide(path, config)
    return SiteTables(
        sites=sites, held_out=_limited(held_out, config), held_out_by_site={}, labels=config.data.labels, manifest=whole
    )


def _builtin(config: SimulationConfig) -> SiteTables:
    if config.data.builtin is None:
        raise AssertionError("the caller has checked that a built-in dataset was asked for")
    style: builtin.Style = "text_label" if config.model.task == "classification" else "prompt_completion"
    data = builtin.load(config.data.builtin, style=style)
    rows = dict(data.sites)
    if config.sites is not None or config.partition.kind != "natural":
        pooled = [row for site in data.sites.values() for row in site]
        table = table_from_rows(pooled, config.data, source=data.name, keep=_kept(config))
        sites, whole = _cut(table, config)
        by_site: Mapping[str, Any] = {}
    else:
        sites = {name: table_from_rows(site, config.data, source=f"{data.name}:{name}") for name, site in rows.items()}
        whole, by_site = {name: {"records": len(site)} for name, site in rows.items()}, data.held_out_by_site
    held_out = table_from_rows(data.held_out, config.data, source=f"{data.name}:held-out")
    chosen = _chosen(len(held_out), config.evaluate_limit)
    mine = {name: np.flatnonzero(np.isin(chosen, np.array(own))) for name, own in by_site.items()}
    return SiteTables(
        sites=sites,
        held_out=held_out.select(chosen.tolist()),
        held_out_by_site=mine,
        labels=data.labels,
        manifest=whole,
    )


def _kept(config: SimulationConfig) -> tuple[str, ...]:
    return (config.partition.column,) if config.partition.column else ()


def _is_folder_of_sites(path: Path) -> bool:
    if not path.is_dir() or any((path / name).exists() for name in _SAVED):
        return False
    return bool(_datasets(path))


def _datasets(folder: Path) -> list[Path]:
    return sorted(
        f for f in folder.iterdir() if not f.name.startswith(".") and (f.suffix.lower() in _ENDINGS or f.is_dir())
    )


def _read_folder(path: Path, config: SimulationConfig) -> dict[str, Table]:
    held_out = None if config.data.held_out is None else Path(config.data.held_out).resolve()
    found = [f for f in _datasets(path) if f.resolve() != held_out]
    if config.partition.kind != "natural":
        raise ConfigError(
            "partition.kind", found=config.partition.kind, expected=f"natural: {path.name} has a dataset for each site"
        )
    if config.sites is not None and config.sites != len(found):
        raise ConfigError("sites", found=str(config.sites), expected=f"{len(found)}, the datasets in {path.name}")
    if twice := [name for name, count in Counter(f.stem for f in found).items() if count > 1]:
        raise DataError(str(path), found=f"two datasets named {twice[0]}", expected="one for each site")
    ids = site_ids((f.stem for f in found), place=str(path))
    return {ids[f.stem]: read_table(f, config.data) for f in found}


def _divide(path: Path, config: SimulationConfig) -> tuple[dict[str, Table], dict[str, Any]]:
    return _cut(read_table(path, config.data, keep=_kept(config)), config)


def _cut(table: Table, config: SimulationConfig) -> tuple[dict[str, Table], dict[str, Any]]:
    how = config.partition
    if how.kind == "natural" and config.sites is not None:
        how = dataclasses.replace(how, kind="iid")
    labels = _classes(table)
    # The manifest names labels of a closed, public list only: an answer in free words is part of a record.
    column = table.kept(how.column) if how.column else None
    if table.units is None or column is not None:
        parts = partition(how, size=len(table), sites=config.sites, labels=labels, column=column)
    else:
        parts = _cut_units(table.units, config, how, labels)
    return {name: table.select(chosen.tolist()) for name, chosen in parts.items()}, manifest(
        parts, labels if config.data.labels and table.kind == "text_label" else None
    )


def _cut_units(
    units: tuple[str, ...], config: SimulationConfig, how: PartitionConfig, labels: list[str] | None
) -> dict[str, NDArray[np.int64]]:
    """Divide patients, not records: nobody is at two sites. The first record of each stands for its label."""
    _, first_U, unit_R = np.unique(np.array(units), return_index=True, return_inverse=True)
    of_units = None if labels is None else [labels[i] for i in first_U]
    parts = partition(how, size=len(first_U), sites=config.sites, labels=of_units, column=None)
    return {name: np.flatnonzero(np.isin(unit_R, chosen)) for name, chosen in parts.items()}


def _classes(table: Table) -> list[str] | None:
    """Each record's label; for prompts with short answers the answer. A simulation may look at them."""
    if table.kind not in ("text_label", "prompt_completion"):
        return None
    return [row.parts[1][1] for row in table.rows]


def _limited(table: Table | None, config: SimulationConfig) -> Table | None:
    return None if table is None else table.select(_chosen(len(table), config.evaluate_limit).tolist())


def _chosen(size: int, limit: int | None) -> NDArray[np.int64]:
    """An even, repeatable choice of at most `limit` of `size` records."""
    if limit is None or limit >= size:
        return np.arange(size)
    order = sorted(range(size), key=lambda i: hashlib.sha256(f"held-out\0{i}".encode()).digest())
    return np.sort(np.array(order[:limit], dtype=np.int64))


def labels_of(prepared: Prepared) -> tuple[str, ...]:
    """Closed list of classes; empty for a language model."""
    return prepared.tables.labels if prepared.host.is_classifier else ()
