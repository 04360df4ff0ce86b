"""What Redis forgets of outcomes and acknowledgements, and what the coordinator is told."""

from __future__ import annotations

import pytest

from stagefleet.errors import LedgerRewoundError
from stagefleet.runs.models import Callback, Outcome, RunState
from tests.contract.ledgers import LedgerHarness, skip_of


def next_outcomes(harness: LedgerHarness, run_id: str, after: str = "") -> list[Outcome]:
    outcomes = harness.outcomes(run_id, after)
    assert outcomes
    return outcomes


class TestForgottenAcknowledgements:
    def test_they_are_made_good_by_the_next(self, harness: LedgerHarness):
        """R4: a run does not wait for ever for an acknowledgement that Redis forgot."""
        run_id, epoch = harness.watch(["a", "b"], [skip_of("s")], parallel=1)
        harness.succeed(harness.take())
        first = next_outcomes(harness, run_id)
        kept = harness.snapshot()
        assert harness.ledger.acknowledge(run_id, epoch, first)
        harness.forget_since(kept)
        assert harness.ledger.acknowledge(run_id, epoch, [], before=first[-1].position)
        assert 1 == harness.ledger.run(run_id).published
        harness.succeed(harness.take())
        second = next_outcomes(harness, run_id, first[-1].position)

        assert harness.ledger.acknowledge(run_id, epoch, second, before=first[-1].position)
        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state

    def test_they_count_also_where_nobody_says_that_they_were(self, harness: LedgerHarness):
        """R4: what is counted is what the stream has, not what the caller says."""
        run_id, epoch = harness.watch(["a", "b"], parallel=2)
        harness.staff(2)
        harness.succeed(harness.take())
        first = next_outcomes(harness, run_id)
        kept = harness.snapshot()
        assert harness.ledger.acknowledge(run_id, epoch, first)
        harness.forget_since(kept)
        harness.succeed(harness.take())
        second = next_outcomes(harness, run_id, first[-1].position)
        assert ["b"] == [outcome.item for outcome in second]

        assert harness.ledger.acknowledge(run_id, epoch, second)
        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state


class TestForgottenOutcomes:
    def test_who_reads_on_behind_one_is_told(self, harness: LedgerHarness):
        """R4: nobody reads on behind a position that is not there, and so passes over what came instead."""
        run_id, _ = harness.watch(["a", "b"], parallel=2)
        harness.staff(2)
        kept = harness.snapshot()
        harness.succeed(harness.take())
        position = next_outcomes(harness, run_id)[-1].position
        harness.forget_since(kept)
        with pytest.raises(LedgerRewoundError):
            harness.outcomes(run_id, position)
        harness.succeed(harness.take())

        with pytest.raises(LedgerRewoundError):
            harness.outcomes(run_id, position)

    def test_who_acknowledges_one_is_told(self, harness: LedgerHarness):
        """R4: an acknowledgement of what was forgotten does not stand for what came instead."""
        run_id, epoch = harness.watch(["a", "b"], parallel=2)
        harness.staff(2)
        kept = harness.snapshot()
        harness.succeed(harness.take())
        forgotten = next_outcomes(harness, run_id)
        harness.forget_since(kept)
        harness.succeed(harness.take())
        with pytest.raises(LedgerRewoundError):
            harness.ledger.acknowledge(run_id, epoch, forgotten)

        assert "" == harness.ledger.acknowledged(run_id)
        assert harness.ledger.acknowledge(run_id, epoch, next_outcomes(harness, run_id))

    def test_who_acknowledges_what_followed_one_is_told(self, harness: LedgerHarness):
        """R4: neither do later outcomes, read behind it."""
        run_id, epoch = harness.watch(["a", "b", "c"], parallel=3)
        harness.staff(3)
        kept = harness.snapshot()
        harness.succeed(harness.take())
        forgotten = next_outcomes(harness, run_id)[-1].position
        harness.forget_since(kept)
        harness.succeed(harness.take())
        with pytest.raises(LedgerRewoundError):
            harness.ledger.acknowledge(run_id, epoch, next_outcomes(harness, run_id), before=forgotten)


class TestForgottenEpochs:
    def test_a_coordinator_whose_epoch_was_forgotten_is_told(self, harness: LedgerHarness):
        """R4: it is no other coordinator that has taken over: the same one coordinates again."""
        run_id = harness.submit(["a"], callback=Callback.CLIENT)
        kept = harness.snapshot()
        epoch = harness.ledger.coordinate(run_id)
        harness.forget_since(kept)
        with pytest.raises(LedgerRewoundError):
            harness.ledger.acknowledge(run_id, epoch, [])
        again = harness.ledger.coordinate(run_id)

        assert harness.ledger.acknowledge(run_id, again, [])

    def test_no_two_coordinators_ever_have_the_same(self, harness: LedgerHarness):
        """R23: an epoch that was forgotten is not given to somebody else."""
        run_id = harness.submit(["a"], callback=Callback.CLIENT)
        kept = harness.snapshot()
        epochs = set()
        for _ in range(20):
            epochs.add(harness.ledger.coordinate(run_id))
            harness.forget_since(kept)

        assert 20 == len(epochs)

    def test_no_two_coordinations_ever_have_the_same(self, harness: LedgerHarness):
        """R23: neither is that of a coordinator which nobody watches."""
        run_id = harness.submit(
            ["a", "b"], callback=Callback.WEBHOOK, callback_target="http://receiver.example"
        )
        harness.succeed(harness.take())
        kept = harness.snapshot()
        forgotten = harness.ledger.callbacks.claim(run_id)
        harness.forget_since(kept)
        standing = harness.ledger.callbacks.claim(run_id)
        assert forgotten is not None
        assert standing is not None

        assert not harness.ledger.callbacks.release(forgotten)
        assert not harness.ledger.callbacks.renew(forgotten)
        assert harness.ledger.callbacks.release(standing)


def test_a_cancellation_just_made_can_be_forgotten(harness: LedgerHarness):
    """R4: a run whose cancellation is lost goes on, and is accounted for."""
    run_id = harness.submit(["a", "b"], parallel=1)
    kept = harness.snapshot()
    assert harness.ledger.cancel(run_id)
    harness.forget_since(kept)
    harness.work_off()

    ended = harness.ledger.run(run_id)
    assert (RunState.SUCCEEDED, 2) == (ended.state, ended.succeeded)
