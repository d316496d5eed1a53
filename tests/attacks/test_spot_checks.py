"""A coordinator that works with a site and forges a sum together with its tag, against blocks picked at random.

The control: without the block the forgery is believed.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from wiring import Wired

from partsong.client.secure_sum import masked_door, site_state, spot_check
from partsong.common.adapters.methods import server_step
from partsong.common.codec import pack, unpack
from partsong.common.files import write_bytes
from partsong.common.secure_sum import tag
from partsong.common.secure_sum.merkle import root_of
from partsong.common.secure_sum.messages import Result, Statement, sign
from partsong.common.secure_sum.opened import read_sum
from partsong.common.secure_sum.result import read_result, words_to_bytes
from partsong.server.exchange import Parcel
from partsong.server.rounds import Phase
from partsong.server.secure_sum.masked_desk import LastSum

Make = Callable[..., Wired]


def forge_last(made: Wired) -> None:
    """Publish another sum of the last round, with the tag that it has to have, and the adapter that follows from it."""
    assert made.sums._last is not None
    last = made.sums._last
    run, packed = made.sums._required_run(), made.sums._journal.read(last.kept)
    true = read_result(packed, run=run, floors=run.charter.floors)
    words_W = true.words.copy()
    words_W[0] += np.uint64(1)
    # The group key, from the site that the coordinator works with.
    key = site_state.load(made.vaults["e"], charter=run.charter).group_key
    value = tag._inner(words_W, key, true.context) + sum(tag._pad(key, true.context, site) for site in true.sites)
    parts = [(value % tag.PRIME) >> shift & 0xFFFFFFFF for shift in (0, 32, 64)]
    data = bytes(words_to_bytes(np.concatenate([words_W, np.array(parts, np.uint64)])))
    result = unpack(Result, packed)
    statement = replace(unpack(Statement, result.statement.body), sum=root_of(data))
    forged = pack(replace(result, statement=sign(statement, made.trust.signer), words=data))
    opened = read_result(forged, run=run, floors=run.charter.floors)
    write_bytes(made.sums._journal._result_file(last.kept), forged)
    made.sums._last = LastSum.of(last.kept, opened)
    mean = read_sum(opened.words, made.plan, number=last.kept.number, sites=len(opened.sites))
    made.state = server_step(made.before_last, mean.mean_P, made.plan.optimizer)


def after_one_round(wired: Make) -> Wired:
    """Five sites that all check every sum; one round is done, and its sum forged."""
    made = wired(spot_checks=True)
    made.propose()
    made.before_last = made.state
    made.round(1)
    forge_last(made)
    return made


@pytest.fixture(autouse=True)
def _everybody_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot_check, "CHECKS", 5)


def test_a_forged_sum_with_its_tag_is_found_and_nothing_is_built_on_it(wired: Make) -> None:
    """Every site finds that the block does not add up, seals nothing, and takes no further part, restarted or not."""
    made = after_one_round(wired)

    outcome = made.round(2)
    made.restart("a")
    made.propose()
    again = made.round(3)

    assert (outcome.opened, again.opened) == (None, None)
    assert outcome.state.phase is Phase.ABORTED
    assert all("wrong_sum" in made.errors(site) for site in "abcde")
    assert not [key for key in made.sealed if key[0] > 1]


def test_a_site_that_found_a_sum_wrong_remembers_it_without_another_check(
    wired: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart too, and although nobody picks a block any more."""
    made = after_one_round(wired)
    made.round(2)
    monkeypatch.setattr(spot_check, "CHECKS", 0)
    made.restart("a")
    made.propose()

    outcome = made.round(3)

    assert outcome.opened is None
    assert "wrong_sum" in made.errors("a")
    assert not [key for key in made.sealed if key[0] > 1]


def test_without_the_block_the_forgery_is_believed(wired: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: tag, history and adapter all fit."""
    monkeypatch.setattr(masked_door.SpotCheck, "require", lambda _self, _proof, *, run: None)
    made = after_one_round(wired)

    assert made.round(2).opened is not None


def test_true_sums_pass_every_check(wired: Make) -> None:
    """Also where a site dropped out before its report, and by a coordinator that was started again."""
    made = wired(spot_checks=True)
    made.propose()
    made.lines.before = lambda site, phase, parcel: None if (site, phase) == ("b", "roster") else parcel
    made.round(1)
    made.lines.before = lambda _site, _phase, parcel: parcel
    made.round(2)
    made.resume()
    made.round(3)

    assert [len(made.outcomes[number].state.survivors) for number in (1, 2, 3)] == [4, 5, 5]
    assert made.close() == tuple("abcde")


@pytest.mark.parametrize("what", ["nothing", "another's", "garbage"])
def test_a_block_that_is_not_shown_seals_nothing(wired: Make, what: str) -> None:
    """Refused by name; the site is back in the next round, when it is shown what it asked for."""
    made = wired(spot_checks=True)
    made.propose()
    made.round(1)
    blocks: dict[str, bytes] = {}

    def change(site: str, phase: str, parcel: Parcel) -> Parcel:
        blocks[phase + site] = parcel.vector
        lie = {"nothing": b"", "another's": parcel.vector[:-1] + b"x", "garbage": b"\0" * 99}[what]
        return replace(parcel, vector=lie) if (site, phase) == ("a", "roster") else parcel

    made.lines.before = change
    outcome = made.round(2)
    made.lines.before = lambda _site, _phase, parcel: parcel

    assert outcome.state.survivors == tuple("bcde")
    assert blocks["rostera"]
    refused = made.errors("a")
    assert "unproven_block" in refused or "wrong_sum" in refused
    assert ("a" in made.round(3).state.survivors) is ("unproven_block" in refused)


def test_a_site_asks_for_one_of_all_blocks_and_not_always(wired: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two checks for each five sites, about two in five ask; who does not ask is shown nothing."""
    monkeypatch.setattr(spot_check, "CHECKS", 2)
    made = wired(spot_checks=True)
    made.propose()
    shown: list[bool] = []

    def look(_site: str, phase: str, parcel: Parcel) -> Parcel:
        if phase == "roster" and number > 1:
            shown.append(bool(parcel.vector))
        return parcel

    made.lines.before = look
    for number in range(1, 14):
        made.round(number)

    assert len(shown) == 60
    assert 8 <= sum(shown) <= 42  # 24 expected; outside with probability below 1e-5
