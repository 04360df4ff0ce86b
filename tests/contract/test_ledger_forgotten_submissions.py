"""What Redis forgets of a submission, and what the submitter is told."""

from __future__ import annotations

import pytest

from stagefleet.errors import LeaseLostError, LedgerRewoundError, StagefleetError
from stagefleet.runs.models import RunState, SubmissionKind
from tests.contract.ledgers import LEASE_SECONDS, LedgerHarness, skip_of


class TestForgottenItems:
    def test_the_next_append_is_refused(self, harness: LedgerHarness):
        """R3: a chunk does not take the place of one that was forgotten."""
        submission = harness.open()
        harness.ledger.append(submission, ["a", "b"])
        kept = harness.snapshot()
        harness.ledger.append(submission, ["c", "d"])
        harness.forget_since(kept)

        with pytest.raises(LedgerRewoundError):
            harness.ledger.append(submission, ["e"])
        assert 2 == harness.ledger.run(submission.run_id).total

    @pytest.mark.parametrize("appended", [0, 1])
    def test_the_start_is_refused(self, harness: LedgerHarness, appended: int):
        """R3: a run does not start, and succeed, without the items that were forgotten."""
        submission = harness.open()
        for number in range(appended):
            harness.ledger.append(submission, [f"a{number}"])
        kept = harness.snapshot()
        harness.ledger.append(submission, ["z"], [skip_of("s")])
        harness.forget_since(kept)

        with pytest.raises(LedgerRewoundError):
            harness.ledger.start(submission)
        assert RunState.SUBMITTING is harness.ledger.run(submission.run_id).state

    def test_decided_outcomes_count_as_well(self, harness: LedgerHarness):
        """R3: a skip that was forgotten is missed like an item."""
        submission = harness.open()
        kept = harness.snapshot()
        harness.ledger.append(submission, [], [skip_of("s")])
        harness.forget_since(kept)

        with pytest.raises(LedgerRewoundError):
            harness.ledger.start(submission)

    def test_a_run_that_was_forgotten_takes_nothing(self, harness: LedgerHarness):
        """R3: who submits a run that Redis has forgotten as a whole is told so."""
        kept = harness.snapshot()
        submission = harness.open()
        harness.forget_since(kept)

        with pytest.raises(LedgerRewoundError):
            harness.ledger.append(submission, ["a"])
        with pytest.raises(LedgerRewoundError):
            harness.ledger.start(submission)


class TestAgain:
    def test_the_run_is_emptied_and_kept(self, harness: LedgerHarness):
        """R3: the same run is written from its first item, at once and not after the lease."""
        submission = harness.open(key="k", fingerprint="f")
        harness.ledger.append(submission, ["a"], [skip_of("s")])
        spec = harness.ledger.spec(submission.run_id)
        assert spec is not None
        again = harness.ledger.open(spec, again=submission)

        assert (submission.run_id, SubmissionKind.NEW, 0) == (
            again.run_id,
            again.kind,
            harness.ledger.run(again.run_id).total,
        )
        with pytest.raises(LeaseLostError):
            harness.ledger.append(submission, ["b"])
        harness.ledger.append(again, ["a"])
        harness.ledger.start(again)
        assert 1 == harness.work_off()
        assert RunState.SUCCEEDED is harness.ledger.run(again.run_id).state

    def test_a_run_that_goes_on_with_another_still_does(self, harness: LedgerHarness):
        """R3: what the run before left is appended anew, not the whole."""
        old = harness.submit(["a", "b"], key="k", fingerprint="f")
        harness.ledger.cancel(old)
        submission = harness.open(key="k", fingerprint="f")
        again = harness.ledger.open(harness.spec(key="k", fingerprint="f"), again=submission)

        assert (submission.run_id, SubmissionKind.CONTINUED, old) == (
            again.run_id,
            again.kind,
            again.previous,
        )

    def test_a_run_that_is_gone_is_opened_as_a_new_one(self, harness: LedgerHarness):
        """R3: nothing of it was kept, so it has another id."""
        kept = harness.snapshot()
        submission = harness.open()
        harness.forget_since(kept)
        again = harness.ledger.open(harness.spec(), again=submission)

        assert (SubmissionKind.NEW, False) == (again.kind, again.run_id == submission.run_id)

    def test_a_run_that_another_has_taken_over_stays_with_that_one(self, harness: LedgerHarness):
        """R3: who was taken for dead does not take the run back."""
        spec = harness.spec(key="k", fingerprint="f")
        slow = harness.ledger.open(spec)
        harness.advance(LEASE_SECONDS + 1)
        heir = harness.ledger.open(spec)
        again = harness.ledger.open(spec, again=slow)

        assert SubmissionKind.ATTACHED is again.kind
        harness.ledger.append(heir, ["a"])


def test_no_two_submitters_ever_have_the_same_right(harness: LedgerHarness):
    """R3: a take-over that Redis forgot and one that it knows do not write into each other's run."""
    spec = harness.spec(key="k", fingerprint="f")
    harness.ledger.open(spec)
    harness.advance(LEASE_SECONDS + 1)
    kept = harness.snapshot()
    forgotten = harness.ledger.open(spec)
    harness.forget_since(kept)
    standing = harness.ledger.open(spec)

    assert forgotten.token != standing.token
    with pytest.raises(StagefleetError):
        harness.ledger.append(forgotten, ["x"])
    harness.ledger.append(standing, ["a"])
    harness.ledger.start(standing)
    assert ["a"] == [item for _, item in harness.ledger.leftovers(standing.run_id)]


def test_a_run_just_opened_and_its_key_can_be_forgotten(harness: LedgerHarness):
    """R3: what nobody holds any more is gone with the writes that were lost; the same call starts it anew."""
    kept = harness.snapshot()
    run_id = harness.submit(["a"], key="k", fingerprint="f")
    harness.forget_since(kept)

    assert [] == list(harness.ledger.runs())
    assert not harness.ledger.run_under("k")
    again = harness.open(key="k", fingerprint="f")
    assert (SubmissionKind.NEW, False) == (again.kind, again.run_id == run_id)
