"""What a paused run promises, on each ledger: nothing starts, nothing is lost, and nobody gives it up."""

from __future__ import annotations

import pytest

from stagefleet.errors import RunNotFoundError, UsageError
from stagefleet.runs.ledger import FinishResult
from stagefleet.runs.models import Callback, ItemState, RunState
from tests.contract.ledgers import LEASE_SECONDS, REPUBLISH_SECONDS, LedgerHarness, outcome_of, skip_of

LONG_SECONDS = 10 * LEASE_SECONDS


def states_of(harness: LedgerHarness, run_id: str) -> tuple[RunState, int, int]:
    """State, and the numbers of published and of waiting items."""
    found = harness.ledger.run(run_id)
    return found.state, found.published, found.waiting


def test_a_message_of_a_paused_run_gives_nothing_and_its_item_is_published_again_on_resume(
    harness: LedgerHarness,
):
    harness.staff(8)
    run_id = harness.submit(["a", "b", "c"])
    under_way = harness.take()
    assert harness.pause(run_id)
    assert (RunState.PAUSED, 0, 2) == states_of(harness, run_id)
    assert 0 == harness.work_off()
    assert harness.succeed(under_way), "what is under way finishes"
    assert [] == harness.indexes()
    assert harness.resume(run_id)
    assert (RunState.RUNNING, 2, 0) == states_of(harness, run_id)
    assert [1, 2] == harness.indexes()
    assert 2 == harness.work_off()
    assert harness.ledger.run(run_id).state is RunState.SUCCEEDED


def test_a_claim_whose_answer_was_lost_is_given_again_while_its_run_is_paused(harness: LedgerHarness):
    harness.staff(8)
    run_id = harness.submit(["a", "b"])
    first = harness.ledger.claim(run_id, 0, "host:1", nonce="n")
    harness.pause(run_id)
    again = harness.ledger.claim(run_id, 0, "host:1", nonce="n")
    assert first is not None
    assert again is not None
    assert first.token == again.token


def test_pausing_and_resuming_are_repeatable(harness: LedgerHarness):
    harness.staff(8)
    run_id = harness.submit(["a", "b"])
    assert not harness.resume(run_id)
    assert [True, False] == [harness.pause(run_id), harness.pause(run_id)]
    assert (RunState.PAUSED, 0, 2) == states_of(harness, run_id)
    assert [True, False] == [harness.resume(run_id), harness.resume(run_id)]
    assert (RunState.RUNNING, 2, 0) == states_of(harness, run_id)


def test_what_has_ended_or_is_ending_is_refused_in_one_line(harness: LedgerHarness):
    harness.staff(8)
    run_id = harness.submit(["a"])
    claim = harness.take()
    harness.ledger.cancel(run_id)
    for call in (harness.pause, harness.resume):
        with pytest.raises(UsageError, match=rf"run {run_id} is being cancelled, so it can be neither"):
            call(run_id)
    harness.succeed(claim)
    for call in (harness.pause, harness.resume):
        with pytest.raises(UsageError, match=rf"run {run_id} has ended: it is cancelled, so it can"):
            call(run_id)
        with pytest.raises(RunNotFoundError):
            call("0123456789abcdef")


def test_a_paused_run_is_cancelled_at_once(harness: LedgerHarness):
    harness.staff(8)
    run_id = harness.submit(["a", "b", "c"])
    harness.pause(run_id)
    assert harness.ledger.cancel(run_id)
    found = harness.ledger.run(run_id)
    assert (RunState.CANCELLED, 3) == (found.state, found.cancelled)


def test_a_run_whose_last_item_was_under_way_ends_while_it_is_paused(harness: LedgerHarness):
    harness.staff(8)
    run_id = harness.submit(["a"])
    claim = harness.take()
    harness.pause(run_id)
    assert harness.succeed(claim)
    assert harness.ledger.run(run_id).state is RunState.SUCCEEDED


def test_a_retry_that_comes_due_waits_for_the_resume(harness: LedgerHarness):
    """The pause of an item goes on in a paused run; its end starts nothing."""
    harness.staff(8)
    run_id = harness.submit(["a", "b"])
    early, late = harness.take(), harness.take()
    assert harness.fail(early, retry_after_seconds=20)
    harness.pause(run_id)
    retried = harness.ledger.finish(late, outcome_of(late, ItemState.FAILED), retry_after_seconds=1000)
    assert retried is FinishResult.WAITING
    harness.advance(21)
    harness.ledger.sweep()
    assert (RunState.PAUSED, 0, 2) == states_of(harness, run_id)
    harness.resume(run_id)
    assert (RunState.RUNNING, 1, 1) == states_of(harness, run_id), "the other one's pause lasts"
    assert 2 == harness.take().attempt


def test_what_is_handed_back_or_lost_stays_pending(harness: LedgerHarness):
    harness.staff(8)
    run_id = harness.submit(["a", "b"])
    handed_back, lost = harness.take(), harness.take()
    harness.pause(run_id)
    assert harness.ledger.hand_back(handed_back)
    harness.advance(LEASE_SECONDS + 1)
    harness.ledger.sweep()
    assert not harness.succeed(lost)
    assert (RunState.PAUSED, 0, 2) == states_of(harness, run_id)
    harness.resume(run_id)
    assert {1, 2} == {harness.take().attempt, harness.take().attempt}


def test_nobody_gives_up_a_paused_run(harness: LedgerHarness):
    """Neither a lease of its client, nor a host without workers, nor the age of a message ends it."""
    harness.staff(8)
    watched, _ = harness.watch(["a"])
    hosted = harness.submit(["b\x1fone"])
    for run_id in (watched, hosted):
        harness.pause(run_id)
    for _ in range(20):
        harness.advance(LONG_SECONDS)
        harness.ledger.sweep()
    assert (RunState.PAUSED, 0, 1) == states_of(harness, watched)
    assert (RunState.PAUSED, 0, 1) == states_of(harness, hosted)


def test_a_resumed_run_has_whole_leases(harness: LedgerHarness):
    """Its client and the workers of its hosts have as long as at its start to come back."""
    harness.staff(8)
    watched, _ = harness.watch(["a"])
    hosted = harness.submit(["b\x1fone"])
    for run_id in (watched, hosted):
        harness.pause(run_id)
    harness.advance(LONG_SECONDS)
    harness.resume(watched)
    harness.resume(hosted)
    harness.advance(REPUBLISH_SECONDS + 1)
    harness.ledger.sweep()
    assert [RunState.RUNNING] * 2 == [harness.ledger.run(run_id).state for run_id in (watched, hosted)]
    harness.advance(LEASE_SECONDS)
    harness.ledger.sweep()
    found = harness.ledger.run(watched)
    assert found.error is not None
    assert (RunState.CANCELLED, "CoordinatorLostError") == (found.state, found.error.type)


def test_callbacks_go_on_and_no_coordinator_ends_the_pause(harness: LedgerHarness):
    harness.staff(8)
    run_id, epoch = harness.watch(["a", "b"], parallel=1)
    claim = harness.take()
    harness.pause(run_id)
    harness.succeed(claim)
    outcomes = harness.outcomes(run_id) or []
    assert harness.ledger.acknowledge(run_id, epoch, outcomes)
    assert (RunState.PAUSED, 0, 0) == states_of(harness, run_id)
    epoch = harness.ledger.coordinate(run_id)
    assert harness.ledger.acknowledge(run_id, epoch, [], before=outcomes[-1].position)
    assert (RunState.PAUSED, 0, 0) == states_of(harness, run_id)
    harness.resume(run_id)
    assert (RunState.RUNNING, 1, 0) == states_of(harness, run_id)


def test_a_run_that_is_paused_before_its_start_is_paused_after_it(harness: LedgerHarness):
    """So a run that waits in a chain for another one can be paused."""
    harness.staff(8)
    submission = harness.open()
    harness.ledger.append(submission, ["a"], [skip_of("s")])
    assert harness.pause(submission.run_id)
    assert harness.ledger.run(submission.run_id).state is RunState.SUBMITTING
    harness.ledger.start(submission)
    assert (RunState.PAUSED, 0, 0) == states_of(harness, submission.run_id)
    harness.resume(submission.run_id)
    assert 1 == harness.work_off()
    assert harness.ledger.run(submission.run_id).state is RunState.SUCCEEDED


def test_the_share_of_a_paused_run_is_the_others(harness: LedgerHarness):
    harness.staff(4)
    runs = [harness.submit([f"{name}{number}" for number in range(20)]) for name in "ab"]
    assert 2 == harness.ledger.run(runs[1]).published
    harness.pause(runs[0])
    harness.staff(4)  # a heartbeat counts shares again
    assert 4 == harness.ledger.run(runs[1]).published
    harness.drop_messages()
    harness.resume(runs[0])
    assert 2 == harness.ledger.run(runs[0]).published


def test_a_pause_just_made_can_be_forgotten(harness: LedgerHarness):
    """After a failover the run goes on as if nobody had paused it, and loses nothing."""
    harness.staff(8)
    run_id, epoch = harness.watch(["a", "b"])
    before = harness.snapshot()
    harness.pause(run_id)
    harness.forget_since(before)
    assert (RunState.RUNNING, 2, 0) == states_of(harness, run_id)
    assert 2 == harness.work_off()
    assert harness.ledger.acknowledge(run_id, epoch, harness.outcomes(run_id) or [])
    assert harness.ledger.run(run_id).state is RunState.SUCCEEDED


def test_a_coordinator_of_the_fleet_is_called_while_a_run_is_paused(harness: LedgerHarness):
    harness.staff(8)
    run_id = harness.submit(["a", "b"], callback=Callback.WEBHOOK, callback_target="https://ci.example/")
    claim = harness.take()
    harness.pause(run_id)
    harness.drop_messages()
    harness.succeed(claim)
    assert [-1] == harness.indexes()
    assert harness.ledger.callbacks.claim(run_id) is not None
