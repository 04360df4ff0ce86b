"""Runs that start when another one has ended, and keys that a new run takes from an old one."""

from __future__ import annotations

import pytest

from stagefleet.errors import KeyConflictError
from stagefleet.runs.coordinator import start_next
from stagefleet.runs.models import NextRun, RunState, SubmissionKind
from tests.contract.ledgers import LEASE_SECONDS, RETENTION_SECONDS, LedgerHarness


def write_following(harness: LedgerHarness, key: str = "purge x later") -> NextRun:
    """A run that starts later; its key is as nobody's."""
    later = harness.open(key=key, follows=True)
    harness.ledger.append(later, ["later"])
    return NextRun(run_id=later.run_id, token=later.token, items=later.items)


def pass_leases(harness: LedgerHarness, count: int) -> None:
    for _ in range(count):
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()


def end_coordination(harness: LedgerHarness, run_id: str) -> None:
    claim = harness.ledger.callbacks.claim(run_id)
    assert claim is not None
    harness.ledger.callbacks.finish(claim)


class TestARunThatFollowsAnother:
    def test_it_waits_as_long_as_that_one_takes(self, harness: LedgerHarness):
        following = write_following(harness)
        first = harness.submit(["a"], next=following)
        pass_leases(harness, 2 * RETENTION_SECONDS // LEASE_SECONDS)

        assert RunState.SUBMITTING is harness.ledger.run(following.run_id).state
        harness.work_off()
        pass_leases(harness, 3)  # its coordinator is late
        assert RunState.SUBMITTING is harness.ledger.run(following.run_id).state
        start_next(harness.ledger, harness.ledger.run(first))
        assert RunState.RUNNING is harness.ledger.run(following.run_id).state

    def test_it_waits_while_that_one_waits_itself(self, harness: LedgerHarness):
        last = write_following(harness, "purge x last")
        middle = harness.open(key="purge x middle", follows=True, next=last)
        harness.submit(["a"], next=NextRun(run_id=middle.run_id, token=middle.token, items=0))
        pass_leases(harness, 5)

        states = [harness.ledger.run(run).state for run in (middle.run_id, last.run_id)]
        assert [RunState.SUBMITTING] * 2 == states

    def test_it_is_cancelled_soon_where_its_client_vanished_before_that_one_was_written(
        self, harness: LedgerHarness
    ):
        following = write_following(harness)
        harness.advance(LEASE_SECONDS - 1)
        harness.ledger.sweep()
        assert RunState.SUBMITTING is harness.ledger.run(following.run_id).state
        harness.advance(2)

        assert 1 == harness.ledger.sweep()
        run = harness.ledger.run(following.run_id)
        assert run.error is not None
        assert (RunState.CANCELLED, "CoordinatorLostError") == (run.state, run.error.type)

    def test_it_is_cancelled_where_that_one_has_ended_and_did_not_start_it(self, harness: LedgerHarness):
        following = write_following(harness)
        first = harness.submit(["a"], next=following)
        harness.work_off()
        end_coordination(harness, first)
        pass_leases(harness, 2)

        assert RunState.CANCELLED is harness.ledger.run(following.run_id).state

    def test_a_chain_whose_client_vanished_before_the_start_is_cancelled(self, harness: LedgerHarness):
        following = write_following(harness)
        first = harness.open(next=following)
        pass_leases(harness, 1)
        assert RunState.CANCELLED is harness.ledger.run(first.run_id).state
        end_coordination(harness, first.run_id)
        pass_leases(harness, 2)

        assert RunState.CANCELLED is harness.ledger.run(following.run_id).state


class TestReplacing:
    @pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
    def test_a_run_takes_the_key_of_one_that_has_ended(self, harness: LedgerHarness, end: str):
        old = harness.submit(["a"], key="k", fingerprint="f")
        if end == "cancelled":
            harness.ledger.cancel(old)
        else:
            (harness.succeed if end == "succeeded" else harness.fail)(harness.take())
        assert end == harness.ledger.run(old).state

        new = harness.ledger.open(harness.spec(key="k", fingerprint="f"), replaces=old)
        assert (SubmissionKind.NEW, None) == (new.kind, new.previous)
        assert new.run_id == harness.ledger.run_under("k") != old

    def test_the_key_outlives_the_run_that_had_it(self, harness: LedgerHarness):
        old = harness.submit([], key="k", fingerprint="f")
        new = harness.ledger.open(harness.spec(key="k", fingerprint="f"), replaces=old)
        harness.ledger.append(new, ["a"])
        harness.ledger.start(new)
        harness.advance(RETENTION_SECONDS + 1)

        assert new.run_id == harness.ledger.run_under("k")

    def test_one_that_goes_on_is_attached_to(self, harness: LedgerHarness):
        old = harness.submit(["a"], key="k", fingerprint="f")

        attached = harness.ledger.open(harness.spec(key="k", fingerprint="f"), replaces=old)
        assert (SubmissionKind.ATTACHED, old) == (attached.kind, attached.run_id)

    def test_one_that_another_client_has_begun_is_kept(self, harness: LedgerHarness):
        old = harness.submit([], key="k", fingerprint="f")
        order = harness.spec(key="k", fingerprint="f")
        first = harness.ledger.open(order, replaces=old)

        second = harness.ledger.open(order, replaces=old)
        assert (SubmissionKind.ATTACHED, first.run_id) == (second.kind, second.run_id)

    def test_other_arguments_are_refused(self, harness: LedgerHarness):
        old = harness.submit([], key="k", fingerprint="f")

        with pytest.raises(KeyConflictError):
            harness.ledger.open(harness.spec(key="k", fingerprint="g"), replaces=old)
