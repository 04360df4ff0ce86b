"""Redis with another clock, as after a failover to a machine whose clock is behind or ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stagefleet.runs import coordinator
from stagefleet.runs.ledger import RenewalResult
from stagefleet.runs.models import Callback, Outcome, RunState
from tests.contract.ledgers import LEASE_SECONDS, REPUBLISH_SECONDS, LedgerHarness, RedisBroker

HOUR = 3600


@pytest.fixture
def harness(redis_server: Any) -> Iterator[LedgerHarness]:
    made = LedgerHarness(RedisBroker(redis_server.url))
    made.staff(4)
    made.ledger.sweep()
    yield made
    made.close()


def set_back(harness: LedgerHarness, seconds: float) -> None:
    harness.let_pass_unswept(-seconds)
    harness.ledger.sweep()


def test_a_clock_that_is_ahead_ends_no_lease(harness: LedgerHarness):
    """R2: a failover to a server whose clock is ahead takes no item and no run from anybody."""
    run_id, epoch = harness.watch(["a"])
    claim = harness.take()
    harness.ledger.sweep()
    harness.let_pass_unswept(HOUR)
    harness.ledger.sweep()

    assert RunState.RUNNING is harness.ledger.run(run_id).state
    assert [RenewalResult.RUN] == harness.ledger.renew([claim])
    assert harness.ledger.acknowledge(run_id, epoch, [])


class TestAClockThatIsBehind:
    def test_the_item_of_a_lost_worker_comes_back(self, harness: LedgerHarness):
        """R2: a lease on the clock from before does not hold an item for the hour between the two."""
        run_id = harness.submit(["a"])
        harness.take()
        harness.ledger.sweep()
        set_back(harness, HOUR)
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()

        assert 1 == harness.ledger.run(run_id).published

    def test_a_retry_is_due_when_it_was(self, harness: LedgerHarness):
        """R2: a retry waits its 20 s, not an hour more."""
        run_id = harness.submit(["a"])
        harness.fail(harness.take(), retry_after_seconds=20)
        harness.ledger.sweep()
        set_back(harness, HOUR)
        assert 1 == harness.ledger.run(run_id).waiting
        harness.advance(21)
        harness.ledger.sweep()

        assert 1 == harness.ledger.run(run_id).published

    def test_a_lost_message_is_published_again(self, harness: LedgerHarness):
        """R2: a message that was lost before is found by the new clock."""
        harness.submit(["a"])
        harness.ledger.sweep()
        set_back(harness, HOUR)
        harness.drop_messages()
        harness.advance(REPUBLISH_SECONDS + 1)
        harness.ledger.sweep()

        assert [0] == harness.indexes()

    def test_a_backlog_is_no_loss(self, harness: LedgerHarness):
        """R2, R13: what was claimed by the clock from before overtakes nothing that is published now."""
        harness.submit(["a", "b", "c"])
        harness.take()
        harness.ledger.sweep()
        set_back(harness, HOUR)
        for _ in range(3):
            harness.advance(REPUBLISH_SECONDS + 1)
            harness.ledger.renew([])
            harness.ledger.sweep()

        assert [1, 2] == sorted(set(harness.indexes()) - {0})
        assert 2 == len([index for index in harness.indexes() if index])

    def test_a_paused_receiver_is_called_when_it_is_due(self, harness: LedgerHarness):
        """R2: the pause of a callback does not grow by what the clocks differ."""
        run_id = harness.submit(
            ["a", "b"], callback=Callback.WEBHOOK, callback_target="http://receiver.example"
        )
        harness.work_off()
        coordinator_claim = harness.ledger.callbacks.claim(run_id)
        assert coordinator_claim is not None
        harness.ledger.callbacks.pause(coordinator_claim, 5)
        harness.drop_messages()
        harness.ledger.sweep()
        set_back(harness, HOUR)
        harness.advance(6)
        harness.ledger.sweep()

        assert [-1] == harness.indexes()

    def test_outcomes_with_smaller_ids_are_read_and_called_back(
        self, harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch
    ):
        """R4: ids are made of the clock: what comes after a failover may lie before what was forgotten."""
        monkeypatch.setattr(coordinator, "_BLOCK_SECONDS", 0.01)
        run_id = harness.submit(["a", "b"], callback=Callback.CLIENT, parallel=2)
        kept = harness.snapshot()
        harness.succeed(harness.take())
        broker = harness.broker
        assert isinstance(broker, RedisBroker)
        stream = f"{broker.prefix}run:{run_id}:outcomes"
        ((position, fields),) = broker.client.xrange(stream)
        ahead = f"{int(position.split(b'-')[0]) + HOUR * 1000}-0"
        broker.client.delete(stream)
        broker.client.xadd(stream, fields, id=ahead)
        called = []

        def call_back(outcome: Outcome) -> None:
            called.append((outcome.item, outcome.position == ahead))
            if len(called) == 1:
                harness.forget_since(kept)
                harness.work_off()

        ended = coordinator.watch(harness.ledger, run_id, on_outcome=call_back)

        assert RunState.SUCCEEDED is ended.state
        assert [("a", True), ("a", False), ("b", False)] == called

    def test_who_only_watches_misses_none_and_is_told_none_twice(
        self, harness: LedgerHarness, monkeypatch: pytest.MonkeyPatch
    ):
        """R4: the same for a command that follows a run, which has no position in the ledger."""
        monkeypatch.setattr(coordinator, "_BLOCK_SECONDS", 0.01)
        run_id = harness.submit(["a", "b", "c"], parallel=3)
        harness.succeed(harness.take())
        broker = harness.broker
        assert isinstance(broker, RedisBroker)
        stream = f"{broker.prefix}run:{run_id}:outcomes"
        kept = harness.snapshot()
        harness.succeed(harness.take())
        _, (position, fields) = broker.client.xrange(stream)
        ahead = f"{int(position.split(b'-')[0]) + HOUR * 1000}-0"
        broker.client.xdel(stream, position)
        broker.client.xadd(stream, fields, id=ahead)
        told = []

        def tell(outcome: Outcome) -> None:
            told.append((outcome.item, outcome.position == ahead))
            if len(told) == 2:
                harness.forget_since(kept)
                harness.work_off()

        coordinator.watch(harness.ledger, run_id, on_progress=tell)

        assert [("a", False), ("b", True), ("b", False), ("c", False)] == told

    def test_another_worker_becomes_the_reaper(self, harness: LedgerHarness, redis_server: Any):
        """R2: the role of a reaper that vanished is not kept for the hour between the clocks."""
        assert harness.ledger.heartbeats.lead("reaper", "old", seconds=6)
        client = redis_server.client()
        (name,) = client.scan_iter("*lead:reaper")
        client.pexpire(name, HOUR * 1000)  # what the time to live is by a clock that is behind

        assert harness.ledger.heartbeats.lead("reaper", "new", seconds=6)
        assert not harness.ledger.heartbeats.lead("reaper", "old", seconds=6)
