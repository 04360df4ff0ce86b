"""What `Workbench` promises."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagefleet.runs.ledger import Renewal
from stagefleet.runs.model import Callback, Claim, ItemState, Order, Outcome, RunState
from tests.contract.twins import LEASE_SECONDS, REPUBLISH_SECONDS, Twin, outcome_of


def test_the_order_of_a_run_is_what_was_opened(twin: Twin):
    order = Order(
        operation="copy_stage", options={"source": "a/b", "verify": True}, parallel=3, max_attempts=2
    )
    run = twin.ledger.open(order).run

    assert order == twin.ledger.order(run)
    assert None is twin.ledger.order("nowhere")


class TestClaim:
    def test_it_gives_a_published_item_with_a_lease(self, twin: Twin):
        run = twin.submit(["a"])
        before = time.monotonic()
        claim = twin.take()
        after = time.monotonic()

        assert (run, 0, "a", 1) == (claim.run, claim.index, claim.item, claim.attempt)
        assert before <= claim.claimed_at <= after
        assert LEASE_SECONDS == round(claim.lease_until - claim.claimed_at, 6)
        found = twin.ledger.run(run)
        assert (1, 0) == (found.claimed, found.published)

    def test_a_doubled_message_finds_nothing(self, twin: Twin):
        run = twin.submit(["a", "b"])
        claim = twin.take()

        assert None is twin.ledger.claim(run, 0, "host:2")
        twin.succeed(claim)
        assert None is twin.ledger.claim(run, 0, "host:2")

    def test_an_item_not_released_cannot_be_claimed(self, twin: Twin):
        run = twin.submit(["a", "b"], parallel=1)

        assert None is twin.ledger.claim(run, 1, "host:1")
        assert None is twin.ledger.claim(run, 7, "host:1")
        assert None is twin.ledger.claim("nowhere", 0, "host:1")

    def test_an_item_that_waits_for_a_retry_cannot_be_claimed(self, twin: Twin):
        run = twin.submit(["a"])
        twin.fail(twin.take(), retry_after_seconds=5)

        assert None is twin.ledger.claim(run, 0, "host:1")

    def test_a_cancelled_run_gives_nothing(self, twin: Twin):
        twin.staff(4)
        run = twin.submit(["a", "b"])
        claim = twin.take()
        twin.ledger.cancel(run)

        assert None is twin.ledger.claim(run, 1, "host:1")
        twin.succeed(claim)
        assert None is twin.ledger.claim(run, 1, "host:1")

    def test_a_submitting_run_gives_nothing(self, twin: Twin):
        submission = twin.open()
        twin.ledger.append(submission, ["a"])

        assert None is twin.ledger.claim(submission.run, 0, "host:1")

    def test_of_many_who_ask_at_once_one_gets_it(self, twin: Twin):
        run = twin.submit(["a"])
        barrier = threading.Barrier(8)

        def ask(number: int) -> Claim | None:
            barrier.wait(timeout=30)
            return twin.ledger.claim(run, 0, f"host:{number}")

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))

        assert 1 == sum(answer is not None for answer in answers)

    def test_fences_of_a_run_only_grow(self, twin: Twin):
        twin.staff(4)
        twin.submit(["a", "b", "c"])
        fences = []
        for _ in range(3):
            claim = twin.take()
            fences.append(claim.fence)
            twin.fail(claim, retry_after_seconds=0)
        twin.ledger.sweep()
        fences += [twin.take().fence for _ in range(3)]

        assert sorted(set(fences)) == fences


class TestRenewal:
    def test_it_extends_the_lease_to_a_full_one(self, twin: Twin):
        twin.submit(["a"])
        claim = twin.take()
        for _ in range(3):
            twin.advance(LEASE_SECONDS / 2)
            assert [Renewal.RUN] == twin.ledger.renew([claim])
            assert 0 == twin.ledger.sweep()
        twin.advance(LEASE_SECONDS + 1)
        assert 1 == twin.ledger.sweep()
        assert [Renewal.LOST] == twin.ledger.renew([claim])

    def test_it_answers_for_each_claim_in_order(self, twin: Twin):
        twin.staff(4)
        twin.submit(["a", "b"])
        first, second = twin.take(), twin.take()
        twin.succeed(first)

        assert [Renewal.LOST, Renewal.RUN] == twin.ledger.renew([first, second])
        assert [] == twin.ledger.renew([])

    def test_a_cancellation_lets_go_on_what_runs_unless_it_is_now(self, twin: Twin):
        run = twin.submit(["a"])
        claim = twin.take()
        twin.ledger.cancel(run)
        assert [Renewal.RUN] == twin.ledger.renew([claim])
        twin.ledger.cancel(run, now=True)
        assert [Renewal.CANCEL] == twin.ledger.renew([claim])

    def test_a_claim_that_somebody_else_has_now_is_lost(self, twin: Twin):
        twin.submit(["a"])
        old = twin.take()
        twin.advance(LEASE_SECONDS + 1)
        twin.ledger.sweep()
        new = twin.take("host:2")

        assert [Renewal.LOST, Renewal.RUN] == twin.ledger.renew([old, new])


class TestFinish:
    def test_it_records_the_outcome_and_counts_it(self, twin: Twin):
        run = twin.submit(["a"])
        claim = twin.take()
        outcome = Outcome(
            item="a",
            state=ItemState.SUCCEEDED,
            result={"stage_id": "é" * 300},
            seconds=1.5,
            bytes=10,
            attempts=99,
        )
        assert twin.ledger.finish(claim, outcome)

        recorded = twin.outcomes(run)
        assert recorded is not None
        assert [outcome.model_copy(update={"attempts": 1})] == [
            found.model_copy(update={"position": ""}) for found in recorded
        ]
        ended = twin.ledger.run(run)
        assert (RunState.SUCCEEDED, 1, 10) == (ended.state, ended.succeeded, ended.bytes)

    def test_only_the_first_of_two_finishes_counts(self, twin: Twin):
        twin.staff(4)
        run = twin.submit(["a", "b"])
        claim = twin.take()
        assert twin.succeed(claim)
        assert not twin.fail(claim)

        assert (1, 0) == ((found := twin.ledger.run(run)).succeeded, found.failed)

    def test_a_stale_one_changes_nothing(self, twin: Twin):
        run = twin.submit(["a"])
        zombie = twin.take()
        twin.advance(LEASE_SECONDS + 1)
        twin.ledger.sweep()
        assert not twin.succeed(zombie)
        heir = twin.take("host:2")
        assert not twin.fail(zombie)
        assert twin.succeed(heir)

        recorded = twin.outcomes(run)
        assert recorded is not None
        assert [(ItemState.SUCCEEDED, 2)] == [(found.state, found.attempts) for found in recorded]

    def test_a_late_one_counts_while_nobody_else_took_the_item(self, twin: Twin):
        run = twin.submit(["a"])
        claim = twin.take()
        twin.advance(LEASE_SECONDS + 1)

        assert twin.succeed(claim)
        assert 1 == twin.ledger.run(run).succeeded

    def test_one_failure_makes_the_run_failed_when_all_is_done(self, twin: Twin):
        run = twin.submit(["a", "b"], parallel=1)
        twin.fail(twin.take())
        assert RunState.RUNNING is twin.ledger.run(run).state
        twin.succeed(twin.take())

        assert RunState.FAILED is twin.ledger.run(run).state

    def test_a_finish_frees_the_place_and_publishes_the_next(self, twin: Twin):
        twin.staff(4)
        twin.submit(["a", "b", "c"], parallel=2)
        claim = twin.take()
        twin.drop_messages()
        twin.succeed(claim)

        assert [2] == twin.indexes()

    def test_a_claim_on_a_run_that_has_ended_is_stale(self, twin: Twin):
        run = twin.submit(["a"])
        claim = twin.take()
        twin.succeed(claim)

        assert RunState.SUCCEEDED is twin.ledger.run(run).state
        assert not twin.succeed(claim)
        assert not twin.ledger.hand_back(claim)
        assert [Renewal.LOST] == twin.ledger.renew([claim])


class TestRetry:
    def test_a_failure_waits_and_leaves_the_window(self, twin: Twin):
        run = twin.submit(["a", "b"], parallel=1)
        claim = twin.take()
        assert twin.fail(claim, retry_after_seconds=5)

        found = twin.ledger.run(run)
        assert (1, 1, 0, 0) == (found.waiting, found.published, found.claimed, found.failed)
        assert [1] == twin.indexes()
        assert [] == twin.outcomes(run)

    def test_it_is_published_when_due(self, twin: Twin):
        twin.submit(["a"])
        twin.fail(twin.take(), retry_after_seconds=20)
        twin.advance(10)
        twin.ledger.sweep()
        assert [] == twin.messages()
        twin.advance(11)
        twin.ledger.sweep()
        assert [0] == twin.indexes()

        assert 2 == twin.take().attempt

    def test_attempts_are_bounded(self, twin: Twin):
        run = twin.submit(["a"], max_attempts=2)
        twin.fail(twin.take(), retry_after_seconds=0)
        twin.ledger.sweep()
        twin.fail(twin.take(), retry_after_seconds=0)

        recorded = twin.outcomes(run)
        assert recorded is not None
        assert [(ItemState.FAILED, 2)] == [(found.state, found.attempts) for found in recorded]
        assert RunState.FAILED is twin.ledger.run(run).state

    def test_a_success_is_final_whatever_the_caller_says_of_retries(self, twin: Twin):
        run = twin.submit(["a"])
        claim = twin.take()
        twin.ledger.finish(claim, outcome_of(claim, ItemState.SUCCEEDED), retry_after_seconds=5)

        assert 1 == twin.ledger.run(run).succeeded

    def test_a_failure_in_a_cancelling_run_is_final(self, twin: Twin):
        run = twin.submit(["a"])
        claim = twin.take()
        twin.ledger.cancel(run)
        twin.fail(claim, retry_after_seconds=1)

        found = twin.ledger.run(run)
        assert (RunState.CANCELLED, 1, 0) == (found.state, found.failed, found.cancelled)

    def test_what_waits_takes_no_place_from_its_window_when_it_returns(self, twin: Twin):
        twin.staff(10)
        run = twin.submit(["a", "b", "c", "d"], parallel=2)
        first, second = twin.take(), twin.take()
        twin.fail(first, retry_after_seconds=1)
        twin.fail(second, retry_after_seconds=1)
        twin.advance(2)
        twin.ledger.sweep()

        found = twin.ledger.run(run)
        assert (2, 2) == (found.published, found.waiting)


class TestHandBack:
    def test_it_publishes_the_item_again_and_forgets_the_attempt(self, twin: Twin):
        run = twin.submit(["a"])
        claim = twin.take()
        assert twin.ledger.hand_back(claim)
        assert not twin.ledger.hand_back(claim)
        assert not twin.succeed(claim)

        assert 1 == twin.ledger.run(run).published
        again = twin.take()
        assert 1 == again.attempt
        assert again.fence > claim.fence

    def test_in_a_cancelling_run_it_cancels_the_item(self, twin: Twin):
        run = twin.submit(["a"])
        claim = twin.take()
        twin.ledger.cancel(run)
        assert twin.ledger.hand_back(claim)

        found = twin.ledger.run(run)
        assert (RunState.CANCELLED, 1) == (found.state, found.cancelled)
        assert None is twin.outcomes(run)
        assert ["a"] == list(twin.ledger.leftovers(run))


class TestWaitBehindAnother:
    def test_it_waits_outside_the_window_until_the_other_has_ended(self, twin: Twin):
        """R25: an item that waits for another holds no place, uses up no attempt, and is due at its end."""
        twin.staff(4)
        run = twin.submit(["member", "index", "more"], parallel=2)
        member, index = twin.take(), twin.take()
        assert twin.ledger.hand_back(member, behind=index.index)
        found = twin.ledger.run(run)
        assert (1, 1, 1) == (found.claimed, found.published, found.waiting)
        assert [2] == twin.indexes()
        twin.advance(3 * LEASE_SECONDS / 4)
        assert 0 == twin.ledger.sweep()
        assert [2] == twin.indexes()

        twin.succeed(index)
        assert [2, 0] == twin.indexes()
        twin.succeed(twin.take())
        again = twin.take()
        assert ("member", 1) == (again.item, again.attempt)
        twin.succeed(again)
        assert RunState.SUCCEEDED is twin.ledger.run(run).state

    @pytest.mark.parametrize("end", ["failed", "lost", "retried"])
    def test_it_goes_on_however_the_other_ends(self, twin: Twin, end: str):
        """R25: waiting ends with the other item: failed, its worker lost, or tried again and done."""
        twin.staff(4)
        run = twin.submit(["member", "index"], max_attempts=2 if end == "retried" else 1)
        member, index = twin.take(), twin.take()
        twin.ledger.hand_back(member, behind=index.index)
        if end == "lost":
            twin.advance(LEASE_SECONDS + 1)
            twin.ledger.sweep()
        else:
            twin.fail(index, retry_after_seconds=0)
        if end == "retried":
            twin.ledger.sweep()
            assert [1] == twin.indexes()
            twin.succeed(twin.take())

        assert [0] == twin.indexes()
        expected = ItemState.SUCCEEDED if end == "retried" else ItemState.FAILED
        assert [expected] == twin.ledger.standings(run, [1])

    def test_one_that_has_ended_is_not_waited_for(self, twin: Twin):
        twin.staff(4)
        twin.submit(["member", "index"])
        member, index = twin.take(), twin.take()
        twin.succeed(index)
        twin.ledger.hand_back(member, behind=index.index)
        assert [0] == twin.indexes()

    def test_items_that_would_wait_for_one_another_do_not(self, twin: Twin):
        """R25: no ring of items waits for ever."""
        twin.staff(6)
        twin.submit(["a", "b", "c"])
        claims = [twin.take() for _ in range(3)]
        for claim in claims:
            twin.ledger.hand_back(claim, behind=(claim.index + 1) % 3)
        assert [2] == twin.indexes()
        twin.succeed(twin.take())
        assert [1] == twin.indexes()

    def test_a_cancel_ends_the_wait(self, twin: Twin):
        """R25: what waits for another item is cancelled with the run."""
        twin.staff(4)
        run = twin.submit(["member", "index"])
        member, index = twin.take(), twin.take()
        twin.ledger.hand_back(member, behind=index.index)
        twin.ledger.cancel(run)
        twin.succeed(index)

        found = twin.ledger.run(run)
        assert (RunState.CANCELLED, 1, 1) == (found.state, found.succeeded, found.cancelled)

    def test_how_items_stand(self, twin: Twin):
        """R25: whoever waits learns of each item of the run how it ended."""
        twin.staff(8)
        run = twin.submit(["a", "b", "c", "d"])
        done, failed, under_way, pending = (twin.take() for _ in range(4))
        twin.succeed(done)
        twin.fail(failed)
        twin.ledger.hand_back(pending)

        standings = [ItemState.SUCCEEDED, ItemState.FAILED, None, None]
        assert standings == twin.ledger.standings(run, range(4))
        assert [(1, "b"), (2, "c"), (3, "d")] == list(twin.ledger.numbered_leftovers(run))
        twin.ledger.cancel(run)
        assert [ItemState.CANCELLED, None] == twin.ledger.standings(run, [3, 2])
        twin.succeed(under_way)
        assert [ItemState.SUCCEEDED] == twin.ledger.standings(run, [2])


class TestSweep:
    def test_it_finds_nothing_where_all_is_well(self, twin: Twin):
        twin.staff(4)
        twin.submit(["a", "b", "c"], parallel=2)
        twin.take()

        assert 0 == twin.ledger.sweep()
        assert [1] == twin.indexes()

    def test_an_expired_lease_returns_the_item(self, twin: Twin):
        run = twin.submit(["a"])
        first = twin.take()
        twin.advance(LEASE_SECONDS + 1)
        assert 1 == twin.ledger.sweep()

        found = twin.ledger.run(run)
        assert (1, 0) == (found.published, found.claimed)
        second = twin.take()
        assert 2 == second.attempt
        assert second.fence > first.fence

    def test_a_poison_item_fails_once_its_attempts_are_used_up(self, twin: Twin):
        run = twin.submit(["a"], max_attempts=3)
        for _ in range(3):
            twin.take()
            twin.advance(LEASE_SECONDS + 1)
            twin.ledger.sweep()

        assert RunState.FAILED is twin.ledger.run(run).state
        recorded = twin.outcomes(run)
        assert recorded
        assert ("a", ItemState.FAILED, 3) == (recorded[0].item, recorded[0].state, recorded[0].attempts)
        assert recorded[0].error is not None
        assert "WorkerLostError" == recorded[0].error.type

    def test_a_poison_item_with_a_callback_holds_its_place_until_acknowledged(self, twin: Twin):
        run, epoch = twin.watch(["a", "b"], max_attempts=1, parallel=1)
        twin.take()
        for _ in range(2):
            twin.advance(LEASE_SECONDS * 0.6)
            assert twin.ledger.acknowledge(run, epoch, [])
        twin.ledger.sweep()
        assert [] == twin.messages()
        recorded = twin.outcomes(run)
        assert recorded
        twin.ledger.acknowledge(run, epoch, recorded)

        assert [1] == twin.indexes()

    def test_an_expired_lease_in_a_cancelling_run_cancels_the_item(self, twin: Twin):
        run = twin.submit(["a"])
        twin.take()
        twin.ledger.cancel(run)
        twin.advance(LEASE_SECONDS + 1)
        twin.ledger.sweep()

        found = twin.ledger.run(run)
        assert (RunState.CANCELLED, 1, 0) == (found.state, found.cancelled, found.failed)
        assert None is twin.outcomes(run)

    def test_a_backlog_is_no_loss(self, twin: Twin):
        twin.staff(4)
        twin.submit(["a", "b", "c"])
        twin.advance(REPUBLISH_SECONDS * 5)

        assert 0 == twin.ledger.sweep()
        assert [0, 1, 2] == twin.indexes()

    def test_an_empty_queue_is_a_loss_once_it_is_old(self, twin: Twin):
        twin.staff(4)
        twin.submit(["a", "b"])
        twin.drop_messages()
        twin.advance(REPUBLISH_SECONDS / 2)
        assert 0 == twin.ledger.sweep()
        twin.advance(REPUBLISH_SECONDS / 2 + 1)
        assert 2 == twin.ledger.sweep()

        assert [0, 1] == sorted(twin.indexes())
        assert 0 == twin.ledger.sweep()

    def test_an_overtaken_message_is_a_loss_once_it_is_old(self, twin: Twin):
        twin.staff(1)
        twin.submit(["a", "b", "c", "d", "e"])
        assert [0, 1] == twin.indexes()
        twin.pop_message()
        twin.advance(1)
        twin.succeed(twin.take())  # releases c, a second after a
        claim = twin.take()
        assert "c" == claim.item
        twin.succeed(claim)  # a has been overtaken
        assert [] != twin.messages()
        twin.advance(REPUBLISH_SECONDS)
        twin.ledger.sweep()

        assert 0 in twin.indexes()

    def test_a_run_whose_client_vanished_is_cancelled(self, twin: Twin):
        twin.staff(4)
        run, _ = twin.watch(["a", "b", "c"], parallel=2)
        claim = twin.take()
        twin.succeed(claim)
        held = twin.take()
        twin.advance(LEASE_SECONDS + 1)
        twin.ledger.renew([held])
        twin.ledger.sweep()
        found = twin.ledger.run(run)
        assert RunState.CANCELLING is found.state
        assert found.error is not None
        assert "CoordinatorLostError" == found.error.type
        twin.succeed(held)

        ended = twin.ledger.run(run)
        assert (RunState.CANCELLED, 2, 1) == (ended.state, ended.succeeded, ended.cancelled)

    def test_a_cancelled_run_whose_client_vanished_ends(self, twin: Twin):
        run, _ = twin.watch(["a", "b"])
        twin.succeed(twin.take())
        twin.ledger.cancel(run)
        assert RunState.CANCELLING is twin.ledger.run(run).state
        twin.advance(LEASE_SECONDS + 1)
        twin.ledger.sweep()

        assert RunState.CANCELLED is twin.ledger.run(run).state

    def test_a_run_without_callback_needs_no_client(self, twin: Twin):
        run = twin.submit(["a"], callback=Callback.NONE)
        twin.advance(LEASE_SECONDS * 3)
        twin.ledger.sweep()

        assert RunState.RUNNING is twin.ledger.run(run).state
