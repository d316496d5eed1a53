"""Built-in text: real, split by whole units, and the same everywhere."""

import csv
import hashlib
import importlib.metadata
import importlib.resources
import itertools
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.build import sha256_of
from partsong.common.errors import DataError
from partsong.simulations.builtin import BuiltinData, Row, icd10, iso18245, load
from partsong.simulations.builtin.records import Record, fraction, hold_out, split

FROZEN = {
    "icd10": ("simple_icd_10_cm", "1.5.0", "16af519bcc234de40844562988fb6e72763d10b5955285d37d788f01662fff2c"),
    "iso18245": ("iso18245", "1.4.1", "fb5e7e658f0587adab42856326c0c398c70f837d9f8de00f55e70fde3e1a8c71"),
}
TRAINING_ROWS = {
    "icd10": {"general": 1849, "maternity": 1510, "oncology": 1589, "trauma": 2010, "cardiopulmonary": 1528},
    "iso18245": {
        "alipay": 210,
        "amex": 694,
        "mastercard": 703,
        "official": 227,
        "stripe": 232,
        "usda": 541,
        "visa": 706,
    },
}
HELD_OUT_ROWS = {"icd10": 1488, "iso18245": 802}
MAJORITY = {"icd10": ("Injury", 213), "iso18245": ("Lodging", 231)}
SPECIALTY = {"maternity": "Pregnancy", "oncology": "Cancer", "trauma": "Injury", "cardiopulmonary": "Heart"}

NAMES = pytest.mark.parametrize("name", ["icd10", "iso18245"])


@pytest.fixture(scope="module")
def loaded() -> dict[str, BuiltinData]:
    """Both datasets as classification rows."""
    return {"icd10": load("icd10", style="text_label"), "iso18245": load("iso18245", style="text_label")}


def training_rows(data: BuiltinData) -> list[Row]:
    """Rows of all sites."""
    return [row for rows in data.sites.values() for row in rows]


def values(rows: list[Row] | tuple[Row, ...], field: str) -> set[str]:
    """What occurs in a field, case aside."""
    return {row[field].lower() for row in rows}


@NAMES
def test_no_unit_and_no_text_is_in_training_and_held_out(loaded: dict[str, BuiltinData], name: str) -> None:
    """A held-out code is new in every wording of every site."""
    train, held_out = training_rows(loaded[name]), loaded[name].held_out

    assert not values(train, "unit") & values(held_out, "unit")
    assert not values(train, "text") & values(held_out, "text")


@NAMES
def test_holding_out_single_records_would_split_units(loaded: dict[str, BuiltinData], name: str) -> None:
    """The control of the test above: every fifth record instead of whole units breaks it."""
    rows = training_rows(loaded[name])

    assert values(rows[::5], "unit") & values([row for at, row in enumerate(rows) if at % 5], "unit")


def test_no_diagnosis_is_in_two_places(loaded: dict[str, BuiltinData]) -> None:
    """The hospitals' records are disjoint, held-out ones included."""
    rows = training_rows(loaded["icd10"]) + list(loaded["icd10"].held_out)

    assert len(values(rows, "text")) == len(rows)


@NAMES
def test_sizes_and_majority_are_as_documented(loaded: dict[str, BuiltinData], name: str) -> None:
    """Rows a site, held-out rows, and the label that a constant answer would bet on."""
    data = loaded[name]

    assert {site: len(rows) for site, rows in data.sites.items()} == TRAINING_ROWS[name]
    assert len(data.held_out) == HELD_OUT_ROWS[name]
    assert Counter(row["label"] for row in data.held_out).most_common(1) == [MAJORITY[name]]


def test_hospitals_are_of_a_size_that_the_demo_is_tuned_for(loaded: dict[str, BuiltinData]) -> None:
    """Between 1,150 and 2,300 records each."""
    assert all(1150 <= len(rows) <= 2300 for rows in loaded["icd10"].sites.values())


@pytest.mark.parametrize(("site", "label"), SPECIALTY.items())
def test_a_specialised_hospital_sees_its_specialty_most(loaded: dict[str, BuiltinData], site: str, label: str) -> None:
    """The most frequent chapter is the expected one, at least twice as frequent as in all hospitals together."""
    data = loaded["icd10"]
    own = Counter(row["label"] for row in data.sites[site])
    everywhere = Counter(row["label"] for row in training_rows(data))

    assert own.most_common(1)[0][0] == label
    assert own[label] / own.total() > 2 * everywhere[label] / everywhere.total()


def test_the_general_hospital_is_dominated_by_no_chapter(loaded: dict[str, BuiltinData]) -> None:
    """Its most frequent chapter is under a fifth, while every specialised one is above it."""
    tops = {
        site: Counter(row["label"] for row in rows).most_common(1)[0][1] / len(rows)
        for site, rows in loaded["icd10"].sites.items()
    }

    assert tops["general"] < 0.2
    assert min(top for site, top in tops.items() if site != "general") > 0.2


def test_brands_are_listed_by_the_schemes_alone(loaded: dict[str, BuiltinData]) -> None:
    """Four institutions name airlines, cars and lodging by brand, three do not: the mixes really differ."""
    sites = loaded["iso18245"].sites
    brands = {site: sum(row["unit"].startswith("3") for row in rows) for site, rows in sites.items()}

    assert {site for site, count in brands.items() if count} == {"amex", "mastercard", "usda", "visa"}
    assert all(brands[site] / len(sites[site]) > 0.5 for site in ("amex", "mastercard", "usda", "visa"))


def test_a_hospitals_own_held_out_rows_follow_its_mix(loaded: dict[str, BuiltinData]) -> None:
    """The top chapter of a specialised hospital is the top chapter of its own test as well."""
    data = loaded["icd10"]
    own = {site: [data.held_out[at]["label"] for at in held] for site, held in data.held_out_by_site.items()}

    assert {site: Counter(own[site]).most_common(1)[0][0] for site in SPECIALTY} == SPECIALTY


@NAMES
def test_every_held_out_row_belongs_to_one_site(loaded: dict[str, BuiltinData], name: str) -> None:
    """The sites' own tests part the held-out set."""
    data = loaded[name]

    positions = sorted(itertools.chain.from_iterable(data.held_out_by_site.values()))

    assert positions == list(range(len(data.held_out)))
    assert list(data.held_out_by_site) == list(data.sites)


@NAMES
def test_labels_are_closed_and_all_of_them_are_tested(loaded: dict[str, BuiltinData], name: str) -> None:
    """No row has a label outside the list, no label is without rows on either side."""
    data = loaded[name]

    assert {row["label"] for row in training_rows(data)} == set(data.labels)
    assert {row["label"] for row in data.held_out} == set(data.labels)
    assert len(set(data.labels)) == len(data.labels)


@NAMES
def test_a_short_prefix_is_a_fair_sample(loaded: dict[str, BuiltinData], name: str) -> None:
    """200 rows show no label more than 8 points off; rows in the order of their codes would show few labels."""
    rows = loaded[name].held_out
    whole = Counter(row["label"] for row in rows)

    def furthest(sample: list[Row] | tuple[Row, ...]) -> float:
        part = Counter(row["label"] for row in sample)
        return max(abs(part[label] / len(sample) - whole[label] / len(rows)) for label in whole)

    assert furthest(rows[:200]) < 0.08 < furthest(sorted(rows, key=lambda row: row["unit"])[:200])


@NAMES
def test_both_styles_say_the_same(loaded: dict[str, BuiltinData], name: str) -> None:
    """A prompt holds the text, its completion the label, in the same order."""
    prompts = load(name, style="prompt_completion")

    for site, rows in prompts.sites.items():
        for prompt, plain in zip(rows, loaded[name].sites[site], strict=True):
            assert set(prompt) == {"prompt", "completion", "unit"}
            assert plain["text"] in prompt["prompt"]
            assert (prompt["completion"], prompt["unit"]) == (f" {plain['label']}", plain["unit"])


def test_the_prompt_of_a_diagnosis_is_the_one_the_demo_is_tuned_for() -> None:
    """Spaces and line breaks are part of the task: the completion starts with the space."""
    row = next(row for row in load("icd10", style="prompt_completion").held_out if row["completion"] == " Injury")

    head, _, tail = row["prompt"].partition("\n")
    assert head.startswith("Diagnosis: ")
    assert tail == "Chapter:"


@NAMES
def test_the_construction_is_frozen(name: str) -> None:
    """Another version of the package, or another rule, shows here before it shows as another result."""
    package, version, expected = FROZEN[name]

    found = sha256_of(load(name, style="prompt_completion"))

    assert found == expected, (
        f"{name} is not what it was. Frozen with {package} {version}, installed is "
        f"{importlib.metadata.version(package)}: if the package changed its text, check the counts above, freeze "
        f"the new hash and note that figures measured before do not compare; if not, the rule was changed"
    )


def test_chapters_agree_with_the_published_file(loaded: dict[str, BuiltinData]) -> None:
    """Every diagnosis stands once in the tabular list itself, in the chapter and category that its row says."""
    folder = importlib.resources.files("simple_icd_10_cm") / "data"
    (file,) = [item for item in folder.iterdir() if item.name.endswith(".xml")]
    published: dict[str, set[tuple[str, str]]] = {}
    for chapter in ET.fromstring(file.read_text(encoding="utf-8")).iter("chapter"):
        for diagnosis in chapter.iter("diag"):
            place = chapter.findtext("name", ""), diagnosis.findtext("name", "")[:3]
            for note in diagnosis.iterfind("inclusionTerm/note"):
                published.setdefault(" ".join((note.text or "").split()), set()).add(place)
    number = {chapter.label: key for key, chapter in icd10.CHAPTERS.items()}
    rows = training_rows(loaded["icd10"]) + list(loaded["icd10"].held_out)

    assert all(published[row["text"]] == {(number[row["label"]], row["unit"])} for row in rows)


def test_wordings_agree_with_the_institutions_lists(loaded: dict[str, BuiltinData]) -> None:
    """Every row of a site is a line of that institution's file."""
    folder = importlib.resources.files("iso18245") / "data"
    for site, rows in loaded["iso18245"].sites.items():
        stem = "iso18245_official" if site == "official" else site
        with (folder / f"{stem}_list.csv").open(encoding="utf-8") as file:
            listed = {(line[0], " ".join(line[1].split())) for line in csv.reader(file)}

        assert {(row["unit"], row["text"]) for row in rows} <= listed


def test_private_ranges_agree_with_the_package() -> None:
    """First and last codes of airlines, cars and lodging are the package's."""
    file = importlib.resources.files("iso18245") / "data" / "private_ranges.csv"
    _, *lines = csv.reader(file.read_text(encoding="utf-8").splitlines())

    assert list(iso18245.PRIVATE_RANGES.values()) == [(first, last) for first, last, _ in lines]


def test_each_chapter_is_dealt_out_completely() -> None:
    """The percentages of a chapter add up to 100."""
    assert {sum(chapter.percent) for chapter in icd10.CHAPTERS.values()} == {100}


def test_a_fraction_is_the_top_of_the_hash() -> None:
    """53 bits of SHA-256 of the words, joined by a slash."""
    by_hand = int(hashlib.sha256(b"a/b").hexdigest(), 16) / 2**256

    assert abs(fraction("a", "b") - by_hand) < 2**-52
    assert fraction("a", "b") != fraction("a", "c")


RECORDS = st.lists(
    st.builds(
        Record,
        site=st.sampled_from("xyz"),
        unit=st.sampled_from("abcdefgh"),
        text=st.text(max_size=3),
        label=st.sampled_from("LM"),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=40)
@given(records=RECORDS, share=st.sampled_from([0.0, 0.1, 0.3, 1.0]), rotate=st.integers(0, 30))
def test_units_are_held_out_by_records_alone(records: list[Record], share: float, rotate: int) -> None:
    """The choice does not depend on the order of records, and splitting by it loses and doubles none."""
    chosen = hold_out(records, share=share, salt="s")
    train, held_out = split(records, held_out=chosen, salt="s")

    assert chosen == hold_out(records[rotate:] + records[:rotate], share=share, salt="s")
    assert Counter(train) + Counter(held_out) == Counter(records)
    assert not {record.unit for record in train} & {record.unit for record in held_out}


@settings(deadline=None, max_examples=40)
@given(records=RECORDS.map(lambda drawn: [r for r in drawn if (r.label == "L") == (r.unit < "e")]))
def test_no_label_loses_more_than_its_share(records: list[Record]) -> None:
    """Where a unit has one label, at most `share` of the label's records are held out."""
    chosen = hold_out(records, share=0.3, salt="s")

    for label in "LM":
        held = sum(record.unit in chosen for record in records if record.label == label)
        assert held <= 0.3 * sum(record.label == label for record in records)


@NAMES
def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Without the extra the error says which command brings the text."""
    monkeypatch.setitem(sys.modules, FROZEN[name][0], None)

    with pytest.raises(DataError, match=rf"no package {FROZEN[name][0]}.*pip install 'partsong\[demo\]'"):
        load(name, style="text_label")


def test_no_torch_and_no_text_is_loaded_by_the_import() -> None:
    """Importing is free of work: the packages are read when data is asked for."""
    code = "import sys, partsong.simulations.builtin; print(sorted({'torch', 'simple_icd_10_cm', 'iso18245'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
