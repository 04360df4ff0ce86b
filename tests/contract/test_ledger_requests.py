"""Runs on request: opened before they are planned, and asked for again where their submitter vanished."""

from __future__ import annotations

import pytest

from stagefleet.errors import KeyConflictError, LeaseLostError
from stagefleet.runs.models import Callback, ErrorInfo, RunState, SubmissionKind
from tests.contract.ledgers import COORDINATION, LEASE_SECONDS, REQUEST, LedgerHarness, skip_of

REFUSED = ErrorInfo(type="RepositoryNotFoundError", message="there is no repository registry.test/typo")


def lose_the_submitter(harness: LedgerHarness) -> None:
    harness.advance(LEASE_SECONDS + 1)


class TestARequestThatAWorkerPlans:
    def test_the_run_is_there_at_once_and_the_worker_that_takes_the_request_plans_it(
        self, harness: LedgerHarness
    ):
        asked = harness.open_on_request(enqueue=True)
        assert RunState.SUBMITTING is harness.ledger.run(asked.run_id).state
        assert [(asked.run_id, REQUEST)] == [
            (message.run_id, message.index) for message in harness.messages()
        ]
        harness.drop_messages()

        planned = harness.open_on_request()
        assert (asked.run_id, SubmissionKind.NEW) == (planned.run_id, planned.kind)
        harness.ledger.append(planned, ["a"])
        harness.ledger.start(planned)
        assert 1 == harness.work_off()
        assert SubmissionKind.SUCCEEDED is harness.open_on_request(enqueue=True).kind
        assert [] == harness.indexes()

    def test_a_repeat_starts_nothing_where_a_worker_is_planning(self, harness: LedgerHarness):
        harness.open_on_request(enqueue=True)
        planning = harness.open_on_request()
        harness.drop_messages()

        again = harness.open_on_request(enqueue=True)
        assert (planning.run_id, SubmissionKind.ATTACHED) == (again.run_id, again.kind)
        assert [] == harness.indexes()
        harness.ledger.append(planning, ["a"])  # it is still its submitter

    def test_a_request_that_is_lost_is_published_again_after_a_lease(self, harness: LedgerHarness):
        harness.ledger.sweep()
        harness.open_on_request(enqueue=True)
        harness.drop_messages()
        assert 0 == harness.ledger.sweep()
        lose_the_submitter(harness)
        assert 1 == harness.ledger.sweep()
        assert [REQUEST] == harness.indexes()

    def test_the_leftovers_of_a_failed_run_are_asked_for_under_its_key(self, harness: LedgerHarness):
        failed = harness.open_on_request()
        harness.ledger.append(failed, ["a"])
        harness.ledger.start(failed)
        harness.ledger.cancel(failed.run_id)
        harness.drop_messages()

        again = harness.open_on_request(enqueue=True)
        assert SubmissionKind.CONTINUED is again.kind
        assert [REQUEST] == harness.indexes()
        assert failed.run_id != again.run_id
        # The worker that takes the request plans what is left, and not all of it again.
        planned = harness.open_on_request()
        assert (again.run_id, SubmissionKind.CONTINUED, failed.run_id) == (
            planned.run_id,
            planned.kind,
            planned.previous,
        )

    def test_a_request_that_asks_for_all_is_planned_from_the_first_item(self, harness: LedgerHarness):
        asked = harness.open_on_request(enqueue=True)
        planned = harness.open_on_request()
        assert (asked.run_id, SubmissionKind.NEW, None) == (planned.run_id, planned.kind, planned.previous)


class TestASubmitterThatVanishes:
    def test_its_request_is_published_once_a_lease(self, harness: LedgerHarness):
        run_id = harness.open_on_request().run_id
        lose_the_submitter(harness)

        assert 1 == harness.ledger.sweep()
        assert [(run_id, REQUEST)] == [(message.run_id, message.index) for message in harness.messages()]
        harness.drop_messages()
        assert 0 == harness.ledger.sweep()
        lose_the_submitter(harness)
        assert 1 == harness.ledger.sweep()

    def test_a_request_that_waits_in_its_queue_is_not_doubled(self, harness: LedgerHarness):
        harness.open_on_request()
        for _ in range(20):  # however long no worker listens
            lose_the_submitter(harness)
            harness.ledger.sweep()

        assert [REQUEST] == harness.indexes()

    def test_another_one_starts_the_run_once(self, harness: LedgerHarness):
        dead = harness.open_on_request()
        harness.ledger.append(dead, ["a", "b"], [skip_of("c")])
        lose_the_submitter(harness)
        harness.ledger.sweep()
        harness.drop_messages()

        heir = harness.open_on_request()
        assert (dead.run_id, SubmissionKind.NEW) == (heir.run_id, heir.kind)
        harness.ledger.append(heir, ["a"])
        harness.ledger.start(heir)

        for step in (lambda: harness.ledger.append(dead, ["x"]), lambda: harness.ledger.start(dead)):
            with pytest.raises(LeaseLostError):
                step()
        harness.ledger.fail(dead, REFUSED)
        assert 1 == harness.work_off()
        assert RunState.SUCCEEDED is harness.ledger.run(heir.run_id).state
        lose_the_submitter(harness)
        assert 0 == harness.ledger.sweep()
        assert SubmissionKind.SUCCEEDED is harness.open_on_request().kind

    def test_the_run_fails_once_its_attempts_are_used_up(self, harness: LedgerHarness):
        run_id = harness.open_on_request(max_attempts=3, finish_url="http://receiver.example").run_id
        for _ in range(2):
            lose_the_submitter(harness)
            harness.ledger.sweep()
            assert [REQUEST] == harness.indexes()
            harness.drop_messages()
        lose_the_submitter(harness)

        assert 1 == harness.ledger.sweep()
        run = harness.ledger.run(run_id)
        assert RunState.FAILED is run.state
        assert run.error is not None
        assert ("WorkerLostError", True) == (run.error.type, "in 3 attempts" in run.error.message)
        assert [COORDINATION] == harness.indexes()  # its receiver is told

    def test_who_planned_and_died_counts_as_an_attempt(self, harness: LedgerHarness):
        run_id = harness.open_on_request(max_attempts=2).run_id
        lose_the_submitter(harness)
        harness.ledger.sweep()
        harness.drop_messages()
        last = harness.open_on_request(max_attempts=2)
        assert 0 == harness.ledger.sweep()
        lose_the_submitter(harness)

        harness.ledger.sweep()
        assert RunState.FAILED is harness.ledger.run(run_id).state
        with pytest.raises(LeaseLostError):
            harness.ledger.start(last)

    def test_an_append_of_nothing_renews_the_lease(self, harness: LedgerHarness):
        submission = harness.open_on_request()
        for _ in range(5):
            harness.advance(LEASE_SECONDS / 2)
            harness.ledger.append(submission, [])
            assert 0 == harness.ledger.sweep()

        assert [] == harness.messages()

    def test_an_outage_in_which_nobody_swept_takes_nothing_from_it(self, harness: LedgerHarness):
        harness.ledger.sweep()
        harness.open_on_request()
        harness.let_pass_unswept(LEASE_SECONDS * 3)

        assert 0 == harness.ledger.sweep()
        assert [] == harness.messages()

    def test_a_cancelled_run_is_not_asked_for(self, harness: LedgerHarness):
        submission = harness.open_on_request()
        harness.ledger.cancel(submission.run_id)
        lose_the_submitter(harness)

        assert 0 == harness.ledger.sweep()
        assert [] == harness.messages()
        assert RunState.CANCELLED is harness.ledger.run(submission.run_id).state

    def test_a_run_that_a_client_left_is_completed_by_a_request(self, harness: LedgerHarness):
        left = harness.open(key="k")
        lose_the_submitter(harness)
        assert left.run_id == harness.open_on_request().run_id
        lose_the_submitter(harness)

        assert 1 == harness.ledger.sweep()
        assert [REQUEST] == harness.indexes()


class TestAPlanThatIsRefused:
    def test_its_run_fails_with_the_reason(self, harness: LedgerHarness):
        submission = harness.open_on_request(
            callback=Callback.WEBHOOK, callback_target="http://receiver.example"
        )
        harness.ledger.append(submission, ["a"], [skip_of("b")])

        harness.ledger.fail(submission, REFUSED)

        run = harness.ledger.run(submission.run_id)
        assert (RunState.FAILED, REFUSED, 0, 0) == (run.state, run.error, run.total, run.done)
        assert None is not run.finished_at
        assert None is harness.outcomes(run.id)
        assert [COORDINATION] == harness.indexes()

    def test_its_key_is_free_for_other_arguments(self, harness: LedgerHarness):
        refused = harness.open_on_request(fingerprint="typo")
        harness.ledger.fail(refused, REFUSED)

        again = harness.open_on_request(fingerprint="right")
        assert (SubmissionKind.NEW, None) == (again.kind, again.previous)
        assert refused.run_id != again.run_id
        assert again.run_id == harness.ledger.run_under("k")
        with pytest.raises(KeyConflictError):
            harness.open_on_request(fingerprint="typo")

    def test_a_run_that_has_started_does_not_fail_by_it(self, harness: LedgerHarness):
        submission = harness.open_on_request()
        harness.ledger.append(submission, ["a"])
        harness.ledger.start(submission)

        harness.ledger.fail(submission, REFUSED)

        assert 1 == harness.work_off()
        assert RunState.SUCCEEDED is harness.ledger.run(submission.run_id).state
