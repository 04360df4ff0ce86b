"""What `Switchboard` promises: a coordinator comes when there is something to tell, and one at a time."""

from __future__ import annotations

from typing import Any

import pytest

from stagefleet.runs.model import Callback, ErrorInfo, RunState
from tests.contract.twins import LEASE_SECONDS, Twin, skip_of

BOOM = ErrorInfo(type="CallbackGoneError", message="410")
URL = "https://ci.example/outcomes"


def submit(twin: Twin, *items: str, **order: Any) -> str:
    twin.staff(4)
    return twin.submit(items, **{"callback": Callback.WEBHOOK, "callback_target": URL, **order})


def calls(twin: Twin) -> int:
    """How many messages to coordinators wait."""
    return sum(message.index < 0 for message in twin.messages())


def finish_one(twin: Twin) -> None:
    """Let the next item succeed; messages to coordinators are put aside."""
    aside = []
    while (message := twin.pop_message()) is not None:
        if message.index >= 0:
            claim = twin.ledger.claim(message.run, message.index, "host:1")
            assert claim is not None
            assert twin.succeed(claim)
            break
        aside.append(message)
    for message in aside:
        twin.push_message(message)


class TestCalling:
    def test_an_outcome_calls_a_coordinator_once(self, twin: Twin):
        submit(twin, "a", "b", "c")
        assert 0 == calls(twin)
        finish_one(twin)
        finish_one(twin)
        assert 1 == calls(twin)

    def test_a_run_that_nobody_is_called_back_for_calls_none(self, twin: Twin):
        submit(twin, "a", callback=Callback.NONE, callback_target="")
        finish_one(twin)
        assert 0 == calls(twin)

    def test_skips_call_one_when_the_run_starts(self, twin: Twin):
        twin.staff(4)
        twin.submit(["a"], [skip_of("b")], callback=Callback.WEBHOOK, callback_target=URL)
        assert 1 == calls(twin)

    def test_the_end_of_a_run_calls_one_where_only_the_end_is_told(self, twin: Twin):
        run = submit(twin, "a", "b", callback=Callback.NONE, callback_target="", finish_url=URL)
        finish_one(twin)
        assert 0 == calls(twin)
        finish_one(twin)
        assert RunState.SUCCEEDED is twin.ledger.run(run).state
        assert 1 == calls(twin)

    def test_a_run_without_items_calls_one(self, twin: Twin):
        submit(twin, callback=Callback.NONE, callback_target="", finish_url=URL)
        assert 1 == calls(twin)


class TestVisits:
    def test_nobody_comes_uncalled(self, twin: Twin):
        assert twin.ledger.attend(submit(twin, "a")) is None
        assert twin.ledger.attend("nonsense") is None

    def test_one_comes_at_a_time(self, twin: Twin):
        run = submit(twin, "a", "b")
        finish_one(twin)
        assert twin.ledger.attend(run) is not None
        assert twin.ledger.attend(run) is None

    def test_what_comes_during_a_visit_calls_nobody_but_is_not_forgotten(self, twin: Twin):
        run = submit(twin, "a", "b")
        finish_one(twin)
        visit = twin.ledger.attend(run)
        assert visit is not None
        outcomes = twin.outcomes(run)
        assert outcomes
        assert twin.ledger.acknowledge(run, visit.epoch, outcomes)
        before = calls(twin)
        finish_one(twin)
        assert before == calls(twin)
        assert twin.ledger.leave(visit)
        assert before + 1 == calls(twin)

    def test_who_leaves_nothing_behind_is_not_called_again(self, twin: Twin):
        run = submit(twin, "a", "b")
        finish_one(twin)
        visit = twin.ledger.attend(run)
        assert visit is not None
        outcomes = twin.outcomes(run)
        assert outcomes
        assert twin.ledger.acknowledge(run, visit.epoch, outcomes)
        before = calls(twin)
        assert twin.ledger.leave(visit)
        assert before == calls(twin)
        assert twin.ledger.attend(run) is None
        twin.advance(2 * LEASE_SECONDS)
        twin.ledger.sweep()
        assert before == calls(twin)

    def test_a_visit_ends_once(self, twin: Twin):
        run = submit(twin, "a", "b")
        finish_one(twin)
        visit = twin.ledger.attend(run)
        assert visit is not None
        assert twin.ledger.leave(visit)
        assert not twin.ledger.leave(visit)
        assert not twin.ledger.pause(visit, 1)
        assert not twin.ledger.conclude(visit)

    def test_after_the_conclusion_nobody_is_called(self, twin: Twin):
        run = submit(twin, "a")
        finish_one(twin)
        visit = twin.ledger.attend(run)
        assert visit is not None
        assert twin.ledger.acknowledge(run, visit.epoch, twin.outcomes(run) or [])
        assert RunState.SUCCEEDED is twin.ledger.run(run).state
        assert twin.ledger.conclude(visit)
        twin.drop_messages()
        twin.advance(2 * LEASE_SECONDS)
        twin.ledger.sweep()
        assert 0 == calls(twin)
        assert twin.ledger.attend(run) is None


class TestLosses:
    def test_a_message_that_got_lost_is_sent_again(self, twin: Twin):
        run = submit(twin, "a")
        finish_one(twin)
        twin.drop_messages()
        twin.advance(LEASE_SECONDS + 1)
        twin.ledger.sweep()
        assert 1 == calls(twin)
        assert twin.ledger.attend(run) is not None

    def test_a_coordinator_that_vanished_is_replaced_and_fenced_off(self, twin: Twin):
        run = submit(twin, "a")
        finish_one(twin)
        old = twin.ledger.attend(run)
        assert old is not None
        twin.drop_messages()
        twin.advance(LEASE_SECONDS + 1)
        twin.ledger.sweep()
        assert 1 == calls(twin)
        new = twin.ledger.attend(run)
        assert new is not None
        outcomes = twin.outcomes(run) or []
        assert not twin.ledger.acknowledge(run, old.epoch, outcomes)
        assert not twin.ledger.leave(old)
        assert twin.ledger.acknowledge(run, new.epoch, outcomes)

    def test_one_that_renews_its_lease_is_not_replaced(self, twin: Twin):
        run = submit(twin, "a")
        finish_one(twin)
        visit = twin.ledger.attend(run)
        assert visit is not None
        twin.drop_messages()
        for _ in range(3):
            twin.advance(LEASE_SECONDS - 1)
            assert twin.ledger.acknowledge(run, visit.epoch, [])
            twin.ledger.sweep()
        assert 0 == calls(twin)


class TestRenewals:
    def test_a_visit_that_is_renewed_lasts_as_long_as_its_calls(self, twin: Twin):
        """R10: while a receiver takes its time, no second coordinator is called."""
        run = submit(twin, "a")
        finish_one(twin)
        visit = twin.ledger.attend(run)
        assert visit is not None
        assert LEASE_SECONDS == visit.lease_seconds
        twin.drop_messages()
        for _ in range(3):
            twin.advance(LEASE_SECONDS - 1)
            assert twin.ledger.renew_visit(visit)
            twin.ledger.sweep()
        assert 0 == calls(twin)
        assert twin.ledger.attend(run) is None

    def test_also_while_the_end_of_a_run_is_told(self, twin: Twin):
        """R10: the last call may be slow as well."""
        run = submit(twin, "a")
        finish_one(twin)
        visit = twin.ledger.attend(run)
        assert visit is not None
        assert twin.ledger.acknowledge(run, visit.epoch, twin.outcomes(run) or [])
        assert twin.ledger.run(run).state.is_final
        twin.drop_messages()
        for _ in range(3):
            twin.advance(LEASE_SECONDS - 1)
            assert twin.ledger.renew_visit(visit)
            twin.ledger.sweep()
        assert 0 == calls(twin)
        assert twin.ledger.conclude(visit)

    def test_one_that_another_has_followed_or_that_is_over_is_not_renewed(self, twin: Twin):
        """R10: of two coordinators one goes on."""
        run = submit(twin, "a", "b")
        finish_one(twin)
        old = twin.ledger.attend(run)
        assert old is not None
        twin.advance(LEASE_SECONDS + 1)
        new = twin.ledger.attend(run)
        assert new is not None
        assert not twin.ledger.renew_visit(old)
        assert twin.ledger.renew_visit(new)
        assert twin.ledger.leave(new)
        assert not twin.ledger.renew_visit(new)


class TestPauses:
    def test_a_paused_run_is_left_alone_until_it_is_due(self, twin: Twin):
        run = submit(twin, "a", "b")
        finish_one(twin)
        visit = twin.ledger.attend(run)
        assert visit is not None
        assert twin.ledger.pause(visit, 5)
        twin.work_off()
        twin.ledger.sweep()
        assert 0 == calls(twin)
        assert twin.ledger.attend(run) is None
        twin.advance(6)
        twin.ledger.sweep()
        assert 1 == calls(twin)
        assert twin.ledger.attend(run) is not None

    def test_failures_are_counted_from_the_first_until_an_acknowledgement(self, twin: Twin):
        run = submit(twin, "a", "b")
        finish_one(twin)
        seen = []
        for _ in range(3):
            visit = twin.ledger.attend(run)
            assert visit is not None
            seen.append((visit.failures, round(visit.failing_seconds)))
            assert twin.ledger.pause(visit, 5)
            twin.advance(5)
            twin.ledger.sweep()
        assert [(0, 0), (1, 5), (2, 10)] == seen
        visit = twin.ledger.attend(run)
        assert visit is not None
        assert twin.ledger.acknowledge(run, visit.epoch, twin.outcomes(run) or [])
        twin.work_off()
        assert twin.ledger.leave(visit)
        visit = twin.ledger.attend(run)
        assert visit is None or (0, 0) == (visit.failures, visit.failing_seconds)


class TestCancelling:
    @pytest.mark.parametrize("error", [None, BOOM])
    def test_a_cancelled_run_still_has_its_end_told(self, twin: Twin, error: ErrorInfo | None):
        run = submit(twin, "a", "b", "c", parallel=1)
        twin.ledger.cancel(run, error=error)
        assert RunState.CANCELLED is twin.ledger.run(run).state
        visit = twin.ledger.attend(run)
        assert visit is not None
        assert twin.ledger.conclude(visit)

    def test_a_coordinator_that_cancels_is_followed_by_one_that_tells_the_end(self, twin: Twin):
        run = submit(twin, "a", "b", parallel=1)
        finish_one(twin)
        visit = twin.ledger.attend(run)
        assert visit is not None
        twin.drop_messages()
        assert twin.ledger.cancel(run, error=BOOM)
        assert RunState.CANCELLED is twin.ledger.run(run).state
        assert twin.ledger.leave(visit)
        assert 1 == calls(twin)
        assert twin.ledger.attend(run) is not None


class TestWindow:
    def test_outcomes_that_nobody_acknowledged_keep_the_window_full(self, twin: Twin):
        run = submit(twin, *"abcdefgh", parallel=2)
        assert 2 == twin.work_off()
        assert (2, 0) == (twin.ledger.run(run).succeeded, twin.ledger.run(run).published)

    def test_no_client_is_missed(self, twin: Twin):
        run = submit(twin, "a", "b")
        twin.advance(10 * LEASE_SECONDS)
        twin.ledger.sweep()
        assert RunState.RUNNING is twin.ledger.run(run).state


def test_a_run_is_found_by_its_key(twin: Twin):
    run = submit(twin, "a", key="nightly")
    assert run == twin.ledger.run_under("nightly")
    assert twin.ledger.run_under("daily") is None
