"""What a run promises whose items start before its list of them is complete, on each ledger."""

from __future__ import annotations

import pytest

from stagefleet.errors import LeaseLostError, LedgerRewoundError
from stagefleet.runs.models import Callback, ErrorInfo, RunState, Submission, SubmissionKind
from tests.contract.ledgers import LEASE_SECONDS, RETENTION_SECONDS, LedgerHarness, skip_of

KEYED = {"key": "k", "fingerprint": "f", "starts_early": True}


@pytest.fixture
def early(harness: LedgerHarness) -> Submission:
    """A submission with three items and a skip, of which more are to come."""
    harness.staff(8)
    submission = harness.open(starts_early=True)
    harness.ledger.append(submission, ["a", "b", "c"], [skip_of("s")])
    return submission


def counts_of(harness: LedgerHarness, run_id: str) -> tuple[RunState, int, int, int]:
    found = harness.ledger.run(run_id)
    return found.state, found.total, found.succeeded, found.cancelled


def test_the_first_items_are_done_before_the_last_are_submitted(harness: LedgerHarness, early: Submission):
    assert [0, 1, 2] == harness.indexes()
    assert 3 == harness.work_off()
    assert (RunState.SUBMITTING, 4, 3, 0) == counts_of(harness, early.run_id)
    harness.ledger.append(early, ["d"])
    assert 1 == harness.work_off()
    harness.ledger.start(early)
    assert (RunState.SUCCEEDED, 5, 4, 0) == counts_of(harness, early.run_id)
    assert ["s", "a", "b", "c", "d"] == [found.item for found in harness.outcomes(early.run_id) or []]


def test_no_run_ends_before_its_list_is_complete(harness: LedgerHarness, early: Submission):
    """Neither the last outcome that there is, nor a sweep, nor an acknowledgement ends it."""
    harness.work_off()
    harness.ledger.sweep()
    epoch = harness.ledger.coordinate(early.run_id)
    assert harness.ledger.acknowledge(early.run_id, epoch, harness.outcomes(early.run_id) or [])
    assert (RunState.SUBMITTING, 4, 3, 0) == counts_of(harness, early.run_id)


def test_what_is_lost_or_to_be_tried_again_goes_on_meanwhile(harness: LedgerHarness, early: Submission):
    lost, failed, handed_back = harness.take(), harness.take(), harness.take()
    assert harness.fail(failed, retry_after_seconds=0)
    assert harness.ledger.hand_back(handed_back)
    for _ in range(2):
        harness.advance(LEASE_SECONDS - 1)
        harness.ledger.append(early, [])  # the submitter lives
    harness.ledger.sweep()
    assert not harness.succeed(lost)
    assert 3 == harness.work_off()
    harness.ledger.start(early)
    assert (RunState.SUCCEEDED, 4, 3, 0) == counts_of(harness, early.run_id)


def test_its_window_and_its_share_hold_while_it_is_submitted(harness: LedgerHarness):
    harness.staff(2)
    submissions = []
    for _ in range(2):
        submissions.append(harness.open(starts_early=True, parallel=3))
        for _ in range(2):
            harness.ledger.append(submissions[-1], ["a", "b", "c", "d", "e"])
    published = [harness.ledger.run(submission.run_id).published for submission in submissions]
    assert [2, 1] == published


def test_a_paused_one_starts_nothing_until_its_resume(harness: LedgerHarness, early: Submission):
    assert harness.pause(early.run_id)
    harness.ledger.append(early, ["d"])
    assert 0 == harness.work_off()
    assert harness.resume(early.run_id)
    assert 4 == harness.work_off()


@pytest.mark.parametrize("callback", [Callback.WEBHOOK, Callback.TASK])
def test_the_fleet_calls_back_while_it_is_submitted(harness: LedgerHarness, callback: Callback):
    harness.staff(8)
    target = "https://ci.example/"
    submission = harness.open(starts_early=True, callback=callback, callback_target=target)
    harness.ledger.append(submission, ["a"], [skip_of("s")])
    assert {-1, 0} == set(harness.indexes())
    claim = harness.ledger.callbacks.claim(submission.run_id)
    assert claim is not None
    outcomes = harness.outcomes(submission.run_id) or []
    assert harness.ledger.acknowledge(submission.run_id, claim.epoch, outcomes)


class TestASubmitterThatVanished:
    def test_without_a_key_the_rest_is_cancelled_with_the_reason(
        self, harness: LedgerHarness, early: Submission
    ):
        """What is under way ends as it does; the run does not pretend to be whole."""
        harness.succeed(harness.take())
        under_way = harness.take()
        harness.advance(LEASE_SECONDS - 1)
        harness.ledger.renew([under_way])
        harness.advance(2)
        harness.ledger.sweep()
        assert 0 == harness.work_off()
        assert harness.succeed(under_way)
        assert (RunState.CANCELLED, 4, 2, 1) == counts_of(harness, early.run_id)
        error = harness.ledger.run(early.run_id).error
        assert error is not None
        assert "CoordinatorLostError" == error.type
        with pytest.raises(LeaseLostError):
            harness.ledger.append(early, ["d"])

    def test_under_a_key_its_items_go_on_and_the_same_call_completes_it(self, harness: LedgerHarness):
        harness.staff(8)
        dead = harness.open(**KEYED)
        harness.ledger.append(dead, ["a", "b"], [skip_of("s")])
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()
        assert 2 == harness.work_off()
        heir = harness.open(**KEYED)
        assert (dead.run_id, SubmissionKind.NEW, 2, 1) == (heir.run_id, heir.kind, heir.items, heir.decided)
        for call in (lambda: harness.ledger.append(dead, ["x"]), lambda: harness.ledger.start(dead)):
            with pytest.raises(LeaseLostError):
                call()
        harness.ledger.append(heir, ["c"])
        harness.ledger.start(heir)
        harness.work_off()
        assert (RunState.SUCCEEDED, 4, 3, 0) == counts_of(harness, heir.run_id)

    def test_under_a_key_that_nobody_repeats_it_is_cancelled_at_last(self, harness: LedgerHarness):
        harness.staff(8)
        submission = harness.open(**KEYED)
        harness.ledger.append(submission, ["a"])
        harness.work_off()
        harness.advance(LEASE_SECONDS + RETENTION_SECONDS + 1)
        harness.ledger.sweep()
        assert (RunState.CANCELLED, 1, 1, 0) == counts_of(harness, submission.run_id)

    def test_a_cancelled_half_is_not_gone_on_with(self, harness: LedgerHarness):
        half = harness.open(**KEYED)
        harness.ledger.append(half, ["a"])
        harness.ledger.cancel(half.run_id)
        again = harness.open(**KEYED)
        assert (SubmissionKind.NEW, None, 0) == (again.kind, again.previous, again.items)
        assert half.run_id != again.run_id

    def test_a_refusal_after_a_start_cancels_what_waits(self, harness: LedgerHarness, early: Submission):
        claim = harness.take()
        harness.ledger.fail(early, ErrorInfo(type="UsageError", message="no"))
        assert harness.succeed(claim)
        assert (RunState.CANCELLED, 4, 1, 2) == counts_of(harness, early.run_id)


class TestARedisThatForgets:
    def test_an_append_that_was_lost_is_missed_and_made_good(self, harness: LedgerHarness):
        harness.staff(8)
        spec = harness.spec(starts_early=True)
        submission = harness.ledger.open(spec)
        harness.ledger.append(submission, ["a"])
        kept = harness.snapshot()
        harness.ledger.append(submission, ["b"])
        harness.work_off()
        harness.forget_since(kept)
        for call in (
            lambda: harness.ledger.append(submission, ["c"]),
            lambda: harness.ledger.start(submission),
        ):
            with pytest.raises(LedgerRewoundError):
                call()
        again = harness.ledger.open(spec, again=submission)
        assert (submission.run_id, 1) == (again.run_id, again.items)
        harness.ledger.append(again, ["b", "c"])
        harness.ledger.start(again)
        harness.work_off()
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()
        harness.work_off()
        assert (RunState.SUCCEEDED, 3, 3, 0) == counts_of(harness, again.run_id)
