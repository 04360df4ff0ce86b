"""What `CoordinatorLedger` promises."""

from __future__ import annotations

import threading

import pytest

from stagefleet.errors import RunNotFoundError
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, RunState
from tests.contract.ledgers import (
    LEASE_SECONDS,
    RETENTION_SECONDS,
    LedgerHarness,
    RedisBroker,
    outcome_of,
    skip_of,
)

BOOM = ErrorInfo(type="ValueError", message="boom")


def read(harness: LedgerHarness, run_id: str, after: str = "", limit: int = 1000) -> list[Outcome]:
    outcomes = harness.outcomes(run_id, after, limit)
    assert outcomes is not None
    return outcomes


class TestRuns:
    def test_all_are_listed_the_newest_first(self, harness: LedgerHarness):
        ids = []
        for _ in range(3):
            ids.append(harness.submit(["a"]))
            harness.advance(1)

        assert list(reversed(ids)) == [run.id for run in harness.ledger.runs()]

    def test_an_unknown_one_is_refused(self, harness: LedgerHarness):
        with pytest.raises(RunNotFoundError):
            harness.ledger.run("nowhere")
        with pytest.raises(RunNotFoundError):
            harness.ledger.cancel("nowhere")
        with pytest.raises(RunNotFoundError):
            harness.ledger.coordinate("nowhere")
        with pytest.raises(RunNotFoundError):
            harness.ledger.acknowledged("nowhere")
        with pytest.raises(RunNotFoundError):
            harness.outcomes("nowhere")

    def test_one_is_found_by_how_its_id_begins(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        expected = (run_id, harness.ledger.run(run_id).lease_seconds)
        for text in (run_id[:8], run_id):
            assert [expected] == [(run.id, run.lease_seconds) for run in harness.ledger.runs(beginning=text)]
        assert [] == [
            found
            for text in ("nowhere", "*", "?", run_id[:3] + "*")
            for found in harness.ledger.runs(beginning=text)
        ]

    def test_those_of_one_beginning_are_listed_the_newest_first(self, harness: LedgerHarness):
        ids = []
        for _ in range(40):
            ids.append(harness.submit(["a"]))
            harness.advance(1)
        text = ids[0][0]

        found = [run.id for run in harness.ledger.runs(beginning=text)]

        assert [run_id for run_id in reversed(ids) if run_id.startswith(text)] == found

    def test_the_time_that_a_run_took_stands_still_after_its_end(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        harness.advance(5)
        harness.work_off()
        seconds = harness.ledger.run(run_id).seconds
        harness.advance(50)

        assert seconds >= 5
        assert seconds == harness.ledger.run(run_id).seconds

    def test_finished_ones_vanish_after_their_retention(self, harness: LedgerHarness):
        run_id = harness.submit(["a"], key="k", fingerprint="f")
        failed = harness.submit(["b", "c"])
        harness.fail(harness.take())
        harness.work_off()
        live = harness.submit(["d"])
        if isinstance(harness.broker, RedisBroker):
            # The server lets keys expire by its own clock: what can be seen is when.
            client, prefix = harness.broker.client, harness.broker.prefix
            keys = [key for kept in (run_id, failed) for key in client.scan_iter(f"{prefix}run:{kept}*")]
            keys.append(f"{prefix}key:k")
            assert all(0 < client.pttl(key) <= RETENTION_SECONDS * 1000 for key in keys)
            assert -1 == client.pttl(f"{prefix}run:{live}")
            client.delete(*keys)
        else:
            harness.advance(RETENTION_SECONDS + 1)

        assert [live] == [found.id for found in harness.ledger.runs()]
        assert None is harness.ledger.spec(run_id)
        with pytest.raises(RunNotFoundError):
            harness.ledger.run(run_id)
        assert harness.open(key="k", fingerprint="another").run_id != run_id


class TestOutcomes:
    def test_they_come_in_the_order_of_completion_from_any_position(self, harness: LedgerHarness):
        harness.staff(4)
        run_id = harness.submit(["a", "b", "c"], [skip_of("z")])
        first, second, third = harness.take(), harness.take(), harness.take()
        for claim in (third, first):
            harness.succeed(claim)
        outcomes = read(harness, run_id)
        harness.succeed(second)

        assert ["z", "c", "a"] == [outcome.item for outcome in outcomes]
        assert ["c", "a", "b"] == [outcome.item for outcome in read(harness, run_id, outcomes[0].position)]
        assert ["z", "c"] == [outcome.item for outcome in read(harness, run_id, limit=2)]
        assert None is harness.outcomes(run_id, read(harness, run_id)[-1].position)

    def test_none_yet_is_an_empty_list(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])

        assert [] == harness.outcomes(run_id)
        assert [] == harness.ledger.outcomes(run_id, "", limit=1, block_seconds=0.01)

    def test_a_decided_outcome_has_no_attempts(self, harness: LedgerHarness):
        run_id = harness.submit(["a"], [skip_of("z")])

        assert [("z", 0)] == [(outcome.item, outcome.attempts) for outcome in read(harness, run_id)]

    def test_who_waits_is_woken_by_the_next_one(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        claim = harness.take()
        found: list[Outcome] = []

        def wait() -> None:
            while not found:
                found.extend(harness.ledger.outcomes(run_id, "", limit=10, block_seconds=30) or [])

        waiter = threading.Thread(target=wait)
        waiter.start()
        harness.succeed(claim)
        waiter.join(timeout=30)

        assert ["a"] == [outcome.item for outcome in found]

    def test_who_waits_is_woken_by_the_end(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        answers: list[object] = []

        def wait() -> None:
            while (answer := harness.ledger.outcomes(run_id, "", limit=10, block_seconds=30)) is not None:
                assert [] == answer
            answers.append(answer)

        waiter = threading.Thread(target=wait)
        waiter.start()
        harness.ledger.cancel(run_id)
        waiter.join(timeout=30)

        assert [None] == answers


class TestAcknowledgement:
    def test_the_window_counts_what_is_not_acknowledged(self, harness: LedgerHarness):
        harness.staff(10)
        run_id, epoch = harness.watch(["a", "b", "c"], parallel=2)
        harness.succeed(harness.take())
        harness.succeed(harness.take())
        assert [] == harness.messages()
        first, second = read(harness, run_id)
        assert harness.ledger.acknowledge(run_id, epoch, [first])
        assert [2] == harness.indexes()
        assert harness.ledger.acknowledge(run_id, epoch, [second])

        assert second.position == harness.ledger.acknowledged(run_id)
        assert RunState.RUNNING is harness.ledger.run(run_id).state

    def test_the_run_ends_with_the_last_one(self, harness: LedgerHarness):
        run_id, epoch = harness.watch(["a"])
        harness.work_off()
        assert RunState.RUNNING is harness.ledger.run(run_id).state
        harness.ledger.acknowledge(run_id, epoch, read(harness, run_id))

        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state
        assert not harness.ledger.acknowledge(run_id, epoch, [])

    def test_skips_are_called_back_too_but_take_no_place(self, harness: LedgerHarness):
        run_id, epoch = harness.watch(["a"], [skip_of("x"), skip_of("y")], parallel=1)
        assert [0] == harness.indexes()
        harness.work_off()
        outcomes = read(harness, run_id)
        assert ["x", "y", "a"] == [outcome.item for outcome in outcomes]
        harness.ledger.acknowledge(run_id, epoch, outcomes[:1])
        harness.ledger.acknowledge(run_id, epoch, outcomes[1:])

        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state

    def test_a_run_of_skips_alone_waits_for_its_callbacks(self, harness: LedgerHarness):
        run_id, epoch = harness.watch([], [skip_of("x")])
        assert RunState.RUNNING is harness.ledger.run(run_id).state
        harness.ledger.acknowledge(run_id, epoch, read(harness, run_id))

        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state

    def test_repeating_one_changes_nothing(self, harness: LedgerHarness):
        harness.staff(10)
        run_id, epoch = harness.watch(["a", "b", "c", "d"], parallel=2)
        harness.succeed(harness.take())
        outcomes = read(harness, run_id)
        for _ in range(3):
            assert harness.ledger.acknowledge(run_id, epoch, outcomes)

        found = harness.ledger.run(run_id)
        assert 2 == found.published + found.claimed
        assert outcomes[-1].position == harness.ledger.acknowledged(run_id)

    def test_a_second_coordinator_fences_off_the_first(self, harness: LedgerHarness):
        run_id, first = harness.watch(["a", "b"])
        harness.succeed(harness.take())
        second = harness.ledger.coordinate(run_id)

        assert second > first
        assert not harness.ledger.acknowledge(run_id, first, read(harness, run_id))
        assert "" == harness.ledger.acknowledged(run_id)
        assert harness.ledger.acknowledge(run_id, second, read(harness, run_id))

    def test_it_keeps_the_clients_lease(self, harness: LedgerHarness):
        run_id, epoch = harness.watch(["a"])
        for _ in range(4):
            harness.advance(LEASE_SECONDS / 2)
            harness.ledger.acknowledge(run_id, epoch, [])
            harness.ledger.sweep()

        assert RunState.RUNNING is harness.ledger.run(run_id).state

    def test_a_stale_coordinator_keeps_no_lease(self, harness: LedgerHarness):
        run_id, first = harness.watch(["a"])
        harness.ledger.coordinate(run_id)
        for _ in range(3):
            harness.advance(LEASE_SECONDS / 2)
            harness.ledger.acknowledge(run_id, first, [])
        harness.ledger.sweep()

        assert RunState.CANCELLED is harness.ledger.run(run_id).state

    def test_a_cancelled_outcome_needs_none(self, harness: LedgerHarness):
        run_id, _ = harness.watch(["a"])
        claim = harness.take()
        harness.ledger.cancel(run_id, now=True)
        harness.ledger.finish(claim, outcome_of(claim, ItemState.CANCELLED))

        assert RunState.CANCELLED is harness.ledger.run(run_id).state
        assert [ItemState.CANCELLED] == [outcome.state for outcome in read(harness, run_id)]

    def test_acknowledging_past_a_cancelled_outcome_frees_only_what_was_held(self, harness: LedgerHarness):
        harness.staff(10)
        run_id, epoch = harness.watch(["a", "b", "c"], parallel=3)
        claims = [harness.take() for _ in range(3)]
        harness.succeed(claims[0])
        harness.ledger.cancel(run_id, now=True)
        harness.ledger.finish(claims[1], outcome_of(claims[1], ItemState.CANCELLED))
        harness.ledger.acknowledge(run_id, epoch, read(harness, run_id))
        assert RunState.CANCELLING is harness.ledger.run(run_id).state
        last = read(harness, run_id)[-1].position
        harness.succeed(claims[2])
        assert RunState.CANCELLING is harness.ledger.run(run_id).state
        harness.ledger.acknowledge(run_id, epoch, read(harness, run_id, last))

        assert RunState.CANCELLED is harness.ledger.run(run_id).state


class TestCancellation:
    def test_what_is_pending_is_cancelled_and_what_runs_finishes(self, harness: LedgerHarness):
        harness.staff(3)
        run_id = harness.submit(["a", "b", "c", "d", "e"], parallel=3)
        claim = harness.take()
        harness.fail(harness.take(), retry_after_seconds=1)
        assert harness.ledger.cancel(run_id)
        found = harness.ledger.run(run_id)
        assert (RunState.CANCELLING, 4, 1) == (found.state, found.cancelled, found.claimed)
        assert (0, 0) == (found.published, found.waiting)
        harness.succeed(claim)

        ended = harness.ledger.run(run_id)
        assert (RunState.CANCELLED, 4, 1) == (ended.state, ended.cancelled, ended.succeeded)
        assert ["a"] == [outcome.item for outcome in read(harness, run_id)]

    def test_a_run_with_nothing_under_way_is_cancelled_at_once(self, harness: LedgerHarness):
        run_id = harness.submit(["a", "b"])
        harness.ledger.cancel(run_id)

        assert RunState.CANCELLED is harness.ledger.run(run_id).state
        assert None is harness.outcomes(run_id)

    def test_a_submitting_run_is_cancelled_at_once(self, harness: LedgerHarness):
        submission = harness.open()
        harness.ledger.append(submission, ["a", "b"])
        assert harness.ledger.cancel(submission.run_id)
        harness.ledger.start(submission)

        found = harness.ledger.run(submission.run_id)
        assert (RunState.CANCELLED, 2) == (found.state, found.cancelled)
        assert [] == harness.messages()

    def test_a_final_run_cannot_be_cancelled(self, harness: LedgerHarness):
        run_id = harness.submit([])

        assert not harness.ledger.cancel(run_id, error=BOOM)
        found = harness.ledger.run(run_id)
        assert (RunState.SUCCEEDED, None) == (found.state, found.error)

    def test_an_error_is_kept_and_the_first_one_stays(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        harness.take()
        harness.ledger.cancel(run_id)
        harness.ledger.cancel(run_id, error=BOOM)
        harness.ledger.cancel(run_id, error=ErrorInfo(type="KeyError", message="later"))

        assert BOOM == harness.ledger.run(run_id).error

    def test_with_an_error_nothing_waits_for_acknowledgement(self, harness: LedgerHarness):
        harness.staff(4)
        run_id, epoch = harness.watch(["a", "b", "c"])
        harness.succeed(harness.take())
        claim = harness.take()
        harness.ledger.cancel(run_id, error=BOOM)
        assert RunState.CANCELLING is harness.ledger.run(run_id).state
        assert harness.ledger.acknowledge(run_id, epoch, read(harness, run_id))
        harness.succeed(claim)

        assert RunState.CANCELLED is harness.ledger.run(run_id).state

    def test_without_an_error_the_callbacks_are_waited_for(self, harness: LedgerHarness):
        run_id, epoch = harness.watch(["a", "b"])
        harness.succeed(harness.take())
        harness.ledger.cancel(run_id)
        assert RunState.CANCELLING is harness.ledger.run(run_id).state
        harness.ledger.acknowledge(run_id, epoch, read(harness, run_id))

        assert RunState.CANCELLED is harness.ledger.run(run_id).state

    def test_a_cancelled_item_has_an_outcome_and_is_left_over(self, harness: LedgerHarness):
        run_id = harness.submit(["a"])
        claim = harness.take()
        harness.ledger.cancel(run_id, now=True)
        harness.ledger.finish(claim, outcome_of(claim, ItemState.CANCELLED))

        found = harness.ledger.run(run_id)
        assert (RunState.CANCELLED, 1, 1) == (found.state, found.cancelled, found.total)
        assert ["a"] == [item for _, item in harness.ledger.leftovers(run_id)]
