"""Sweeps after a time in which nobody swept, because Redis was away or had forgotten."""

from __future__ import annotations

import pytest

from stagefleet.runs.ledger import Renewal
from stagefleet.runs.model import Callback, RunState
from tests.contract.twins import LEASE_SECONDS, Twin

GAP_SECONDS = LEASE_SECONDS * 3


@pytest.fixture(autouse=True)
def swept(twin: Twin) -> None:
    """Somebody has swept before."""
    twin.staff(4)
    twin.ledger.sweep()


class TestAfterAGap:
    def test_who_works_keeps_the_claim(self, twin: Twin):
        """R2: a worker that could not renew while Redis was away loses neither its item nor an attempt."""
        run = twin.submit(["a"])
        claim = twin.take()
        twin.let_pass_unswept(GAP_SECONDS)

        assert 0 == twin.ledger.sweep()
        assert [Renewal.RUN] == twin.ledger.renew([claim])
        assert twin.succeed(claim)
        assert RunState.SUCCEEDED is twin.ledger.run(run).state

    def test_who_has_gone_loses_it_a_whole_lease_later(self, twin: Twin):
        """R2: the gap puts off the end of a lease that nobody renews, and no more."""
        run = twin.submit(["a"])
        twin.take()
        twin.let_pass_unswept(GAP_SECONDS)
        twin.ledger.sweep()
        twin.advance(LEASE_SECONDS - 1)
        assert 0 == twin.ledger.sweep()
        twin.advance(2)

        assert 1 == twin.ledger.sweep()
        assert 1 == twin.ledger.run(run).published

    def test_an_attached_run_is_not_cancelled(self, twin: Twin):
        """R2: a client that lives is not taken for lost because Redis was away."""
        run, epoch = twin.watch(["a"])
        twin.let_pass_unswept(GAP_SECONDS)
        twin.ledger.sweep()

        assert RunState.RUNNING is twin.ledger.run(run).state
        assert twin.ledger.acknowledge(run, epoch, [])
        twin.advance(LEASE_SECONDS + 1)
        twin.ledger.sweep()
        assert RunState.CANCELLING is not twin.ledger.run(run).state
        assert RunState.CANCELLED is twin.ledger.run(run).state

    def test_a_submission_goes_on(self, twin: Twin):
        """R2: a run that was being submitted when Redis went away is submitted to its end."""
        submission = twin.open()
        twin.ledger.append(submission, ["a"])
        twin.let_pass_unswept(GAP_SECONDS)
        assert 0 == twin.ledger.sweep()
        twin.ledger.append(submission, ["b"])
        twin.ledger.start(submission)

        assert 2 == twin.work_off()

    def test_a_coordinator_that_is_there_is_called_no_second_one(self, twin: Twin):
        """R2: a receiver is not called by two coordinators because Redis was away during a call."""
        run = twin.submit(["a"], callback=Callback.WEBHOOK, callback_target="http://receiver.example")
        twin.work_off()
        visit = twin.ledger.attend(run)
        assert visit is not None
        twin.drop_messages()
        twin.let_pass_unswept(GAP_SECONDS)
        twin.ledger.sweep()
        twin.ledger.sweep()

        assert [] == twin.messages()
        assert twin.ledger.acknowledge(run, visit.epoch, twin.outcomes(run) or [])
        assert RunState.SUCCEEDED is twin.ledger.run(run).state

    def test_one_that_tells_the_end_is_called_no_second_one(self, twin: Twin):
        """R2: neither where the run has ended, and its end is being told."""
        run = twin.submit(["a"], finish_url="http://receiver.example")
        twin.work_off()
        assert RunState.SUCCEEDED is twin.ledger.run(run).state
        visit = twin.ledger.attend(run)
        assert visit is not None
        twin.drop_messages()
        twin.let_pass_unswept(GAP_SECONDS)
        twin.ledger.sweep()
        twin.ledger.sweep()

        assert [] == twin.messages()
        assert twin.ledger.conclude(visit)

    def test_a_run_that_is_younger_than_the_last_sweep_is_treated_alike(self, twin: Twin):
        """R2: an outage that begins before a run's first sweep is an outage all the same."""
        run, _ = twin.watch(["a"])
        claim = twin.take()
        twin.let_pass_unswept(GAP_SECONDS)
        twin.ledger.sweep()

        assert RunState.RUNNING is twin.ledger.run(run).state
        assert [Renewal.RUN] == twin.ledger.renew([claim])


def test_sweeps_a_few_seconds_apart_are_no_gap(twin: Twin):
    """R2: a lease that ends while others sweep is over at its end."""
    run = twin.submit(["a"])
    twin.take()
    for _ in range(5):
        twin.let_pass_unswept(LEASE_SECONDS / 5 + 1)
        twin.ledger.sweep()

    assert 1 == twin.ledger.run(run).published


def test_a_rollback_that_loses_renewals_is_bridged_as_a_gap(twin: Twin):
    """R2: what Redis forgot of the last seconds takes no item from its worker."""
    run = twin.submit(["a"])
    claim = twin.take()
    twin.ledger.sweep()
    kept = twin.snapshot()
    for _ in range(4):
        twin.advance(LEASE_SECONDS / 3)
        twin.ledger.renew([claim])
        twin.ledger.sweep()
    twin.forget_since(kept)
    twin.ledger.sweep()

    assert [Renewal.RUN] == twin.ledger.renew([claim])
    assert 1 == twin.ledger.run(run).claimed
