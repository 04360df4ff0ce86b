"""What `WorkerLedger` promises."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagefleet.runs.ledger import Claim, RenewalResult
from stagefleet.runs.models import Callback, ItemState, Outcome, RunSpec, RunState
from tests.contract.ledgers import LEASE_SECONDS, REPUBLISH_SECONDS, LedgerHarness, outcome_of


def test_the_spec_of_a_run_is_what_was_opened(harness: LedgerHarness):
    spec = RunSpec(
        operation="copy_stage", options={"source": "a/b", "verify": True}, parallel=3, max_attempts=2
    )
    run_id = harness.ledger.open(spec).run_id

    assert spec == harness.ledger.spec(run_id)
    assert None is harness.ledger.spec("nowhere")


class TestClaim:
    def test_it_gives_a_published_item_with_a_lease(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        before = time.monotonic()
        claim = harness.take()
        after = time.monotonic()

        assert (run_id, 0, "a", 1) == (claim.run_id, claim.index, claim.item, claim.attempt)
        assert before <= claim.claimed_at <= after
        assert LEASE_SECONDS == round(claim.lease_until - claim.claimed_at, 6)
        found = harness.ledger.run(run_id)
        assert (1, 0) == (found.claimed, found.published)

    def test_a_doubled_message_finds_nothing(self, harness: LedgerHarness):
        run_id = harness.submit(["a", "b"])
        claim = harness.take()

        assert None is harness.ledger.claim(run_id, 0, "host:2")
        harness.succeed(claim)
        assert None is harness.ledger.claim(run_id, 0, "host:2")

    def test_an_item_not_released_cannot_be_claimed(self, harness: LedgerHarness):
        run_id = harness.submit(["a", "b"], parallel=1)

        assert None is harness.ledger.claim(run_id, 1, "host:1")
        assert None is harness.ledger.claim(run_id, 7, "host:1")
        assert None is harness.ledger.claim("nowhere", 0, "host:1")

    def test_an_item_that_waits_for_a_retry_cannot_be_claimed(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        harness.fail(harness.take(), retry_after_seconds=5)

        assert None is harness.ledger.claim(run_id, 0, "host:1")

    def test_a_cancelled_run_gives_nothing(self, harness: LedgerHarness):
        harness.staff(4)
        run_id = harness.submit(["a", "b"])
        claim = harness.take()
        harness.ledger.cancel(run_id)

        assert None is harness.ledger.claim(run_id, 1, "host:1")
        harness.succeed(claim)
        assert None is harness.ledger.claim(run_id, 1, "host:1")

    def test_a_submitting_run_gives_nothing(self, harness: LedgerHarness):
        submission = harness.open()
        harness.ledger.append(submission, ["a"])

        assert None is harness.ledger.claim(submission.run_id, 0, "host:1")

    def test_of_many_who_ask_at_once_one_gets_it(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        barrier = threading.Barrier(8)

        def ask(number: int) -> Claim | None:
            barrier.wait(timeout=30)
            return harness.ledger.claim(run_id, 0, f"host:{number}")

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))

        assert 1 == sum(answer is not None for answer in answers)

    def test_fences_of_a_run_only_grow(self, harness: LedgerHarness):
        harness.staff(4)
        harness.submit(["a", "b", "c"])
        fences = []
        for _ in range(3):
            claim = harness.take()
            fences.append(claim.fence)
            harness.fail(claim, retry_after_seconds=0)
        harness.ledger.sweep()
        fences += [harness.take().fence for _ in range(3)]

        assert sorted(set(fences)) == fences


class TestRenewal:
    def test_it_extends_the_lease_to_a_full_one(self, harness: LedgerHarness):
        harness.submit(["a"])
        claim = harness.take()
        for _ in range(3):
            harness.advance(LEASE_SECONDS / 2)
            assert [RenewalResult.RUN] == harness.ledger.renew([claim])
            assert 0 == harness.ledger.sweep()
        harness.advance(LEASE_SECONDS + 1)
        assert 1 == harness.ledger.sweep()
        assert [RenewalResult.LOST] == harness.ledger.renew([claim])

    def test_it_answers_for_each_claim_in_order(self, harness: LedgerHarness):
        harness.staff(4)
        harness.submit(["a", "b"])
        first, second = harness.take(), harness.take()
        harness.succeed(first)

        assert [RenewalResult.LOST, RenewalResult.RUN] == harness.ledger.renew([first, second])
        assert [] == harness.ledger.renew([])

    def test_a_cancellation_lets_go_on_what_runs_unless_it_is_now(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        claim = harness.take()
        harness.ledger.cancel(run_id)
        assert [RenewalResult.RUN] == harness.ledger.renew([claim])
        harness.ledger.cancel(run_id, now=True)
        assert [RenewalResult.CANCEL] == harness.ledger.renew([claim])

    def test_a_claim_that_somebody_else_has_now_is_lost(self, harness: LedgerHarness):
        harness.submit(["a"])
        old = harness.take()
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()
        new = harness.take("host:2")

        assert [RenewalResult.LOST, RenewalResult.RUN] == harness.ledger.renew([old, new])


class TestFinish:
    def test_it_records_the_outcome_and_counts_it(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        claim = harness.take()
        outcome = Outcome(
            item="a",
            state=ItemState.SUCCEEDED,
            result={"stage_id": "é" * 300},
            seconds=1.5,
            bytes=10,
            attempts=99,
        )
        assert harness.ledger.finish(claim, outcome)

        recorded = harness.outcomes(run_id)
        assert recorded is not None
        assert [outcome.model_copy(update={"attempts": 1})] == [
            found.model_copy(update={"position": ""}) for found in recorded
        ]
        ended = harness.ledger.run(run_id)
        assert (RunState.SUCCEEDED, 1, 10) == (ended.state, ended.succeeded, ended.bytes)

    def test_only_the_first_of_two_finishes_counts(self, harness: LedgerHarness):
        harness.staff(4)
        run_id = harness.submit(["a", "b"])
        claim = harness.take()
        assert harness.succeed(claim)
        assert not harness.fail(claim)

        assert (1, 0) == ((found := harness.ledger.run(run_id)).succeeded, found.failed)

    def test_a_stale_one_changes_nothing(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        zombie = harness.take()
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()
        assert not harness.succeed(zombie)
        heir = harness.take("host:2")
        assert not harness.fail(zombie)
        assert harness.succeed(heir)

        recorded = harness.outcomes(run_id)
        assert recorded is not None
        assert [(ItemState.SUCCEEDED, 2)] == [(found.state, found.attempts) for found in recorded]

    def test_a_late_one_counts_while_nobody_else_took_the_item(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        claim = harness.take()
        harness.advance(LEASE_SECONDS + 1)

        assert harness.succeed(claim)
        assert 1 == harness.ledger.run(run_id).succeeded

    def test_one_failure_makes_the_run_failed_when_all_is_done(self, harness: LedgerHarness):
        run_id = harness.submit(["a", "b"], parallel=1)
        harness.fail(harness.take())
        assert RunState.RUNNING is harness.ledger.run(run_id).state
        harness.succeed(harness.take())

        assert RunState.FAILED is harness.ledger.run(run_id).state

    def test_a_finish_frees_the_place_and_publishes_the_next(self, harness: LedgerHarness):
        harness.staff(4)
        harness.submit(["a", "b", "c"], parallel=2)
        claim = harness.take()
        harness.drop_messages()
        harness.succeed(claim)

        assert [2] == harness.indexes()

    def test_a_claim_on_a_run_that_has_ended_is_stale(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        claim = harness.take()
        harness.succeed(claim)

        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state
        assert not harness.succeed(claim)
        assert not harness.ledger.hand_back(claim)
        assert [RenewalResult.LOST] == harness.ledger.renew([claim])


class TestRetry:
    def test_a_failure_waits_and_leaves_the_window(self, harness: LedgerHarness):
        run_id = harness.submit(["a", "b"], parallel=1)
        claim = harness.take()
        assert harness.fail(claim, retry_after_seconds=5)

        found = harness.ledger.run(run_id)
        assert (1, 1, 0, 0) == (found.waiting, found.published, found.claimed, found.failed)
        assert [1] == harness.indexes()
        assert [] == harness.outcomes(run_id)

    def test_it_is_published_when_due(self, harness: LedgerHarness):
        harness.submit(["a"])
        harness.fail(harness.take(), retry_after_seconds=20)
        harness.advance(10)
        harness.ledger.sweep()
        assert [] == harness.messages()
        harness.advance(11)
        harness.ledger.sweep()
        assert [0] == harness.indexes()

        assert 2 == harness.take().attempt

    def test_attempts_are_bounded(self, harness: LedgerHarness):
        run_id = harness.submit(["a"], max_attempts=2)
        harness.fail(harness.take(), retry_after_seconds=0)
        harness.ledger.sweep()
        harness.fail(harness.take(), retry_after_seconds=0)

        recorded = harness.outcomes(run_id)
        assert recorded is not None
        assert [(ItemState.FAILED, 2)] == [(found.state, found.attempts) for found in recorded]
        assert RunState.FAILED is harness.ledger.run(run_id).state

    def test_a_success_is_final_whatever_the_caller_says_of_retries(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        claim = harness.take()
        harness.ledger.finish(claim, outcome_of(claim, ItemState.SUCCEEDED), retry_after_seconds=5)

        assert 1 == harness.ledger.run(run_id).succeeded

    def test_a_failure_in_a_cancelling_run_is_final(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        claim = harness.take()
        harness.ledger.cancel(run_id)
        harness.fail(claim, retry_after_seconds=1)

        found = harness.ledger.run(run_id)
        assert (RunState.CANCELLED, 1, 0) == (found.state, found.failed, found.cancelled)

    def test_what_waits_takes_no_place_from_its_window_when_it_returns(self, harness: LedgerHarness):
        harness.staff(10)
        run_id = harness.submit(["a", "b", "c", "d"], parallel=2)
        first, second = harness.take(), harness.take()
        harness.fail(first, retry_after_seconds=1)
        harness.fail(second, retry_after_seconds=1)
        harness.advance(2)
        harness.ledger.sweep()

        found = harness.ledger.run(run_id)
        assert (2, 2) == (found.published, found.waiting)


class TestHandBack:
    def test_it_publishes_the_item_again_and_forgets_the_attempt(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        claim = harness.take()
        assert harness.ledger.hand_back(claim)
        assert not harness.ledger.hand_back(claim)
        assert not harness.succeed(claim)

        assert 1 == harness.ledger.run(run_id).published
        again = harness.take()
        assert 1 == again.attempt
        assert again.fence > claim.fence

    def test_in_a_cancelling_run_it_cancels_the_item(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        claim = harness.take()
        harness.ledger.cancel(run_id)
        assert harness.ledger.hand_back(claim)

        found = harness.ledger.run(run_id)
        assert (RunState.CANCELLED, 1) == (found.state, found.cancelled)
        assert None is harness.outcomes(run_id)
        assert ["a"] == [item for _, item in harness.ledger.leftovers(run_id)]


class TestWaitBehindAnother:
    def test_it_waits_outside_the_window_until_the_other_has_ended(self, harness: LedgerHarness):
        """R25: an item that waits for another holds no place, uses up no attempt, and is due at its end."""
        harness.staff(4)
        run_id = harness.submit(["member", "index", "more"], parallel=2)
        member, index = harness.take(), harness.take()
        assert harness.ledger.hand_back(member, behind=index.index)
        found = harness.ledger.run(run_id)
        assert (1, 1, 1) == (found.claimed, found.published, found.waiting)
        assert [2] == harness.indexes()
        harness.advance(3 * LEASE_SECONDS / 4)
        assert 0 == harness.ledger.sweep()
        assert [2] == harness.indexes()

        harness.succeed(index)
        assert [2, 0] == harness.indexes()
        harness.succeed(harness.take())
        again = harness.take()
        assert ("member", 1) == (again.item, again.attempt)
        harness.succeed(again)
        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state

    @pytest.mark.parametrize("end", ["failed", "lost", "retried"])
    def test_it_goes_on_however_the_other_ends(self, harness: LedgerHarness, end: str):
        """R25: waiting ends with the other item: failed, its worker lost, or tried again and done."""
        harness.staff(4)
        run_id = harness.submit(["member", "index"], max_attempts=2 if end == "retried" else 1)
        member, index = harness.take(), harness.take()
        harness.ledger.hand_back(member, behind=index.index)
        if end == "lost":
            harness.advance(LEASE_SECONDS + 1)
            harness.ledger.sweep()
        else:
            harness.fail(index, retry_after_seconds=0)
        if end == "retried":
            harness.ledger.sweep()
            assert [1] == harness.indexes()
            harness.succeed(harness.take())

        assert [0] == harness.indexes()
        expected = ItemState.SUCCEEDED if end == "retried" else ItemState.FAILED
        assert [expected] == harness.ledger.item_states(run_id, [1])

    def test_one_that_has_ended_is_not_waited_for(self, harness: LedgerHarness):
        harness.staff(4)
        harness.submit(["member", "index"])
        member, index = harness.take(), harness.take()
        harness.succeed(index)
        harness.ledger.hand_back(member, behind=index.index)
        assert [0] == harness.indexes()

    def test_items_that_would_wait_for_one_another_do_not(self, harness: LedgerHarness):
        """R25: no ring of items waits for ever."""
        harness.staff(6)
        harness.submit(["a", "b", "c"])
        claims = [harness.take() for _ in range(3)]
        for claim in claims:
            harness.ledger.hand_back(claim, behind=(claim.index + 1) % 3)
        assert [2] == harness.indexes()
        harness.succeed(harness.take())
        assert [1] == harness.indexes()

    def test_a_cancel_ends_the_wait(self, harness: LedgerHarness):
        """R25: what waits for another item is cancelled with the run."""
        harness.staff(4)
        run_id = harness.submit(["member", "index"])
        member, index = harness.take(), harness.take()
        harness.ledger.hand_back(member, behind=index.index)
        harness.ledger.cancel(run_id)
        harness.succeed(index)

        found = harness.ledger.run(run_id)
        assert (RunState.CANCELLED, 1, 1) == (found.state, found.succeeded, found.cancelled)

    def test_how_items_stand(self, harness: LedgerHarness):
        """R25: whoever waits learns of each item of the run how it ended."""
        harness.staff(8)
        run_id = harness.submit(["a", "b", "c", "d"])
        done, failed, under_way, pending = (harness.take() for _ in range(4))
        harness.succeed(done)
        harness.fail(failed)
        harness.ledger.hand_back(pending)

        item_states = [ItemState.SUCCEEDED, ItemState.FAILED, None, None]
        assert item_states == harness.ledger.item_states(run_id, range(4))
        assert [(1, "b"), (2, "c"), (3, "d")] == list(harness.ledger.leftovers(run_id))
        harness.ledger.cancel(run_id)
        assert [ItemState.CANCELLED, None] == harness.ledger.item_states(run_id, [3, 2])
        harness.succeed(under_way)
        assert [ItemState.SUCCEEDED] == harness.ledger.item_states(run_id, [2])


class TestSweep:
    def test_it_finds_nothing_where_all_is_well(self, harness: LedgerHarness):
        harness.staff(4)
        harness.submit(["a", "b", "c"], parallel=2)
        harness.take()

        assert 0 == harness.ledger.sweep()
        assert [1] == harness.indexes()

    def test_an_expired_lease_returns_the_item(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        first = harness.take()
        harness.advance(LEASE_SECONDS + 1)
        assert 1 == harness.ledger.sweep()

        found = harness.ledger.run(run_id)
        assert (1, 0) == (found.published, found.claimed)
        second = harness.take()
        assert 2 == second.attempt
        assert second.fence > first.fence

    def test_a_poison_item_fails_once_its_attempts_are_used_up(self, harness: LedgerHarness):
        run_id = harness.submit(["a"], max_attempts=3)
        for _ in range(3):
            harness.take()
            harness.advance(LEASE_SECONDS + 1)
            harness.ledger.sweep()

        assert RunState.FAILED is harness.ledger.run(run_id).state
        recorded = harness.outcomes(run_id)
        assert recorded
        assert ("a", ItemState.FAILED, 3) == (recorded[0].item, recorded[0].state, recorded[0].attempts)
        assert recorded[0].error is not None
        assert "WorkerLostError" == recorded[0].error.type

    def test_a_poison_item_with_a_callback_holds_its_place_until_acknowledged(self, harness: LedgerHarness):
        run_id, epoch = harness.watch(["a", "b"], max_attempts=1, parallel=1)
        harness.take()
        for _ in range(2):
            harness.advance(LEASE_SECONDS * 0.6)
            assert harness.ledger.acknowledge(run_id, epoch, [])
        harness.ledger.sweep()
        assert [] == harness.messages()
        recorded = harness.outcomes(run_id)
        assert recorded
        harness.ledger.acknowledge(run_id, epoch, recorded)

        assert [1] == harness.indexes()

    def test_an_expired_lease_in_a_cancelling_run_cancels_the_item(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        harness.take()
        harness.ledger.cancel(run_id)
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()

        found = harness.ledger.run(run_id)
        assert (RunState.CANCELLED, 1, 0) == (found.state, found.cancelled, found.failed)
        assert None is harness.outcomes(run_id)

    def test_a_backlog_is_no_loss(self, harness: LedgerHarness):
        harness.staff(4)
        harness.submit(["a", "b", "c"])
        harness.advance(REPUBLISH_SECONDS * 5)

        assert 0 == harness.ledger.sweep()
        assert [0, 1, 2] == harness.indexes()

    def test_an_empty_queue_is_a_loss_once_it_is_old(self, harness: LedgerHarness):
        harness.staff(4)
        harness.submit(["a", "b"])
        harness.drop_messages()
        harness.advance(REPUBLISH_SECONDS / 2)
        assert 0 == harness.ledger.sweep()
        harness.advance(REPUBLISH_SECONDS / 2 + 1)
        assert 2 == harness.ledger.sweep()

        assert [0, 1] == sorted(harness.indexes())
        assert 0 == harness.ledger.sweep()

    def test_an_overtaken_message_is_a_loss_once_it_is_old(self, harness: LedgerHarness):
        harness.staff(2)
        harness.submit(["a", "b", "c", "d", "e"])
        assert [0, 1] == harness.indexes()
        harness.pop_message()
        harness.advance(1)
        harness.succeed(harness.take())  # releases c, a second after a
        claim = harness.take()
        assert "c" == claim.item
        harness.succeed(claim)  # a has been overtaken
        assert [] != harness.messages()
        harness.advance(REPUBLISH_SECONDS)
        harness.ledger.sweep()

        assert 0 in harness.indexes()

    def test_a_run_whose_client_vanished_is_cancelled(self, harness: LedgerHarness):
        harness.staff(4)
        run_id, _ = harness.watch(["a", "b", "c"], parallel=2)
        claim = harness.take()
        harness.succeed(claim)
        held = harness.take()
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.renew([held])
        harness.ledger.sweep()
        found = harness.ledger.run(run_id)
        assert RunState.CANCELLING is found.state
        assert found.error is not None
        assert "CoordinatorLostError" == found.error.type
        harness.succeed(held)

        ended = harness.ledger.run(run_id)
        assert (RunState.CANCELLED, 2, 1) == (ended.state, ended.succeeded, ended.cancelled)

    def test_a_cancelled_run_whose_client_vanished_ends(self, harness: LedgerHarness):
        run_id, _ = harness.watch(["a", "b"])
        harness.succeed(harness.take())
        harness.ledger.cancel(run_id)
        assert RunState.CANCELLING is harness.ledger.run(run_id).state
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()

        assert RunState.CANCELLED is harness.ledger.run(run_id).state

    def test_a_run_without_callback_needs_no_client(self, harness: LedgerHarness):
        run_id = harness.submit(["a"], callback=Callback.NONE)
        harness.advance(LEASE_SECONDS * 3)
        harness.ledger.sweep()

        assert RunState.RUNNING is harness.ledger.run(run_id).state
