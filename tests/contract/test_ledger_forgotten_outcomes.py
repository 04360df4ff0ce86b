"""What Redis forgets of outcomes and acknowledgements, and what the coordinator is told."""

from __future__ import annotations

import pytest

from stagefleet.errors import LedgerRewoundError
from stagefleet.runs.model import Callback, Outcome, RunState
from tests.contract.twins import Twin, skip_of


def next_outcomes(twin: Twin, run: str, after: str = "") -> list[Outcome]:
    outcomes = twin.outcomes(run, after)
    assert outcomes
    return outcomes


class TestForgottenAcknowledgements:
    def test_they_are_made_good_by_the_next(self, twin: Twin):
        """R4: a run does not wait for ever for an acknowledgement that Redis forgot."""
        run, epoch = twin.watch(["a", "b"], [skip_of("s")], parallel=1)
        twin.succeed(twin.take())
        first = next_outcomes(twin, run)
        kept = twin.snapshot()
        assert twin.ledger.acknowledge(run, epoch, first)
        twin.forget_since(kept)
        assert twin.ledger.acknowledge(run, epoch, [], before=first[-1].position)
        assert 1 == twin.ledger.run(run).published
        twin.succeed(twin.take())
        second = next_outcomes(twin, run, first[-1].position)

        assert twin.ledger.acknowledge(run, epoch, second, before=first[-1].position)
        assert RunState.SUCCEEDED is twin.ledger.run(run).state

    def test_they_count_also_where_nobody_says_that_they_were(self, twin: Twin):
        """R4: what is counted is what the stream has, not what the caller says."""
        run, epoch = twin.watch(["a", "b"], parallel=2)
        twin.staff(2)
        twin.succeed(twin.take())
        first = next_outcomes(twin, run)
        kept = twin.snapshot()
        assert twin.ledger.acknowledge(run, epoch, first)
        twin.forget_since(kept)
        twin.succeed(twin.take())
        second = next_outcomes(twin, run, first[-1].position)
        assert ["b"] == [outcome.item for outcome in second]

        assert twin.ledger.acknowledge(run, epoch, second)
        assert RunState.SUCCEEDED is twin.ledger.run(run).state


class TestForgottenOutcomes:
    def test_who_reads_on_behind_one_is_told(self, twin: Twin):
        """R4: nobody reads on behind a position that is not there, and so passes over what came instead."""
        run, _ = twin.watch(["a", "b"], parallel=2)
        twin.staff(2)
        kept = twin.snapshot()
        twin.succeed(twin.take())
        position = next_outcomes(twin, run)[-1].position
        twin.forget_since(kept)
        with pytest.raises(LedgerRewoundError):
            twin.outcomes(run, position)
        twin.succeed(twin.take())

        with pytest.raises(LedgerRewoundError):
            twin.outcomes(run, position)

    def test_who_acknowledges_one_is_told(self, twin: Twin):
        """R4: an acknowledgement of what was forgotten does not stand for what came instead."""
        run, epoch = twin.watch(["a", "b"], parallel=2)
        twin.staff(2)
        kept = twin.snapshot()
        twin.succeed(twin.take())
        forgotten = next_outcomes(twin, run)
        twin.forget_since(kept)
        twin.succeed(twin.take())
        with pytest.raises(LedgerRewoundError):
            twin.ledger.acknowledge(run, epoch, forgotten)

        assert "" == twin.ledger.acknowledged(run)
        assert twin.ledger.acknowledge(run, epoch, next_outcomes(twin, run))

    def test_who_acknowledges_what_followed_one_is_told(self, twin: Twin):
        """R4: neither do later outcomes, read behind it."""
        run, epoch = twin.watch(["a", "b", "c"], parallel=3)
        twin.staff(3)
        kept = twin.snapshot()
        twin.succeed(twin.take())
        forgotten = next_outcomes(twin, run)[-1].position
        twin.forget_since(kept)
        twin.succeed(twin.take())
        with pytest.raises(LedgerRewoundError):
            twin.ledger.acknowledge(run, epoch, next_outcomes(twin, run), before=forgotten)


class TestForgottenEpochs:
    def test_a_coordinator_whose_epoch_was_forgotten_is_told(self, twin: Twin):
        """R4: it is no other coordinator that has taken over: the same one coordinates again."""
        run = twin.submit(["a"], callback=Callback.CLIENT)
        kept = twin.snapshot()
        epoch = twin.ledger.coordinate(run)
        twin.forget_since(kept)
        with pytest.raises(LedgerRewoundError):
            twin.ledger.acknowledge(run, epoch, [])
        again = twin.ledger.coordinate(run)

        assert twin.ledger.acknowledge(run, again, [])

    def test_no_two_coordinators_ever_have_the_same(self, twin: Twin):
        """R23: an epoch that was forgotten is not given to somebody else."""
        run = twin.submit(["a"], callback=Callback.CLIENT)
        kept = twin.snapshot()
        epochs = set()
        for _ in range(20):
            epochs.add(twin.ledger.coordinate(run))
            twin.forget_since(kept)

        assert 20 == len(epochs)

    def test_no_two_visits_ever_have_the_same(self, twin: Twin):
        """R23: neither is that of a coordinator which nobody watches."""
        run = twin.submit(["a", "b"], callback=Callback.WEBHOOK, callback_target="http://receiver.example")
        twin.succeed(twin.take())
        kept = twin.snapshot()
        forgotten = twin.ledger.attend(run)
        twin.forget_since(kept)
        standing = twin.ledger.attend(run)
        assert forgotten is not None
        assert standing is not None

        assert not twin.ledger.leave(forgotten)
        assert not twin.ledger.renew_visit(forgotten)
        assert twin.ledger.leave(standing)


def test_a_cancellation_just_made_can_be_forgotten(twin: Twin):
    """R4: a run whose cancellation is lost goes on, and is accounted for."""
    run = twin.submit(["a", "b"], parallel=1)
    kept = twin.snapshot()
    assert twin.ledger.cancel(run)
    twin.forget_since(kept)
    twin.work_off()

    ended = twin.ledger.run(run)
    assert (RunState.SUCCEEDED, 2) == (ended.state, ended.succeeded)
