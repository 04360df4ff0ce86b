"""Sweeps after a time in which nobody swept, because Redis was away or had forgotten."""

from __future__ import annotations

import pytest

from stagefleet.runs.ledger import RenewalResult
from stagefleet.runs.models import Callback, RunState
from tests.contract.ledgers import LEASE_SECONDS, LedgerHarness

GAP_SECONDS = LEASE_SECONDS * 3


@pytest.fixture(autouse=True)
def swept(harness: LedgerHarness) -> None:
    """Somebody has swept before."""
    harness.staff(4)
    harness.ledger.sweep()


class TestAfterAGap:
    def test_who_works_keeps_the_claim(self, harness: LedgerHarness):
        """R2: a worker that could not renew while Redis was away loses neither its item nor an attempt."""
        run_id = harness.submit(["a"])
        claim = harness.take()
        harness.let_pass_unswept(GAP_SECONDS)

        assert 0 == harness.ledger.sweep()
        assert [RenewalResult.RUN] == harness.ledger.renew([claim])
        assert harness.succeed(claim)
        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state

    def test_who_has_gone_loses_it_a_whole_lease_later(self, harness: LedgerHarness):
        """R2: the gap puts off the end of a lease that nobody renews, and no more."""
        run_id = harness.submit(["a"])
        harness.take()
        harness.let_pass_unswept(GAP_SECONDS)
        harness.ledger.sweep()
        harness.advance(LEASE_SECONDS - 1)
        assert 0 == harness.ledger.sweep()
        harness.advance(2)

        assert 1 == harness.ledger.sweep()
        assert 1 == harness.ledger.run(run_id).published

    def test_an_attached_run_is_not_cancelled(self, harness: LedgerHarness):
        """R2: a client that lives is not taken for lost because Redis was away."""
        run_id, epoch = harness.watch(["a"])
        harness.let_pass_unswept(GAP_SECONDS)
        harness.ledger.sweep()

        assert RunState.RUNNING is harness.ledger.run(run_id).state
        assert harness.ledger.acknowledge(run_id, epoch, [])
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()
        assert RunState.CANCELLING is not harness.ledger.run(run_id).state
        assert RunState.CANCELLED is harness.ledger.run(run_id).state

    def test_a_submission_goes_on(self, harness: LedgerHarness):
        """R2: a run that was being submitted when Redis went away is submitted to its end."""
        submission = harness.open()
        harness.ledger.append(submission, ["a"])
        harness.let_pass_unswept(GAP_SECONDS)
        assert 0 == harness.ledger.sweep()
        harness.ledger.append(submission, ["b"])
        harness.ledger.start(submission)

        assert 2 == harness.work_off()

    def test_a_coordinator_that_is_there_is_called_no_second_one(self, harness: LedgerHarness):
        """R2: a receiver is not called by two coordinators because Redis was away during a call."""
        run_id = harness.submit(["a"], callback=Callback.WEBHOOK, callback_target="http://receiver.example")
        harness.work_off()
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        harness.drop_messages()
        harness.let_pass_unswept(GAP_SECONDS)
        harness.ledger.sweep()
        harness.ledger.sweep()

        assert [] == harness.messages()
        assert harness.ledger.acknowledge(run_id, coordinator_claim.epoch, harness.outcomes(run_id) or [])
        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state

    def test_one_that_tells_the_end_is_called_no_second_one(self, harness: LedgerHarness):
        """R2: neither where the run has ended, and its end is being told."""
        run_id = harness.submit(["a"], finish_url="http://receiver.example")
        harness.work_off()
        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        harness.drop_messages()
        harness.let_pass_unswept(GAP_SECONDS)
        harness.ledger.sweep()
        harness.ledger.sweep()

        assert [] == harness.messages()
        assert harness.ledger.callbacks.finish(coordinator_claim)

    def test_a_run_that_is_younger_than_the_last_sweep_is_treated_alike(self, harness: LedgerHarness):
        """R2: an outage that begins before a run's first sweep is an outage all the same."""
        run_id, _ = harness.watch(["a"])
        claim = harness.take()
        harness.let_pass_unswept(GAP_SECONDS)
        harness.ledger.sweep()

        assert RunState.RUNNING is harness.ledger.run(run_id).state
        assert [RenewalResult.RUN] == harness.ledger.renew([claim])


def test_sweeps_a_few_seconds_apart_are_no_gap(harness: LedgerHarness):
    """R2: a lease that ends while others sweep is over at its end."""
    run_id = harness.submit(["a"])
    harness.take()
    for _ in range(5):
        harness.let_pass_unswept(LEASE_SECONDS / 5 + 1)
        harness.ledger.sweep()

    assert 1 == harness.ledger.run(run_id).published


def test_a_rollback_that_loses_renewals_is_bridged_as_a_gap(harness: LedgerHarness):
    """R2: what Redis forgot of the last seconds takes no item from its worker."""
    run_id = harness.submit(["a"])
    claim = harness.take()
    harness.ledger.sweep()
    kept = harness.snapshot()
    for _ in range(4):
        harness.advance(LEASE_SECONDS / 3)
        harness.ledger.renew([claim])
        harness.ledger.sweep()
    harness.forget_since(kept)
    harness.ledger.sweep()

    assert [RenewalResult.RUN] == harness.ledger.renew([claim])
    assert 1 == harness.ledger.run(run_id).claimed
