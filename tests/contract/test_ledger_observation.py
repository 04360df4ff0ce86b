"""What `Observer` promises."""

from __future__ import annotations

import threading

import pytest

from stagefleet.errors import RunNotFoundError
from stagefleet.runs.model import ErrorInfo, ItemState, Outcome, RunState
from tests.contract.twins import LEASE_SECONDS, RETENTION_SECONDS, RedisBroker, Twin, outcome_of, skip_of

BOOM = ErrorInfo(type="ValueError", message="boom")


def read(twin: Twin, run: str, after: str = "", limit: int = 1000) -> list[Outcome]:
    outcomes = twin.outcomes(run, after, limit)
    assert outcomes is not None
    return outcomes


class TestRuns:
    def test_all_are_listed_the_newest_first(self, twin: Twin):
        ids = []
        for _ in range(3):
            ids.append(twin.submit(["a"]))
            twin.advance(1)

        assert list(reversed(ids)) == [run.id for run in twin.ledger.runs()]

    def test_an_unknown_one_is_refused(self, twin: Twin):
        with pytest.raises(RunNotFoundError):
            twin.ledger.run("nowhere")
        with pytest.raises(RunNotFoundError):
            twin.ledger.cancel("nowhere")
        with pytest.raises(RunNotFoundError):
            twin.ledger.coordinate("nowhere")
        with pytest.raises(RunNotFoundError):
            twin.ledger.acknowledged("nowhere")
        with pytest.raises(RunNotFoundError):
            twin.outcomes("nowhere")

    def test_one_is_found_by_how_its_id_begins(self, twin: Twin):
        run = twin.submit(["a"])
        assert [run] == twin.ledger.runs_beginning(run[:8])
        assert [run] == twin.ledger.runs_beginning(run)
        assert [] == twin.ledger.runs_beginning("nowhere")
        assert [] == [
            found for text in ("*", "?", "", run[:3] + "*") for found in twin.ledger.runs_beginning(text)
        ]

    def test_the_time_that_a_run_took_stands_still_after_its_end(self, twin: Twin):
        run = twin.submit(["a"])
        twin.advance(5)
        twin.work_off()
        seconds = twin.ledger.run(run).seconds
        twin.advance(50)

        assert seconds >= 5
        assert seconds == twin.ledger.run(run).seconds

    def test_finished_ones_vanish_after_their_retention(self, twin: Twin):
        run = twin.submit(["a"], key="k", fingerprint="f")
        failed = twin.submit(["b", "c"])
        twin.fail(twin.take())
        twin.work_off()
        live = twin.submit(["d"])
        if isinstance(twin.broker, RedisBroker):
            # The server lets keys expire by its own clock: what can be seen is when.
            client, prefix = twin.broker.client, twin.broker.prefix
            keys = [key for kept in (run, failed) for key in client.scan_iter(f"{prefix}run:{kept}*")]
            keys.append(f"{prefix}key:k")
            assert all(0 < client.pttl(key) <= RETENTION_SECONDS * 1000 for key in keys)
            assert -1 == client.pttl(f"{prefix}run:{live}")
            client.delete(*keys)
        else:
            twin.advance(RETENTION_SECONDS + 1)

        assert [live] == [found.id for found in twin.ledger.runs()]
        assert None is twin.ledger.order(run)
        with pytest.raises(RunNotFoundError):
            twin.ledger.run(run)
        assert twin.open(key="k", fingerprint="another").run != run


class TestOutcomes:
    def test_they_come_in_the_order_of_completion_from_any_position(self, twin: Twin):
        twin.staff(4)
        run = twin.submit(["a", "b", "c"], [skip_of("z")])
        first, second, third = twin.take(), twin.take(), twin.take()
        for claim in (third, first):
            twin.succeed(claim)
        outcomes = read(twin, run)
        twin.succeed(second)

        assert ["z", "c", "a"] == [outcome.item for outcome in outcomes]
        assert ["c", "a", "b"] == [outcome.item for outcome in read(twin, run, outcomes[0].position)]
        assert ["z", "c"] == [outcome.item for outcome in read(twin, run, limit=2)]
        assert None is twin.outcomes(run, read(twin, run)[-1].position)

    def test_none_yet_is_an_empty_list(self, twin: Twin):
        run = twin.submit(["a"])

        assert [] == twin.outcomes(run)
        assert [] == twin.ledger.outcomes(run, "", limit=1, block_seconds=0.01)

    def test_a_decided_outcome_has_no_attempts(self, twin: Twin):
        run = twin.submit(["a"], [skip_of("z")])

        assert [("z", 0)] == [(outcome.item, outcome.attempts) for outcome in read(twin, run)]

    def test_who_waits_is_woken_by_the_next_one(self, twin: Twin):
        run = twin.submit(["a"])
        claim = twin.take()
        found: list[Outcome] = []

        def wait() -> None:
            while not found:
                found.extend(twin.ledger.outcomes(run, "", limit=10, block_seconds=30) or [])

        waiter = threading.Thread(target=wait)
        waiter.start()
        twin.succeed(claim)
        waiter.join(timeout=30)

        assert ["a"] == [outcome.item for outcome in found]

    def test_who_waits_is_woken_by_the_end(self, twin: Twin):
        run = twin.submit(["a"])
        answers: list[object] = []

        def wait() -> None:
            while (answer := twin.ledger.outcomes(run, "", limit=10, block_seconds=30)) is not None:
                assert [] == answer
            answers.append(answer)

        waiter = threading.Thread(target=wait)
        waiter.start()
        twin.ledger.cancel(run)
        waiter.join(timeout=30)

        assert [None] == answers


class TestAcknowledgement:
    def test_the_window_counts_what_is_not_acknowledged(self, twin: Twin):
        twin.staff(10)
        run, epoch = twin.watch(["a", "b", "c"], parallel=2)
        twin.succeed(twin.take())
        twin.succeed(twin.take())
        assert [] == twin.messages()
        first, second = read(twin, run)
        assert twin.ledger.acknowledge(run, epoch, [first])
        assert [2] == twin.indexes()
        assert twin.ledger.acknowledge(run, epoch, [second])

        assert second.position == twin.ledger.acknowledged(run)
        assert RunState.RUNNING is twin.ledger.run(run).state

    def test_the_run_ends_with_the_last_one(self, twin: Twin):
        run, epoch = twin.watch(["a"])
        twin.work_off()
        assert RunState.RUNNING is twin.ledger.run(run).state
        twin.ledger.acknowledge(run, epoch, read(twin, run))

        assert RunState.SUCCEEDED is twin.ledger.run(run).state
        assert not twin.ledger.acknowledge(run, epoch, [])

    def test_skips_are_called_back_too_but_take_no_place(self, twin: Twin):
        run, epoch = twin.watch(["a"], [skip_of("x"), skip_of("y")], parallel=1)
        assert [0] == twin.indexes()
        twin.work_off()
        outcomes = read(twin, run)
        assert ["x", "y", "a"] == [outcome.item for outcome in outcomes]
        twin.ledger.acknowledge(run, epoch, outcomes[:1])
        twin.ledger.acknowledge(run, epoch, outcomes[1:])

        assert RunState.SUCCEEDED is twin.ledger.run(run).state

    def test_a_run_of_skips_alone_waits_for_its_callbacks(self, twin: Twin):
        run, epoch = twin.watch([], [skip_of("x")])
        assert RunState.RUNNING is twin.ledger.run(run).state
        twin.ledger.acknowledge(run, epoch, read(twin, run))

        assert RunState.SUCCEEDED is twin.ledger.run(run).state

    def test_repeating_one_changes_nothing(self, twin: Twin):
        twin.staff(10)
        run, epoch = twin.watch(["a", "b", "c", "d"], parallel=2)
        twin.succeed(twin.take())
        outcomes = read(twin, run)
        for _ in range(3):
            assert twin.ledger.acknowledge(run, epoch, outcomes)

        found = twin.ledger.run(run)
        assert 2 == found.published + found.claimed
        assert outcomes[-1].position == twin.ledger.acknowledged(run)

    def test_a_second_coordinator_fences_off_the_first(self, twin: Twin):
        run, first = twin.watch(["a", "b"])
        twin.succeed(twin.take())
        second = twin.ledger.coordinate(run)

        assert second > first
        assert not twin.ledger.acknowledge(run, first, read(twin, run))
        assert "" == twin.ledger.acknowledged(run)
        assert twin.ledger.acknowledge(run, second, read(twin, run))

    def test_it_keeps_the_clients_lease(self, twin: Twin):
        run, epoch = twin.watch(["a"])
        for _ in range(4):
            twin.advance(LEASE_SECONDS / 2)
            twin.ledger.acknowledge(run, epoch, [])
            twin.ledger.sweep()

        assert RunState.RUNNING is twin.ledger.run(run).state

    def test_a_stale_coordinator_keeps_no_lease(self, twin: Twin):
        run, first = twin.watch(["a"])
        twin.ledger.coordinate(run)
        for _ in range(3):
            twin.advance(LEASE_SECONDS / 2)
            twin.ledger.acknowledge(run, first, [])
        twin.ledger.sweep()

        assert RunState.CANCELLED is twin.ledger.run(run).state

    def test_a_cancelled_outcome_needs_none(self, twin: Twin):
        run, _ = twin.watch(["a"])
        claim = twin.take()
        twin.ledger.cancel(run, now=True)
        twin.ledger.finish(claim, outcome_of(claim, ItemState.CANCELLED))

        assert RunState.CANCELLED is twin.ledger.run(run).state
        assert [ItemState.CANCELLED] == [outcome.state for outcome in read(twin, run)]

    def test_acknowledging_past_a_cancelled_outcome_frees_only_what_was_held(self, twin: Twin):
        twin.staff(10)
        run, epoch = twin.watch(["a", "b", "c"], parallel=3)
        claims = [twin.take() for _ in range(3)]
        twin.succeed(claims[0])
        twin.ledger.cancel(run, now=True)
        twin.ledger.finish(claims[1], outcome_of(claims[1], ItemState.CANCELLED))
        twin.ledger.acknowledge(run, epoch, read(twin, run))
        assert RunState.CANCELLING is twin.ledger.run(run).state
        last = read(twin, run)[-1].position
        twin.succeed(claims[2])
        assert RunState.CANCELLING is twin.ledger.run(run).state
        twin.ledger.acknowledge(run, epoch, read(twin, run, last))

        assert RunState.CANCELLED is twin.ledger.run(run).state


class TestCancellation:
    def test_what_is_pending_is_cancelled_and_what_runs_finishes(self, twin: Twin):
        twin.staff(3)
        run = twin.submit(["a", "b", "c", "d", "e"], parallel=3)
        claim = twin.take()
        twin.fail(twin.take(), retry_after_seconds=1)
        assert twin.ledger.cancel(run)
        found = twin.ledger.run(run)
        assert (RunState.CANCELLING, 4, 1) == (found.state, found.cancelled, found.claimed)
        assert (0, 0) == (found.published, found.waiting)
        twin.succeed(claim)

        ended = twin.ledger.run(run)
        assert (RunState.CANCELLED, 4, 1) == (ended.state, ended.cancelled, ended.succeeded)
        assert ["a"] == [outcome.item for outcome in read(twin, run)]

    def test_a_run_with_nothing_under_way_is_cancelled_at_once(self, twin: Twin):
        run = twin.submit(["a", "b"])
        twin.ledger.cancel(run)

        assert RunState.CANCELLED is twin.ledger.run(run).state
        assert None is twin.outcomes(run)

    def test_a_submitting_run_is_cancelled_at_once(self, twin: Twin):
        submission = twin.open()
        twin.ledger.append(submission, ["a", "b"])
        assert twin.ledger.cancel(submission.run)
        twin.ledger.start(submission)

        found = twin.ledger.run(submission.run)
        assert (RunState.CANCELLED, 2) == (found.state, found.cancelled)
        assert [] == twin.messages()

    def test_a_final_run_cannot_be_cancelled(self, twin: Twin):
        run = twin.submit([])

        assert not twin.ledger.cancel(run, error=BOOM)
        found = twin.ledger.run(run)
        assert (RunState.SUCCEEDED, None) == (found.state, found.error)

    def test_an_error_is_kept_and_the_first_one_stays(self, twin: Twin):
        run = twin.submit(["a"])
        twin.take()
        twin.ledger.cancel(run)
        twin.ledger.cancel(run, error=BOOM)
        twin.ledger.cancel(run, error=ErrorInfo(type="KeyError", message="later"))

        assert BOOM == twin.ledger.run(run).error

    def test_with_an_error_nothing_waits_for_acknowledgement(self, twin: Twin):
        twin.staff(4)
        run, epoch = twin.watch(["a", "b", "c"])
        twin.succeed(twin.take())
        claim = twin.take()
        twin.ledger.cancel(run, error=BOOM)
        assert RunState.CANCELLING is twin.ledger.run(run).state
        assert twin.ledger.acknowledge(run, epoch, read(twin, run))
        twin.succeed(claim)

        assert RunState.CANCELLED is twin.ledger.run(run).state

    def test_without_an_error_the_callbacks_are_waited_for(self, twin: Twin):
        run, epoch = twin.watch(["a", "b"])
        twin.succeed(twin.take())
        twin.ledger.cancel(run)
        assert RunState.CANCELLING is twin.ledger.run(run).state
        twin.ledger.acknowledge(run, epoch, read(twin, run))

        assert RunState.CANCELLED is twin.ledger.run(run).state

    def test_a_cancelled_item_has_an_outcome_and_is_left_over(self, twin: Twin):
        run = twin.submit(["a"])
        claim = twin.take()
        twin.ledger.cancel(run, now=True)
        twin.ledger.finish(claim, outcome_of(claim, ItemState.CANCELLED))

        found = twin.ledger.run(run)
        assert (RunState.CANCELLED, 1, 1) == (found.state, found.cancelled, found.total)
        assert ["a"] == list(twin.ledger.leftovers(run))
