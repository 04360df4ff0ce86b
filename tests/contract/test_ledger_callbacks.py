"""What `CallbackLedger` promises: a coordinator comes when there is something to tell, and one at a time."""

from __future__ import annotations

from typing import Any

import pytest

from stagefleet.runs.models import Callback, ErrorInfo, RunState
from tests.contract.ledgers import LEASE_SECONDS, LedgerHarness, skip_of

BOOM = ErrorInfo(type="CallbackDeclinedError", message="410")
URL = "https://ci.example/outcomes"


def submit(harness: LedgerHarness, *items: str, **order: Any) -> str:
    harness.staff(4)
    return harness.submit(items, **{"callback": Callback.WEBHOOK, "callback_target": URL, **order})


def calls(harness: LedgerHarness) -> int:
    """How many messages to coordinators wait."""
    return sum(message.index < 0 for message in harness.messages())


def finish_one(harness: LedgerHarness) -> None:
    """Let the next item succeed; messages to coordinators are put aside."""
    aside = []
    while (message := harness.pop_message()) is not None:
        if message.index >= 0:
            claim = harness.ledger.claim(message.run_id, message.index, "host:1")
            assert claim is not None
            assert harness.succeed(claim)
            break
        aside.append(message)
    for message in aside:
        harness.push_message(message)


class TestCalling:
    def test_an_outcome_calls_a_coordinator_once(self, harness: LedgerHarness):
        submit(harness, "a", "b", "c")
        assert 0 == calls(harness)
        finish_one(harness)
        finish_one(harness)
        assert 1 == calls(harness)

    def test_a_run_that_nobody_is_called_back_for_calls_none(self, harness: LedgerHarness):
        submit(harness, "a", callback=Callback.NONE, callback_target="")
        finish_one(harness)
        assert 0 == calls(harness)

    def test_skips_call_one_when_the_run_starts(self, harness: LedgerHarness):
        harness.staff(4)
        harness.submit(["a"], [skip_of("b")], callback=Callback.WEBHOOK, callback_target=URL)
        assert 1 == calls(harness)

    def test_the_end_of_a_run_calls_one_where_only_the_end_is_told(self, harness: LedgerHarness):
        run_id = submit(harness, "a", "b", callback=Callback.NONE, callback_target="", finish_url=URL)
        finish_one(harness)
        assert 0 == calls(harness)
        finish_one(harness)
        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state
        assert 1 == calls(harness)

    def test_a_run_without_items_calls_one(self, harness: LedgerHarness):
        submit(harness, callback=Callback.NONE, callback_target="", finish_url=URL)
        assert 1 == calls(harness)


class TestCoordinations:
    def test_nobody_comes_uncalled(self, harness: LedgerHarness):
        assert harness.ledger.callbacks.claim(submit(harness, "a")) is None
        assert harness.ledger.callbacks.claim("nonsense") is None

    def test_one_comes_at_a_time(self, harness: LedgerHarness):
        run_id = submit(harness, "a", "b")
        finish_one(harness)
        assert harness.ledger.callbacks.claim(run_id) is not None
        assert harness.ledger.callbacks.claim(run_id) is None

    def test_what_comes_during_a_coordination_calls_nobody_but_is_not_forgotten(self, harness: LedgerHarness):
        run_id = submit(harness, "a", "b")
        finish_one(harness)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        outcomes = harness.outcomes(run_id)
        assert outcomes
        assert harness.ledger.acknowledge(run_id, coordinator_claim.epoch, outcomes)
        before = calls(harness)
        finish_one(harness)
        assert before == calls(harness)
        assert harness.ledger.callbacks.release(coordinator_claim)
        assert before + 1 == calls(harness)

    def test_who_leaves_nothing_behind_is_not_called_again(self, harness: LedgerHarness):
        run_id = submit(harness, "a", "b")
        finish_one(harness)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        outcomes = harness.outcomes(run_id)
        assert outcomes
        assert harness.ledger.acknowledge(run_id, coordinator_claim.epoch, outcomes)
        before = calls(harness)
        assert harness.ledger.callbacks.release(coordinator_claim)
        assert before == calls(harness)
        assert harness.ledger.callbacks.claim(run_id) is None
        harness.advance(2 * LEASE_SECONDS)
        harness.ledger.sweep()
        assert before == calls(harness)

    def test_a_coordination_ends_once(self, harness: LedgerHarness):
        run_id = submit(harness, "a", "b")
        finish_one(harness)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        assert harness.ledger.callbacks.release(coordinator_claim)
        assert not harness.ledger.callbacks.release(coordinator_claim)
        assert not harness.ledger.callbacks.pause(coordinator_claim, 1)
        assert not harness.ledger.callbacks.finish(coordinator_claim)

    def test_a_cancel_calls_one_out_of_its_pause(self, harness: LedgerHarness):
        """R7: a pause may last for a day."""
        run_id = submit(harness, "a", "b")
        finish_one(harness)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        assert harness.ledger.callbacks.pause(coordinator_claim, 10_000)
        before = calls(harness)
        assert harness.ledger.cancel(run_id)
        assert before + 1 == calls(harness)
        again = harness.ledger.callbacks.claim(run_id)
        assert again is not None
        assert 1 == again.failures

    def test_after_the_conclusion_nobody_is_called(self, harness: LedgerHarness):
        run_id = submit(harness, "a")
        finish_one(harness)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        assert harness.ledger.acknowledge(run_id, coordinator_claim.epoch, harness.outcomes(run_id) or [])
        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state
        assert harness.ledger.callbacks.finish(coordinator_claim)
        harness.drop_messages()
        harness.advance(2 * LEASE_SECONDS)
        harness.ledger.sweep()
        assert 0 == calls(harness)
        assert harness.ledger.callbacks.claim(run_id) is None


class TestLosses:
    def test_a_message_that_got_lost_is_sent_again(self, harness: LedgerHarness):
        run_id = submit(harness, "a")
        finish_one(harness)
        harness.drop_messages()
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()
        assert 1 == calls(harness)
        assert harness.ledger.callbacks.claim(run_id) is not None

    def test_a_coordinator_that_vanished_is_replaced_and_fenced_off(self, harness: LedgerHarness):
        run_id = submit(harness, "a")
        finish_one(harness)
        old = harness.ledger.callbacks.claim(run_id)
        assert old is not None
        harness.drop_messages()
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()
        assert 1 == calls(harness)
        new = harness.ledger.callbacks.claim(run_id)
        assert new is not None
        outcomes = harness.outcomes(run_id) or []
        assert not harness.ledger.acknowledge(run_id, old.epoch, outcomes)
        assert not harness.ledger.callbacks.release(old)
        assert harness.ledger.acknowledge(run_id, new.epoch, outcomes)

    def test_one_that_renews_its_lease_is_not_replaced(self, harness: LedgerHarness):
        run_id = submit(harness, "a")
        finish_one(harness)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        harness.drop_messages()
        for _ in range(3):
            harness.advance(LEASE_SECONDS - 1)
            assert harness.ledger.acknowledge(run_id, coordinator_claim.epoch, [])
            harness.ledger.sweep()
        assert 0 == calls(harness)


class TestRenewals:
    def test_a_coordination_that_is_renewed_lasts_as_long_as_its_calls(self, harness: LedgerHarness):
        """R10: while a receiver takes its time, no second coordinator is called."""
        run_id = submit(harness, "a")
        finish_one(harness)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        assert LEASE_SECONDS == coordinator_claim.lease_seconds
        harness.drop_messages()
        for _ in range(3):
            harness.advance(LEASE_SECONDS - 1)
            assert harness.ledger.callbacks.renew(coordinator_claim)
            harness.ledger.sweep()
        assert 0 == calls(harness)
        assert harness.ledger.callbacks.claim(run_id) is None

    def test_also_while_the_end_of_a_run_is_told(self, harness: LedgerHarness):
        """R10: the last call may be slow as well."""
        run_id = submit(harness, "a")
        finish_one(harness)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        assert harness.ledger.acknowledge(run_id, coordinator_claim.epoch, harness.outcomes(run_id) or [])
        assert harness.ledger.run(run_id).state.is_final
        harness.drop_messages()
        for _ in range(3):
            harness.advance(LEASE_SECONDS - 1)
            assert harness.ledger.callbacks.renew(coordinator_claim)
            harness.ledger.sweep()
        assert 0 == calls(harness)
        assert harness.ledger.callbacks.finish(coordinator_claim)

    def test_one_that_another_has_followed_or_that_is_over_is_not_renewed(self, harness: LedgerHarness):
        """R10: of two coordinators one goes on."""
        run_id = submit(harness, "a", "b")
        finish_one(harness)
        old = harness.ledger.callbacks.claim(run_id)
        assert old is not None
        harness.advance(LEASE_SECONDS + 1)
        new = harness.ledger.callbacks.claim(run_id)
        assert new is not None
        assert not harness.ledger.callbacks.renew(old)
        assert harness.ledger.callbacks.renew(new)
        assert harness.ledger.callbacks.release(new)
        assert not harness.ledger.callbacks.renew(new)


class TestPauses:
    def test_a_paused_run_is_left_alone_until_it_is_due(self, harness: LedgerHarness):
        run_id = submit(harness, "a", "b")
        finish_one(harness)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        assert harness.ledger.callbacks.pause(coordinator_claim, 5)
        harness.work_off()
        harness.ledger.sweep()
        assert 0 == calls(harness)
        assert harness.ledger.callbacks.claim(run_id) is None
        harness.advance(6)
        harness.ledger.sweep()
        assert 1 == calls(harness)
        assert harness.ledger.callbacks.claim(run_id) is not None

    def test_failures_are_counted_from_the_first_until_an_acknowledgement(self, harness: LedgerHarness):
        run_id = submit(harness, "a", "b")
        finish_one(harness)
        seen = []
        for _ in range(3):
            coordinator_claim = harness.ledger.callbacks.claim(run_id)
            assert coordinator_claim is not None
            seen.append((coordinator_claim.failures, round(coordinator_claim.failing_seconds)))
            assert harness.ledger.callbacks.pause(coordinator_claim, 5)
            harness.advance(5)
            harness.ledger.sweep()
        assert [(0, 0), (1, 5), (2, 10)] == seen
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        assert harness.ledger.acknowledge(run_id, coordinator_claim.epoch, harness.outcomes(run_id) or [])
        harness.work_off()
        assert harness.ledger.callbacks.release(coordinator_claim)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is None or (0, 0) == (
            coordinator_claim.failures,
            coordinator_claim.failing_seconds,
        )


class TestCancelling:
    @pytest.mark.parametrize("error", [None, BOOM])
    def test_a_cancelled_run_still_has_its_end_told(self, harness: LedgerHarness, error: ErrorInfo | None):
        run_id = submit(harness, "a", "b", "c", parallel=1)
        harness.ledger.cancel(run_id, error=error)
        assert RunState.CANCELLED is harness.ledger.run(run_id).state
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        assert harness.ledger.callbacks.finish(coordinator_claim)

    def test_a_coordinator_that_cancels_is_followed_by_one_that_tells_the_end(self, harness: LedgerHarness):
        run_id = submit(harness, "a", "b", parallel=1)
        finish_one(harness)
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        harness.drop_messages()
        assert harness.ledger.cancel(run_id, error=BOOM)
        assert RunState.CANCELLED is harness.ledger.run(run_id).state
        assert harness.ledger.callbacks.release(coordinator_claim)
        assert 1 == calls(harness)
        assert harness.ledger.callbacks.claim(run_id) is not None


class TestWindow:
    def test_outcomes_that_nobody_acknowledged_keep_the_window_full(self, harness: LedgerHarness):
        run_id = submit(harness, *"abcdefgh", parallel=2)
        assert 2 == harness.work_off()
        assert (2, 0) == (harness.ledger.run(run_id).succeeded, harness.ledger.run(run_id).published)

    def test_no_client_is_missed(self, harness: LedgerHarness):
        run_id = submit(harness, "a", "b")
        harness.advance(10 * LEASE_SECONDS)
        harness.ledger.sweep()
        assert RunState.RUNNING is harness.ledger.run(run_id).state


def test_a_run_is_found_by_its_key(harness: LedgerHarness):
    run_id = submit(harness, "a", key="nightly")
    assert run_id == harness.ledger.run_under("nightly")
    assert harness.ledger.run_under("daily") is None
