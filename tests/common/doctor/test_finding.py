"""The runner asks every check, whatever happens to the others."""

import threading

import pytest

from partsong.common.doctor.finding import Check, Seen, exit_code, fail, ok, run, skipped, warn
from partsong.common.errors import DataError, Refused


def raising(err: Exception):
    def look() -> Seen:
        raise err

    return look


def bad() -> Seen:
    return fail("it is broken", cause="it fell", remedy="mend it")


def test_a_failure_stops_nothing_but_what_needs_it() -> None:
    """Five checks give five findings; what stands on a failed or skipped one is skipped with its name."""
    checks = [
        Check(name="a", look=bad),
        Check(name="b", look=lambda: ok("fine")),
        Check(name="c", look=lambda: ok("never"), needs=("b", "a")),
        Check(name="d", look=lambda: ok("never"), needs=("c",)),
        Check(name="e", look=lambda: warn("worn", cause="age", remedy="replace it"), needs=("b",)),
        Check(name="f", look=lambda: ok("fine"), needs=("e",)),
    ]

    findings = list(run(checks))

    assert [f.seen.state for f in findings] == ["fail", "ok", "skipped", "skipped", "warn", "ok"]
    assert [findings[2].seen.found, findings[3].seen.found] == ["needs 'a'", "needs 'c'"]


def test_a_check_that_hangs_is_left_behind_after_its_time() -> None:
    """The next check is asked all the same."""
    never = threading.Event()
    checks = [
        Check(name="hangs", look=lambda: ok(str(never.wait())), limit_s=0.05),
        Check(name="next", look=lambda: ok("fine")),
    ]

    findings = list(run(checks))
    never.set()

    assert "no answer within 0.05 s" in findings[0].seen.found
    assert findings[1].seen.state == "ok"


def test_errors_of_ours_become_findings_with_their_remedy() -> None:
    """Place, cause and remedy come over."""
    wrong = DataError("notes.jsonl, row 3", found="no text", expected="text", remedy="fill it in")
    refused = Refused("packing", reason="records share a gradient", remedy="set data.packing=false")

    one, two = (f.seen for f in run([Check(name="a", look=raising(wrong)), Check(name="b", look=raising(refused))]))

    assert (one.state, one.found, one.remedy) == ("fail", "notes.jsonl, row 3: no text", "fill it in")
    assert (two.found, two.cause) == ("refused by rule packing", "records share a gradient")


def test_the_text_of_a_foreign_exception_is_not_shown() -> None:
    """A library may quote the record that it choked on."""
    (finding,) = run([Check(name="a", look=raising(ValueError("Mrs Miller, born 1951")))])

    assert "ValueError" in finding.seen.found
    assert "Miller" not in str(finding.to_tree())


@pytest.mark.parametrize(
    ("seen", "code"), [(ok("x"), 0), (skipped("x"), 0), (warn("x", cause="y", remedy="z"), 0), (bad(), 1)]
)
def test_only_a_failure_is_an_exit_code(seen: Seen, code: int) -> None:
    """Warnings are for reading."""
    findings = list(run([Check(name="a", look=lambda: seen)]))

    assert exit_code(findings) == code


def test_what_is_not_in_order_needs_cause_and_remedy() -> None:
    """A finding without either cannot be made."""
    with pytest.raises(ValueError, match="cause"):
        fail("broken", cause="", remedy="mend it")
