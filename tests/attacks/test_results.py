"""A coordinator that publishes something else than the sum, or another history to each site."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from partsong.client.secure_sum import history, site_state
from partsong.common.codec import pack, unpack
from partsong.common.errors import Refused, WireError
from partsong.common.secure_sum.merkle import root_of
from partsong.common.secure_sum.messages import Header, Open, Result, Signed, Statement, Verdict
from partsong.common.secure_sum.result import result_hash, words_from_bytes, words_to_bytes
from partsong.common.secure_sum.tag import TAG_WORDS
from partsong.simulations.secure_sum import next_header, run_round


def after_one_round(lab: Callable, sites: int = 5, **kwargs: object):
    made = lab(sites)
    run_round(made.federation, made.header, lambda i, _: made.vectors[i], **kwargs)
    return made


def forged(made, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """The last result with other words, under a statement that the coordinator signs anew."""
    result = unpack(Result, made.federation.result)
    data = words_to_bytes(change(words_from_bytes(result.words, words=made.words + TAG_WORDS)))
    statement = replace(unpack(Statement, result.statement.body), sum=root_of(data))
    return pack(replace(result, statement=made.signed(statement), words=data))


def opening_after(made, result: bytes) -> bytes:
    """The next OPEN, built on this result."""
    named = result_hash(unpack(Result, result).statement)
    header = replace(next_header(made.federation, words=made.words), previous_round=1, previous=named)
    return pack(Open(header=made.signed(header), result=result))


def one_more(words: np.ndarray) -> np.ndarray:
    changed = words.copy()
    changed[7] += np.uint64(1)
    return changed


def tripled(words: np.ndarray) -> np.ndarray:
    return words * np.uint64(3)


def another_tag(words: np.ndarray) -> np.ndarray:
    changed = words.copy()
    changed[-1] ^= np.uint64(1)
    return changed


def test_the_true_sum_is_found_right(lab: Callable) -> None:
    """Every site gets it with the next OPEN, and says so in READY."""
    made = after_one_round(lab)

    for number in made.everyone:
        opened = made.site(number).open(opening_after(made, made.federation.result))
        assert opened.previous_fits
        assert (opened.previous.words == sum(made.vectors.values())).all()


@pytest.mark.parametrize("change", [one_more, tripled, another_tag])
def test_a_forged_or_scaled_sum_is_found_out_by_every_site(lab: Callable, change: Callable) -> None:
    """The tag does not fit; the site says so in READY and enters no roster on top of it."""
    made = after_one_round(lab)
    message = opening_after(made, forged(made, change))
    for number in made.everyone:
        opened = made.site(number).open(message)
        assert not opened.previous_fits
        made.readys[number] = unpack(Signed, made.site(number).ready(verdict=True))
    header = unpack_header(message)

    with pytest.raises(Refused, match="0 of 5 sites found the previous result right, 4 needed"):
        made.site(0).enter(made.roster(made.everyone, header))


def unpack_header(message: bytes) -> Header:
    return unpack(Header, unpack(Open, message).header.body)


def test_one_site_that_found_it_wrong_stays_out_even_if_the_others_go_on(lab: Callable) -> None:
    """Four of five are enough for the rest, not for the one whose application disagrees."""
    made = after_one_round(lab)
    message = opening_after(made, made.federation.result)
    for number in made.everyone:
        made.site(number).open(message)
        made.readys[number] = unpack(Signed, made.site(number).ready(verdict=number != 4))
    roster = made.roster(made.everyone, unpack_header(message))

    assert made.site(0).enter(roster).roster == made.everyone
    with pytest.raises(Refused, match="own_verdict"):
        made.site(4).enter(roster)


def test_the_tag_is_what_finds_it_out(lab: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with the tag check deleted, a forged sum passes."""
    made = after_one_round(lab)
    monkeypatch.setattr(history, "sum_fits", lambda opened, **_: True)

    assert made.site(0).open(opening_after(made, forged(made, one_more))).previous_fits


def test_a_result_without_its_parts_is_dropped(lab: Callable) -> None:
    """Words that the statement does not name, confirmations short of the quorum, a survivor left out."""
    made = after_one_round(lab)
    result = unpack(Result, made.federation.result)
    bad = {
        "statement": replace(result, words=words_to_bytes(one_more(words_from_bytes(result.words, words=53)))),
        "confirmations": replace(result, confirms=result.confirms[:3]),
        "survivor": replace(result, reports=result.reports[:4]),
        "found the previous": replace(result, readys=result.readys[:3]),
        "signature": replace(
            result, statement=replace(result.statement, signature=bytes(len(result.statement.signature)))
        ),
    }
    for changed in bad.values():
        data = pack(changed)
        with pytest.raises((WireError, Refused)):
            made.site(0).open(opening_after(made, data))

    assert made.site(0).open(opening_after(made, made.federation.result)).previous_fits


def test_a_site_does_not_take_a_sum_over_others_than_it_confirmed(lab: Callable) -> None:
    """If a quorum could be got for another set, a site that signed this one would still notice."""
    made = after_one_round(lab)
    state = made.state(0)
    changed = replace(state, survivors=b"\x01" * 32)
    site_state.save(changed, made.federation.consortium.vaults[0])

    with pytest.raises(Refused, match="confirmed another survivor set"):
        made.restart(0).open(opening_after(made, made.federation.result))


def test_another_result_for_a_round_that_was_checked_is_refused(lab: Callable) -> None:
    """Two signed statements about one round are two histories."""
    made = after_one_round(lab)
    made.site(0).open(opening_after(made, made.federation.result))
    other = opening_after(made, forged(made, one_more))
    header = replace(unpack_header(other), round=3)

    with pytest.raises(Refused, match="split_history"):
        made.site(0).open(pack(replace(unpack(Open, other), header=made.signed(header))))


def test_a_header_has_to_name_the_result_that_comes_with_it(lab: Callable) -> None:
    """And has to bring it to a site that lacks it."""
    made = after_one_round(lab)
    message = unpack(Open, opening_after(made, made.federation.result))
    other = replace(unpack_header(pack(message)), previous=b"\x01" * 32)

    with pytest.raises(WireError, match="another result than its header names"):
        made.site(0).open(pack(replace(message, header=made.signed(other))))
    with pytest.raises(Refused, match="missing_result"):
        made.site(0).open(pack(replace(message, result=b"")))


def test_a_history_older_than_the_site_s_is_refused(lab: Callable) -> None:
    """A coordinator cannot go back to before a sum that a site has checked."""
    made = after_one_round(lab)
    made.site(0).open(opening_after(made, made.federation.result))
    back = replace(made.header, round=3)

    with pytest.raises(Refused, match="old_result"):
        made.site(0).open(made.opening(back))


def test_a_site_that_missed_the_round_checks_its_sum_too(lab: Callable) -> None:
    """It was not in the sum, but knows the group key."""
    made = after_one_round(lab, drop={4: "ready"})

    good = made.site(4).open(opening_after(made, made.federation.result))

    assert good.previous_fits
    assert good.previous.sites == (0, 1, 2, 3)
    other = after_one_round(lab, drop={4: "ready"})
    assert not other.site(4).open(opening_after(other, forged(other, one_more))).previous_fits


def test_the_last_result_gets_a_signed_verdict(lab: Callable) -> None:
    """The closing exchange: right, wrong by the application, wrong by the tag, and never two for one round."""
    made = after_one_round(lab)
    right = unpack(Verdict, unpack(Signed, made.site(0).close(made.federation.result, verdict=lambda _: True)).body)
    wrong = unpack(Verdict, unpack(Signed, made.site(1).close(made.federation.result, verdict=lambda _: False)).body)
    forgery = forged(made, tripled)
    found_out = unpack(Verdict, unpack(Signed, made.site(2).close(forgery, verdict=lambda _: True)).body)

    assert (right.verdict, wrong.verdict, found_out.verdict) == (1, 0, 0)
    assert right.result == made.federation.last.hash
    with pytest.raises(Refused, match="split_history"):
        made.site(2).close(made.federation.result, verdict=lambda _: True)


def test_a_run_is_not_closed_with_an_earlier_result(lab: Callable) -> None:
    """The last result is the last."""
    made = after_one_round(lab)
    first = made.federation.result
    run_round(made.federation, next_header(made.federation, words=50), lambda i, _: made.vectors[i])
    made.site(0).close(made.federation.result, verdict=lambda _: True)

    with pytest.raises(Refused, match="old_result"):
        made.site(0).close(first, verdict=lambda _: True)


@pytest.mark.parametrize("way", ["result", "open"])
def test_a_result_that_follows_another_one_than_the_site_s_is_refused(lab: Callable, way: str) -> None:
    """Two groups that never meet in a roster are led along two histories until one gets a result of the other.

    The site has checked another first result than the one on which the others built the second.
    """
    made = after_one_round(lab)
    run_round(made.federation, next_header(made.federation, words=made.words), lambda i, _: made.vectors[i])
    site_state.save(replace(made.state(0), result=b"\x01" * 32), made.federation.consortium.vaults[0])

    def told(number: int) -> object:
        site = made.restart(number)
        if way == "result":
            return site.close(made.federation.result, verdict=lambda _: True)
        header = replace(next_header(made.federation, words=made.words), round=3)
        return site.open(pack(Open(header=made.signed(header), result=made.federation.result)))

    with pytest.raises(Refused, match="follows another result"):
        told(0)
    assert told(1)


def test_what_builds_on_a_result_found_wrong_is_wrong_as_well(lab: Callable) -> None:
    """The others went on, and their next sum has a right tag: this site still says 0, and enters no roster."""
    made = after_one_round(lab)
    message = opening_after(made, made.federation.result)
    for number in made.everyone:
        made.site(number).open(message)
        made.readys[number] = unpack(Signed, made.site(number).ready(verdict=number != 4))
    header = replace(next_header(made.federation, words=made.words), round=3)
    run_round(made.federation, header, lambda i, _: made.vectors[i], drop={4: "ready"})
    message = opening_after(made, made.federation.result)
    header = replace(next_header(made.federation, words=made.words), round=4)
    message = pack(replace(unpack(Open, message), header=made.signed(header)))

    found = {number: made.site(number).open(message).previous_fits for number in made.everyone}

    assert found == {0: True, 1: True, 2: True, 3: True, 4: False}
    for number in made.everyone:
        made.readys[number] = unpack(Signed, made.site(number).ready(verdict=True))
    with pytest.raises(Refused, match="own_verdict"):
        made.site(4).enter(made.roster(made.everyone, header))


def test_the_application_is_not_shown_a_sum_whose_tag_is_wrong(lab: Callable) -> None:
    """It would move its copy of the adapter along words that nobody sealed; a right one it sees."""
    made = after_one_round(lab)
    seen: list[object] = []

    made.site(0).close(forged(made, tripled), verdict=lambda opened: bool(seen.append(opened)))
    assert seen == []
    made.site(1).close(made.federation.result, verdict=lambda opened: bool(seen.append(opened)))
    assert len(seen) == 1
