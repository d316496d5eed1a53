"""A corpus, its parts and its sites."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.config import PartitionConfig
from partsong.simulations.studies import made_up
from partsong.simulations.studies.corpus import Corpus, Example, divide, part_of, pooled


def published(sites: tuple[str, ...], labels: tuple[str, ...]) -> Corpus:
    rows = tuple(Example(text=f"{s} {n} {i}", label=n, site=s) for s in sites for n in labels for i in range(12))
    return Corpus(name="x", labels=labels, train=rows, validation=rows[:3], test=rows[::2])


def test_a_document_has_one_part_and_keeps_it() -> None:
    """Shares are kept to within four standard deviations of 4,000 draws; another salt deals otherwise."""
    documents = [f"d{i}" for i in range(4000)]

    parts = [part_of(d, salt="a", validation=0.1, test=0.2) for d in documents]

    shares = Counter(parts)
    assert abs(shares["test"] / 4000 - 0.2) < 4 * (0.2 * 0.8 / 4000) ** 0.5
    assert abs(shares["validation"] / 4000 - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5
    assert parts == [part_of(d, salt="a", validation=0.1, test=0.2) for d in documents]
    assert parts != [part_of(d, salt="b", validation=0.1, test=0.2) for d in documents]


@settings(deadline=None, max_examples=15)
@given(alpha=st.sampled_from([0.3, 1.0, 10.0]), seed=st.integers(0, 5), sites=st.integers(2, 5))
def test_every_training_record_is_at_exactly_one_site(alpha: float, seed: int, sites: int) -> None:
    """However skewed the draw; and nothing else is there."""
    corpus = made_up.make()

    division = divide(corpus, PartitionConfig(kind="dirichlet", alpha=alpha, seed=seed), sites=sites, part="test")

    texts = [row.parts[0][1] for table in division.tables.sites.values() for row in table.rows]
    assert sorted(texts) == sorted(row.text for row in corpus.train)
    assert all(w.sum() == pytest.approx(1.0) for w in division.own_weight_N.values())


def test_publishers_hold_their_own_records() -> None:
    """And are tested on their own: equal weights there, none elsewhere."""
    corpus = published(("a", "b"), ("x", "y"))

    division = divide(corpus, PartitionConfig(), sites=None, part="test")

    assert {site: len(table) for site, table in division.tables.sites.items()} == {"a": 24, "b": 24}
    mine_N = np.array([row.site == "a" for row in corpus.test])
    np.testing.assert_allclose(division.own_weight_N["a"], mine_N / mine_N.sum())


def test_a_drawn_site_is_tested_by_its_own_mix_of_labels() -> None:
    """By hand: three x and one y weigh a test of two x and two y as 3/8, 3/8, 1/8, 1/8."""
    rows = tuple(Example(text=f"{n}{i}", label=n) for i, n in enumerate("xxyy"))
    train = tuple(Example(text=f"t{i}", label=n) for i, n in enumerate("xxxy" * 10))
    corpus = Corpus(name="x", labels=("x", "y"), train=train, validation=(), test=rows)

    division = divide(corpus, PartitionConfig(kind="iid"), sites=1, part="test")

    np.testing.assert_allclose(division.own_weight_N["site-1"], [3 / 8, 3 / 8, 1 / 8, 1 / 8])


def test_a_limit_keeps_the_same_records_every_time() -> None:
    """In their order, and not simply the first ones."""
    corpus = published(("a", "b"), ("x", "y"))

    first, again = (divide(corpus, PartitionConfig(), sites=None, part="test", limit=7) for _ in range(2))

    assert first.held_out == again.held_out != corpus.test[:7]
    assert len(first.held_out) == 7


def test_pooled_is_one_site_with_everything() -> None:
    """Scored on the same records."""
    corpus = published(("a", "b"), ("x",))
    division = divide(corpus, PartitionConfig(), sites=None, part="test")

    tables = pooled(division, corpus)

    assert {site: len(table) for site, table in tables.sites.items()} == {"pooled": 24}
    assert tables.held_out is division.tables.held_out
