"""What Redis forgets of a submission, and what the submitter is told."""

from __future__ import annotations

import pytest

from stagefleet.errors import LeaseLostError, LedgerRewoundError, StagefleetError
from stagefleet.runs.model import Fate, RunState
from tests.contract.twins import LEASE_SECONDS, Twin, skip_of


class TestForgottenItems:
    def test_the_next_append_is_refused(self, twin: Twin):
        """R3: a chunk does not take the place of one that was forgotten."""
        submission = twin.open()
        twin.ledger.append(submission, ["a", "b"])
        kept = twin.snapshot()
        twin.ledger.append(submission, ["c", "d"])
        twin.forget_since(kept)

        with pytest.raises(LedgerRewoundError):
            twin.ledger.append(submission, ["e"])
        assert 2 == twin.ledger.run(submission.run).total

    @pytest.mark.parametrize("appended", [0, 1])
    def test_the_start_is_refused(self, twin: Twin, appended: int):
        """R3: a run does not start, and succeed, without the items that were forgotten."""
        submission = twin.open()
        for number in range(appended):
            twin.ledger.append(submission, [f"a{number}"])
        kept = twin.snapshot()
        twin.ledger.append(submission, ["z"], [skip_of("s")])
        twin.forget_since(kept)

        with pytest.raises(LedgerRewoundError):
            twin.ledger.start(submission)
        assert RunState.SUBMITTING is twin.ledger.run(submission.run).state

    def test_decided_outcomes_count_as_well(self, twin: Twin):
        """R3: a skip that was forgotten is missed like an item."""
        submission = twin.open()
        kept = twin.snapshot()
        twin.ledger.append(submission, [], [skip_of("s")])
        twin.forget_since(kept)

        with pytest.raises(LedgerRewoundError):
            twin.ledger.start(submission)

    def test_a_run_that_was_forgotten_takes_nothing(self, twin: Twin):
        """R3: who submits a run that Redis has forgotten as a whole is told so."""
        kept = twin.snapshot()
        submission = twin.open()
        twin.forget_since(kept)

        with pytest.raises(LedgerRewoundError):
            twin.ledger.append(submission, ["a"])
        with pytest.raises(LedgerRewoundError):
            twin.ledger.start(submission)


class TestAgain:
    def test_the_run_is_emptied_and_kept(self, twin: Twin):
        """R3: the same run is written from its first item, at once and not after the lease."""
        submission = twin.open(key="k", fingerprint="f")
        twin.ledger.append(submission, ["a"], [skip_of("s")])
        order = twin.ledger.order(submission.run)
        assert order is not None
        again = twin.ledger.open(order, again=submission)

        assert (submission.run, Fate.NEW, 0) == (again.run, again.fate, twin.ledger.run(again.run).total)
        with pytest.raises(LeaseLostError):
            twin.ledger.append(submission, ["b"])
        twin.ledger.append(again, ["a"])
        twin.ledger.start(again)
        assert 1 == twin.work_off()
        assert RunState.SUCCEEDED is twin.ledger.run(again.run).state

    def test_a_run_that_goes_on_with_another_still_does(self, twin: Twin):
        """R3: what the run before left is appended anew, not the whole."""
        old = twin.submit(["a", "b"], key="k", fingerprint="f")
        twin.ledger.cancel(old)
        submission = twin.open(key="k", fingerprint="f")
        again = twin.ledger.open(twin.order(key="k", fingerprint="f"), again=submission)

        assert (submission.run, Fate.CONTINUED, old) == (again.run, again.fate, again.previous)

    def test_a_run_that_is_gone_is_opened_as_a_new_one(self, twin: Twin):
        """R3: nothing of it was kept, so it has another id."""
        kept = twin.snapshot()
        submission = twin.open()
        twin.forget_since(kept)
        again = twin.ledger.open(twin.order(), again=submission)

        assert (Fate.NEW, False) == (again.fate, again.run == submission.run)

    def test_a_run_that_another_has_taken_over_stays_with_that_one(self, twin: Twin):
        """R3: who was taken for dead does not take the run back."""
        order = twin.order(key="k", fingerprint="f")
        slow = twin.ledger.open(order)
        twin.advance(LEASE_SECONDS + 1)
        heir = twin.ledger.open(order)
        again = twin.ledger.open(order, again=slow)

        assert Fate.ATTACHED is again.fate
        twin.ledger.append(heir, ["a"])


def test_no_two_submitters_ever_have_the_same_right(twin: Twin):
    """R3: a take-over that Redis forgot and one that it knows do not write into each other's run."""
    order = twin.order(key="k", fingerprint="f")
    twin.ledger.open(order)
    twin.advance(LEASE_SECONDS + 1)
    kept = twin.snapshot()
    forgotten = twin.ledger.open(order)
    twin.forget_since(kept)
    standing = twin.ledger.open(order)

    assert forgotten.token != standing.token
    with pytest.raises(StagefleetError):
        twin.ledger.append(forgotten, ["x"])
    twin.ledger.append(standing, ["a"])
    twin.ledger.start(standing)
    assert ["a"] == list(twin.ledger.leftovers(standing.run))


def test_a_run_just_opened_and_its_key_can_be_forgotten(twin: Twin):
    """R3: what nobody holds any more is gone with the writes that were lost; the same call starts it anew."""
    kept = twin.snapshot()
    run = twin.submit(["a"], key="k", fingerprint="f")
    twin.forget_since(kept)

    assert [] == list(twin.ledger.runs())
    assert not twin.ledger.has_key("k")
    again = twin.open(key="k", fingerprint="f")
    assert (Fate.NEW, False) == (again.fate, again.run == run)
