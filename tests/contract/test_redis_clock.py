"""Redis with another clock, as after a failover to a machine whose clock is behind or ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stagefleet.runs import coordinator
from stagefleet.runs.ledger import Renewal
from stagefleet.runs.model import Callback, Outcome, RunState
from tests.contract.twins import LEASE_SECONDS, REPUBLISH_SECONDS, RedisBroker, Twin

HOUR = 3600


@pytest.fixture
def twin(redis_server: Any) -> Iterator[Twin]:
    made = Twin(RedisBroker(redis_server.url))
    made.staff(4)
    made.ledger.sweep()
    yield made
    made.close()


def set_back(twin: Twin, seconds: float) -> None:
    twin.let_pass_unswept(-seconds)
    twin.ledger.sweep()


def test_a_clock_that_is_ahead_ends_no_lease(twin: Twin):
    """R2: a failover to a server whose clock is ahead takes no item and no run from anybody."""
    run, epoch = twin.watch(["a"])
    claim = twin.take()
    twin.ledger.sweep()
    twin.let_pass_unswept(HOUR)
    twin.ledger.sweep()

    assert RunState.RUNNING is twin.ledger.run(run).state
    assert [Renewal.RUN] == twin.ledger.renew([claim])
    assert twin.ledger.acknowledge(run, epoch, [])


class TestAClockThatIsBehind:
    def test_the_item_of_a_lost_worker_comes_back(self, twin: Twin):
        """R2: a lease on the clock from before does not hold an item for the hour between the two."""
        run = twin.submit(["a"])
        twin.take()
        twin.ledger.sweep()
        set_back(twin, HOUR)
        twin.advance(LEASE_SECONDS + 1)
        twin.ledger.sweep()

        assert 1 == twin.ledger.run(run).published

    def test_a_retry_is_due_when_it_was(self, twin: Twin):
        """R2: a retry waits its 20 s, not an hour more."""
        run = twin.submit(["a"])
        twin.fail(twin.take(), retry_after_seconds=20)
        twin.ledger.sweep()
        set_back(twin, HOUR)
        assert 1 == twin.ledger.run(run).waiting
        twin.advance(21)
        twin.ledger.sweep()

        assert 1 == twin.ledger.run(run).published

    def test_a_lost_message_is_published_again(self, twin: Twin):
        """R2: a message that was lost before is found by the new clock."""
        twin.submit(["a"])
        twin.ledger.sweep()
        set_back(twin, HOUR)
        twin.drop_messages()
        twin.advance(REPUBLISH_SECONDS + 1)
        twin.ledger.sweep()

        assert [0] == twin.indexes()

    def test_a_backlog_is_no_loss(self, twin: Twin):
        """R2, R13: what was claimed by the clock from before overtakes nothing that is published now."""
        twin.submit(["a", "b", "c"])
        twin.take()
        twin.ledger.sweep()
        set_back(twin, HOUR)
        for _ in range(3):
            twin.advance(REPUBLISH_SECONDS + 1)
            twin.ledger.renew([])
            twin.ledger.sweep()

        assert [1, 2] == sorted(set(twin.indexes()) - {0})
        assert 2 == len([index for index in twin.indexes() if index])

    def test_a_paused_receiver_is_called_when_it_is_due(self, twin: Twin):
        """R2: the pause of a callback does not grow by what the clocks differ."""
        run = twin.submit(["a", "b"], callback=Callback.WEBHOOK, callback_target="http://receiver.example")
        twin.work_off()
        visit = twin.ledger.attend(run)
        assert visit is not None
        twin.ledger.pause(visit, 5)
        twin.drop_messages()
        twin.ledger.sweep()
        set_back(twin, HOUR)
        twin.advance(6)
        twin.ledger.sweep()

        assert [-1] == twin.indexes()

    def test_outcomes_with_smaller_ids_are_read_and_called_back(
        self, twin: Twin, monkeypatch: pytest.MonkeyPatch
    ):
        """R4: ids are made of the clock: what comes after a failover may lie before what was forgotten."""
        monkeypatch.setattr(coordinator, "_BLOCK_SECONDS", 0.01)
        run = twin.submit(["a", "b"], callback=Callback.CLIENT, parallel=2)
        kept = twin.snapshot()
        twin.succeed(twin.take())
        broker = twin.broker
        assert isinstance(broker, RedisBroker)
        stream = f"{broker.prefix}run:{run}:outcomes"
        ((position, fields),) = broker.client.xrange(stream)
        ahead = f"{int(position.split(b'-')[0]) + HOUR * 1000}-0"
        broker.client.delete(stream)
        broker.client.xadd(stream, fields, id=ahead)
        called = []

        def call_back(outcome: Outcome) -> None:
            called.append((outcome.item, outcome.position == ahead))
            if len(called) == 1:
                twin.forget_since(kept)
                twin.work_off()

        ended = coordinator.watch(twin.ledger, run, on_outcome=call_back)

        assert RunState.SUCCEEDED is ended.state
        assert [("a", True), ("a", False), ("b", False)] == called

    def test_who_only_watches_misses_none_and_is_told_none_twice(
        self, twin: Twin, monkeypatch: pytest.MonkeyPatch
    ):
        """R4: the same for a command that follows a run, which has no position in the ledger."""
        monkeypatch.setattr(coordinator, "_BLOCK_SECONDS", 0.01)
        run = twin.submit(["a", "b", "c"], parallel=3)
        twin.succeed(twin.take())
        broker = twin.broker
        assert isinstance(broker, RedisBroker)
        stream = f"{broker.prefix}run:{run}:outcomes"
        kept = twin.snapshot()
        twin.succeed(twin.take())
        _, (position, fields) = broker.client.xrange(stream)
        ahead = f"{int(position.split(b'-')[0]) + HOUR * 1000}-0"
        broker.client.xdel(stream, position)
        broker.client.xadd(stream, fields, id=ahead)
        told = []

        def tell(outcome: Outcome) -> None:
            told.append((outcome.item, outcome.position == ahead))
            if len(told) == 2:
                twin.forget_since(kept)
                twin.work_off()

        coordinator.watch(twin.ledger, run, on_progress=tell)

        assert [("a", False), ("b", True), ("b", False), ("c", False)] == told

    def test_another_worker_becomes_the_reaper(self, twin: Twin, redis_server: Any):
        """R2: the role of a reaper that vanished is not kept for the hour between the clocks."""
        assert twin.ledger.lead("reaper", "old", seconds=6)
        client = redis_server.client()
        (name,) = client.scan_iter("*lead:reaper")
        client.pexpire(name, HOUR * 1000)  # what the time to live is by a clock that is behind

        assert twin.ledger.lead("reaper", "new", seconds=6)
        assert not twin.ledger.lead("reaper", "old", seconds=6)
