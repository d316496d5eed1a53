"""Where a daemon's files lie is left out of what is shown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.common.plain_text import without_paths


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/srv/hub/runs/a/plan.json: found no plan", "plan.json: found no plan"),
        ("found '/srv/hub/x.yaml', expected a job", "found 'x.yaml', expected a job"),
        ("(/home/u/run)", "(run)"),
        ("round 3 of 4: 3/4 sites, a/b", "round 3 of 4: 3/4 sites, a/b"),
        ("see http://127.0.0.1/readyz", "see http://127.0.0.1/readyz"),
        ("", ""),
    ],
)
def test_of_a_path_only_its_last_part_is_left(text: str, left: str) -> None:
    """What is no path stays as it is."""

    assert without_paths(text) == left


PART = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True)


@settings(max_examples=100, deadline=None)
@given(folders=st.lists(PART, min_size=1, max_size=6), name=PART)
def test_no_folder_survives(folders: list[str], name: str) -> None:
    """Wherever the path stands in the text."""
    path = "/" + "/".join([*(f"{part}-folder" for part in folders), name])

    left = without_paths(f"found {path}: odd")

    assert "-folder" not in left
    assert left.endswith(f"{name}: odd")
