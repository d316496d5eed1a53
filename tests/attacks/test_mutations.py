"""Delete each check in turn: the named attack must then go through, or its test proves nothing.

Every case takes one check out of the source of one module, puts the changed module in place, and runs the attack's
own test, which has to fail.
"""

import importlib.util
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from partsong.client.secure_sum import history, key_setup, masking, survivor_set
from partsong.client.secure_sum import protocol as secure_sum
from partsong.common.identity import charter, p384
from partsong.common.secure_sum import committee, messages, opening, result, transcript
from partsong.server.secure_sum import protocol as desk

HERE = Path(__file__).parent

# Checks with a second line right behind them are not listed: without the first one, the second one refuses.
# module, the check, what stands there without it, the test that has to fail.
CASES = [
    (messages, "if not signature_fits(key, signed.signature, digest", "if False and (key, digest", "set_up:test_a_substituted_key_is_refused"),
    (messages, "if not signature_fits(key, signed.signature, digest", "if False and (key, digest", "rosters:test_an_invented_site_is_refused"),
    (messages, "if not signature_fits(key, signed.signature, digest", "if False and (key, digest", "survivors:test_a_forged_confirmation_does_not_count"),
    (messages, "if not signature_fits(key, signed.signature, digest", "if False and (key, digest", "survivors:test_a_report_header_that_was_changed_is_refused"),
    (charter, "if not signature_fits(charter.coordinator_key, _unhex(signed.coordinator_signature), own):", "if False:", "charters:test_the_network_cannot_change_a_charter_without_the_coordinator"),
    (charter, "if set(signed.site_signatures) != listed:", "if False:", "charters:test_a_signature_of_a_site_that_is_not_listed_is_refused"),
    (charter, "if not signature_fits(charter.site_key(number), signature, _site_message(charter, site.id)):", "if False:", "charters:test_the_coordinator_cannot_sign_for_the_sites"),
    (charter, "if charter.site_key(charter.number_of(site_id)) != signer.public_key:", "if False:", "charters:test_a_site_does_not_sign_for_a_key_that_is_not_its_own"),
    (charter, "if not replaced <= set(new.revoked):", "if False:", "charters:test_a_site_s_key_is_not_exchanged_unseen_in_the_next_version"),
    (charter, "if new.version != pinned.version + 1 or new.previous != pinned.hash.hex():", "if False:", "charters:test_another_history_does_not_take_the_place_of_the_pinned_one"),
    (charter, "if new.consortium != pinned.consortium:", "if False:", "charters:test_a_charter_of_another_consortium_does_not_follow"),
    (charter, "if not set(pinned.revoked) <= set(new.revoked):", "if False:", "charters:test_a_revoked_key_does_not_come_back"),
    (charter, "if new.suite != pinned.suite:", "if False:", "charters:test_the_next_version_does_not_step_down_to_another_suite"),
    (key_setup, "if suite != charter.suite:", "if False:", "suites:test_a_site_of_another_suite_does_not_start"),
    (messages, "if found != suite:", "if False:", "suites:test_keys_of_another_suite_from_a_corrupt_site_are_refused_by_name"),
    (p384, "if s > ORDER // 2:", "if False:", "suites:test_a_mirrored_signature_is_no_second_message"),
    (secure_sum, "        history.require_unrevoked(survivors.sites, state=self._state)\n", "", "suites:test_a_site_revoked_within_a_round_is_in_no_sum"),
    (transcript, "if numbers != sorted(set(numbers)):", "if False:", "survivors:test_one_confirmation_many_times_is_one"),
    (transcript, "if numbers != sorted(set(numbers)):", "if False:", "rosters:test_a_site_counted_twice_is_refused"),
    (transcript, "if any(ready.header != expected or", "if any(", "rosters:test_different_models_for_different_sites_leave_noise"),
    (transcript, "if len(roster) < smallest:", "if False:", "rosters:test_a_small_roster_is_refused"),
    (transcript, "if right < needed:", "if False:", "results:test_a_forged_or_scaled_sum_is_found_out_by_every_site"),
    (transcript, "if survivors < smallest:", "if False:", "survivors:test_a_sum_of_too_few_is_not_confirmed"),
    (transcript, "if not all(right) or", "if", "survivors:test_confirmations_of_another_set_do_not_count"),
    (transcript, "if len(read) < needed:", "if False:", "survivors:test_equivocation_about_survivors_ends_at_the_quorum"),
    (transcript, "if len(read) < needed:", "if False:", "survivors:test_a_quorum_short_of_one_opens_nothing"),
    (secure_sum, "if not again and header.round <= self._state.round:", "if False:", "rosters:test_an_old_or_repeated_round_is_not_opened"),
    (secure_sum, "if self._clock() > header.deadline:", "if False:", "rosters:test_after_the_deadline_no_site_masks"),
    (secure_sum, "if unpack(Signed, self._state.reply) not in roster.readys:", "if False:", "rosters:test_a_roster_without_this_site_is_refused"),
    (secure_sum, "history.require_own_verdict(self._state)", "pass", "results:test_one_site_that_found_it_wrong_stays_out_even_if_the_others_go_on"),
    (secure_sum, "if survivors.hash != self._state.survivors:", "if False:", "survivors:test_a_site_confirms_one_survivor_set_only"),
    (secure_sum, "if self._state.report.body not in survivors.reports:", "if False:", "survivors:test_a_site_left_out_confirms_nothing"),
    (secure_sum, "if self._state.stage != stage:", "if False:", "rosters:test_different_rosters_for_different_sites_leave_noise"),
    (secure_sum, "        open_bundles(survivors, state=self._state, roster=self._roster())\n", "", "survivors:test_swapped_share_bundles_are_refused"),
    (secure_sum, "self._ratcheted(replace(state, stage=Stage.DONE), rounds=1)", "replace(state, stage=Stage.DONE)", "survivors:test_a_second_request_for_shares_gets_the_same_bytes"),
    (history, "if header.previous_round < state.result_round:", "if False:", "results:test_a_history_older_than_the_site_s_is_refused"),
    (history, "if header.previous != state.result:", "if False:", "results:test_another_result_for_a_round_that_was_checked_is_refused"),
    (history, "if same and result.survivors != state.survivors:", "if False:", "results:test_a_site_does_not_take_a_sum_over_others_than_it_confirmed"),
    (history, "if result.header.round < state.result_round:", "if False:", "results:test_a_run_is_not_closed_with_an_earlier_result"),
    (history, "if set(sites) & set(state.revoked):", "if False:", "rosters:test_a_revoked_site_enters_no_roster"),
    (history, "if not header.noised and 1 <=", "if False and", "rosters:test_without_noise_a_roster_that_differs_by_one_site_is_refused"),
    (history, "int(bool(state.verdict) and sum_fits(result, group_key=state.group_key))", "int(sum_fits(result, group_key=state.group_key))", "results:test_what_builds_on_a_result_found_wrong_is_wrong_as_well"),
    (secure_sum, "int(bool(known.verdict) and verdict(result))", "int(verdict(result) and bool(known.verdict))", "results:test_the_application_is_not_shown_a_sum_whose_tag_is_wrong"),
    (result, "return tag_fits(", "return True or tag_fits(", "results:test_a_site_that_missed_the_round_checks_its_sum_too"),
    (result, "!= (context, named, root_of(result.words)):", "!= (context, named, statement.sum):", "results:test_a_result_without_its_parts_is_dropped"),
    (key_setup, "if self._own_bundle not in signed:", "if False:", "set_up:test_a_set_up_of_few_or_without_this_site_is_refused"),
    (key_setup, "if any(bundle.begin != self._begin for bundle in self._bundles.values()):", "if False:", "set_up:test_a_bundle_of_another_set_up_is_refused"),
    (key_setup, 'digest("beacon nonce", self._begin, reveal.nonce) != committed', "False", "set_up:test_a_nonce_that_was_not_committed_to_is_refused"),
    (key_setup, "if reveal.group != self._group_hash:", "if False:", "set_up:test_two_group_keys_are_found_out"),
    (key_setup, "if attempts >= MOST_ATTEMPTS:", "if False:", "set_up:test_set_ups_that_do_not_finish_are_counted"),
    (key_setup, "if begin.charter != self._charter.hash:", "if False:", "set_up:test_begin_counts_only_with_the_coordinator_s_signature_and_the_pinned_charter"),
    (transcript, "if left < needed:", "if False:", "committee:test_a_roster_with_too_few_holders_is_refused_before_anything_is_masked"),
    (committee, "drawn = draw(setup, members, holders=size[0])", "drawn = draw(setup, tuple(roster), holders=size[0])", "committee:test_a_roster_of_the_corrupt_and_three_others_does_not_make_them_the_holders"),
    (survivor_set, " if state.site in run.holders(roster).sites else []", "", "committee:test_the_coordinator_cannot_make_a_site_a_holder"),
    (secure_sum, 'if not self._holds_shares():\n            raise Refused("no_shares"', 'if False:\n            raise Refused("no_shares"', "committee:test_the_coordinator_cannot_make_a_site_a_holder"),
    (opening, " and unmask.site in holders", "", "committee:test_shares_of_a_site_that_holds_none_are_dropped"),
    (opening, ' or not in_field(b"".join(unmask.shares))', "", "survivors:test_shares_that_are_no_shares_are_refused_on_both_sides"),
    (masking, " or not in_field(shares)", "", "survivors:test_shares_that_are_no_shares_are_refused_on_both_sides"),
    (desk, "if header.site not in self._reports:", "if True:", "garbage:test_a_site_that_reports_twice_is_counted_once"),
]  # fmt: skip


def replace_everywhere(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, check: str, without: str) -> None:
    """Put a changed copy of a module's functions and classes wherever the package uses them."""
    source = inspect.getsource(module)
    assert source.count(check) == 1, f"{check} occurs {source.count(check)} times in {module.__name__}"
    changed = types.ModuleType(module.__name__)
    changed.__file__ = module.__file__
    monkeypatch.setitem(sys.modules, module.__name__, changed)
    exec(compile(source.replace(check, without), str(module.__file__), "exec"), changed.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    functions = {name: value for name, value in own.items() if inspect.isfunction(value)}
    # Data classes stay what they are, so that values made before and after are equal.
    machines = {name: value for name, value in own.items() if name in ("SecureSumSite", "KeySetup", "SumRound")}
    for user in [m for n, m in list(sys.modules.items()) if n.startswith("partsong.")]:
        for name, value in list(vars(user).items()):
            for known, original in (functions | machines).items():
                if value is original:
                    monkeypatch.setattr(user, name, vars(changed)[known])
    for name in functions:
        vars(changed).update({n: v for n, v in own.items() if n not in functions and n not in machines})
        monkeypatch.setattr(module, name, vars(changed)[name])


def load(name: str) -> types.ModuleType:
    """Load a file of tests afresh, so that it sees what stands in the package now."""
    spec = importlib.util.spec_from_file_location(f"mutated_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs_of(test: object, lab: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a test with each of its parameters."""
    marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
    rows = marks[0].args[1] if marks else [None]
    given = marks[0].args[0] if marks else ()
    names = [n.strip() for n in given.split(",")] if isinstance(given, str) else list(given)
    for row in rows:
        values = dict(zip(names, row if len(names) > 1 else [row], strict=False)) if marks else {}
        wanted = inspect.signature(test).parameters
        fixtures = {"lab": lab, "monkeypatch": monkeypatch}
        test(**{n: values.get(n, fixtures.get(n)) for n in wanted})
        yield


def test_every_attack_passes_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way these tests are run here lets an unchanged one pass."""
    lab = load("conftest").Lab
    test = load("test_survivors").test_one_confirmation_many_times_is_one

    assert len(list(runs_of(test, lab, monkeypatch))) == 1


@pytest.mark.parametrize(
    ("module", "check", "without", "attack"),
    CASES,
    ids=[f"{c[3].split(':')[1][5:60]}-{n}" for n, c in enumerate(CASES)],
)
def test_without_the_check_the_attack_goes_through(
    monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, check: str, without: str, attack: str
) -> None:
    """The attack's test no longer sees the refusal that it asks for."""
    file, name = attack.split(":")
    replace_everywhere(monkeypatch, module, check, without)
    lab, test = load("conftest").Lab, getattr(load(f"test_{file}"), name)

    # An attack on the sum itself may end in the coordinator's own check of what it opened.
    with pytest.raises((pytest.fail.Exception, AssertionError, opening.SeedsDoNotFit)):
        list(runs_of(test, lab, monkeypatch))
