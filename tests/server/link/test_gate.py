"""Who is admitted, and how often."""

from hypothesis import given, settings
from hypothesis import strategies as st

from partsong.server.link.gate import NOT_ENROLLED, NOT_FOUND, TOO_LARGE, TOO_OFTEN, Gate, Limits

PATHS = {"/v1/fleet/a": 10, "/v1/fleet/b": 1000}


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def gate(clock: Clock | None = None, **limits: float) -> Gate:
    made = Gate(body_bytes=PATHS, limits=Limits(**limits), clock=clock or Clock())  # type: ignore[arg-type]
    made.replace_sites({"north": b"north's key", "south": b"south's key"})
    return made


def test_each_path_takes_its_own_body() -> None:
    """Sizes around the limit; a length that is not announced is found out while reading."""
    asked = [("/v1/fleet/a", None), ("/v1/fleet/a", 9), ("/v1/fleet/a", 10), ("/v1/fleet/a", 11), ("/v1/fleet/b", 11)]

    found = [gate().admit(b"north's key", path=path, content_length=size) for path, size in asked]

    assert found == [10, 10, 10, TOO_LARGE, 1000]


def test_a_key_that_is_not_enrolled_learns_nothing_of_the_paths() -> None:
    """It is told so whatever it asks for."""
    found = {gate().admit(b"other", path=path, content_length=1 << 40) for path in (*PATHS, "/else")}

    assert found == {NOT_ENROLLED}


def test_a_path_that_does_not_exist_counts_against_the_rate() -> None:
    """Guessing is asking."""
    made = gate(burst=2, requests_per_s=1)

    found = [made.admit(b"north's key", path="/else", content_length=None) for _ in range(3)]

    assert found == [NOT_FOUND, NOT_FOUND, TOO_OFTEN]


@given(waits=st.lists(st.floats(0, 3), min_size=1, max_size=60))
@settings(deadline=None)
def test_no_site_is_admitted_more_often_than_its_rate(waits: list[float]) -> None:
    """A burst, and then so many a second; another site's asking does not count."""
    clock = Clock()
    made, admitted = gate(clock, burst=3, requests_per_s=2), 0
    for wait_s in waits:
        clock.now_s += wait_s
        made.admit(b"south's key", path="/v1/fleet/a", content_length=0)
        admitted += made.admit(b"north's key", path="/v1/fleet/a", content_length=0) == 10

    assert admitted <= 3 + 2 * sum(waits) + 1e-6
    assert admitted >= min(len(waits), 3)


def test_a_site_that_waits_is_admitted_again() -> None:
    """The refusal passes, and asking too early does not prolong it."""
    clock = Clock()
    made = gate(clock, burst=1, requests_per_s=1)

    found = []
    for clock.now_s in (0.0, 0.5, 0.9, 1.0, 1.5, 2.0):
        found.append(made.admit(b"north's key", path="/v1/fleet/a", content_length=0))

    assert found == [10, TOO_OFTEN, TOO_OFTEN, 10, TOO_OFTEN, 10]
