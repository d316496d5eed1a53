"""Every record at exactly one site, again and again."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.errors import ConfigError, DataError
from partsong.common.simulated import PartitionConfig
from partsong.simulations.partition import Indices, manifest, partition

LABELS = [f"c{i % 5}" for i in range(1000)]


def everyone(parts: dict[str, Indices]) -> list[int]:
    """All indices of all sites, sorted."""
    return sorted(int(i) for part in parts.values() for i in part)


def skew(parts: dict[str, Indices]) -> float:
    """Mean distance in total variation between a site's labels and all labels."""
    whole = Counter(LABELS)
    distances = []
    for part in parts.values():
        here = Counter(LABELS[i] for i in part)
        distances.append(0.5 * sum(abs(here[c] / len(part) - whole[c] / len(LABELS)) for c in whole))
    return float(np.mean(distances))


@settings(max_examples=50, deadline=None)
@given(
    kind=st.sampled_from(["iid", "dirichlet", "quantity"]),
    sites=st.integers(1, 9),
    size=st.integers(300, 600),
    seed=st.integers(0, 2**32),
    alpha=st.floats(0.5, 100),
)
def test_every_record_is_at_exactly_one_site(kind: str, sites: int, size: int, seed: int, alpha: float) -> None:
    """Nothing lost, nothing twice, at least ten at each site, names in order."""
    config = PartitionConfig(kind=kind, alpha=alpha, seed=seed)
    parts = partition(config, size=size, sites=sites, labels=LABELS[:size], column=None)

    assert everyone(parts) == list(range(size))
    assert list(parts) == [f"site-{i}" for i in range(1, sites + 1)]
    assert all(len(part) >= 10 and (np.diff(part) > 0).all() for part in parts.values())


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity"])
def test_a_partition_is_repeatable_and_depends_on_its_seed(kind: str) -> None:
    """One seed, one division; another seed, another one."""

    def divide(seed: int) -> dict[str, list[int]]:
        config = PartitionConfig(kind=kind, seed=seed)
        return {
            site: part.tolist()
            for site, part in partition(config, size=1000, sites=4, labels=LABELS, column=None).items()
        }

    assert divide(1) == divide(1)
    assert divide(1) != divide(2)


def test_dirichlet_skew_grows_as_alpha_falls() -> None:
    """Averaged over twenty seeds, each step down in alpha is more skewed, and at 1 more than iid."""

    def mean_skew(kind: str, alpha: float) -> float:
        drawn = []
        for seed in range(20):
            config = PartitionConfig(kind=kind, alpha=alpha, seed=seed)
            drawn.append(skew(partition(config, size=1000, sites=4, labels=LABELS, column=None)))
        return float(np.mean(drawn))

    little, some, much = (mean_skew("dirichlet", alpha) for alpha in (100.0, 1.0, 0.1))
    assert 3 * little < some
    assert 1.5 * some < much
    assert 3 * mean_skew("iid", 1.0) < some


def test_a_column_makes_a_site_of_each_value() -> None:
    """Sites are named after the values."""
    column = ["b", "a", "b", "c"]
    parts = partition(PartitionConfig(kind="column", column="ward"), size=4, sites=None, labels=None, column=column)

    assert {site: part.tolist() for site, part in parts.items()} == {"a": [1], "b": [0, 2], "c": [3]}


@pytest.mark.parametrize(
    ("config", "sites", "labels", "error", "words"),
    [
        (PartitionConfig(kind="column", column="w"), 3, None, ConfigError, "sites: found 3, expected 2, the values of w"),
        (PartitionConfig(kind="column"), None, None, ConfigError, r"partition\.column: found nothing"),
        (PartitionConfig(kind="natural"), 3, None, ConfigError, "natural for one dataset"),
        (PartitionConfig(kind="iid"), None, None, ConfigError, "a number of sites for partition.kind=iid"),
        (PartitionConfig(kind="iid"), 11, None, DataError, "found 100 records, expected at least 10 for each of 11"),
        (PartitionConfig(kind="dirichlet"), 3, None, ConfigError, "records with a label"),
        (PartitionConfig(kind="dirichlet", alpha=1e-3), 9, LABELS[:100], DataError, "raise partition.alpha"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided_is_refused(
    config: PartitionConfig, sites: int | None, labels: list[str] | None, error: type[Exception], words: str
) -> None:
    """What is missing is named."""
    with pytest.raises(error, match=words):
        partition(config, size=100, sites=sites, labels=labels, column=["x", "y"] * 50)


def test_the_manifest_counts_records_and_labels() -> None:
    """Sums over the sites give the whole."""
    parts = partition(PartitionConfig(kind="iid"), size=1000, sites=3, labels=None, column=None)
    counted = manifest(parts, LABELS)

    assert sum(site["records"] for site in counted.values()) == 1000
    assert sum((Counter(site["labels"]) for site in counted.values()), Counter()) == Counter(LABELS)
    assert "labels" not in manifest(parts, None)["site-1"]


def test_quantity_skews_sizes_and_leaves_labels_alone() -> None:
    """A small alpha gives one site most records; a large one, and the control, nearly equal parts."""

    def divided(kind: str, alpha: float) -> dict[str, Indices]:
        config = PartitionConfig(kind=kind, alpha=alpha)
        return partition(config, size=1000, sites=5, labels=LABELS, column=None)

    sizes = {(k, a): sorted(map(len, divided(k, a).values())) for k in ("quantity", "iid") for a in (0.1, 1000.0)}
    assert sizes["quantity", 0.1][-1] > 500
    assert sizes["quantity", 1000.0][0] > 150
    assert sizes["iid", 0.1] == [200] * 5
    big = max(divided("quantity", 0.1).values(), key=len)
    assert skew({"big": big}) < 0.05
