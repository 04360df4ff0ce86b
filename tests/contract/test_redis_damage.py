"""What is damaged in Redis, or of another version, costs itself alone."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from stagefleet.errors import ItemLostError, LedgerRewoundError, WorkerLostError
from stagefleet.runs import coordinator
from stagefleet.runs.models import Callback, ItemState, Outcome, RunState
from tests.contract.ledgers import LEASE_SECONDS, LedgerHarness, RedisBroker


@pytest.fixture
def harness(broker: RedisBroker) -> LedgerHarness:
    made = LedgerHarness(broker)
    made.staff(4)
    return made


def spoil(broker: RedisBroker, run_id: str, part: str) -> None:
    """Put a value of another type where a key of a run is."""
    broker.client.set(f"{broker.prefix}run:{run_id}:{part}", "no such thing")


class TestOneRun:
    def test_the_others_are_swept(
        self, harness: LedgerHarness, broker: RedisBroker, caplog: pytest.LogCaptureFixture
    ):
        """R28: a run whose script fails stops no sweep; it is logged once, with its id."""
        damaged, sound = harness.submit(["a"]), harness.submit(["b"])
        for _ in range(2):
            harness.take()
        spoil(broker, damaged, "waiting")
        harness.advance(LEASE_SECONDS + 1)
        with caplog.at_level(logging.ERROR, "stagefleet"):
            assert 1 == harness.ledger.sweep()
            harness.ledger.sweep()

        assert 1 == harness.ledger.run(sound).published
        assert [damaged] == [record.args[0] for record in caplog.records if isinstance(record.args, tuple)]

    def test_all_are_listed_beside_it(self, harness: LedgerHarness, broker: RedisBroker):
        """R28: a run of which a part cannot be read is shown with the rest, and hides no other."""
        damaged, sound = harness.submit(["a"]), harness.submit(["b"])
        spoil(broker, damaged, "leases")

        assert {damaged, sound} == {run.id for run in harness.ledger.runs()}
        assert 0 == harness.ledger.run(damaged).claimed

    def test_workers_beat_beside_it(self, harness: LedgerHarness, broker: RedisBroker):
        """R28: the slots of the fleet do not vanish because one run cannot be published."""
        damaged = harness.submit(["a", "b"], parallel=1)
        spoil(broker, damaged, "waiting")
        harness.pop_message()
        broker.client.delete(f"{broker.prefix}run:{damaged}:published")
        harness.staff(2, name="host:2")

        assert {"host:1", "host:2"} == {worker.name for worker in harness.ledger.heartbeats.workers()}

    def test_the_coordinators_of_others_are_called_again(self, harness: LedgerHarness, broker: RedisBroker):
        """R28: a call that cannot be made is put off, and those behind it are made."""
        order: dict[str, Any] = {"callback": Callback.WEBHOOK, "callback_target": "http://receiver.example"}
        damaged, sound = harness.submit(["a"], **order), harness.submit(["b"], **order)
        assert 2 == harness.work_off()
        harness.drop_messages()
        broker.client.hdel(f"{broker.prefix}run:{damaged}", "coordinate_message")
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()

        assert [sound] == [message.run_id for message in harness.messages()]


class TestAnItem:
    def test_one_that_is_in_no_set_is_tried_again(self, harness: LedgerHarness, broker: RedisBroker):
        """R20: a run of which an item is lost is not called succeeded; the sweep finds the item."""
        run_id = harness.submit(["a", "b"], parallel=1)
        lost = harness.take()
        for part in ("leases", "claims"):
            broker.client.delete(f"{broker.prefix}run:{run_id}:{part}")
        harness.ledger.sweep()
        assert 1 == harness.work_off()
        assert RunState.RUNNING is harness.ledger.run(run_id).state
        assert not harness.succeed(lost)
        assert 1 == harness.ledger.sweep()
        assert 1 == harness.work_off()

        ended = harness.ledger.run(run_id)
        assert (RunState.SUCCEEDED, 2, 2) == (ended.state, ended.succeeded, ended.total)

    def test_one_that_another_waits_behind_is_tried_again(self, harness: LedgerHarness, broker: RedisBroker):
        """R20: a lost item has not ended: what waits for its end is neither let go nor waits for ever."""
        run_id = harness.submit(["a", "b"], parallel=2)
        first, second = harness.take(), harness.take()
        assert harness.ledger.hand_back(second, behind=first.index)
        broker.client.delete(*(f"{broker.prefix}run:{run_id}:{part}" for part in ("leases", "claims")))
        harness.ledger.sweep()
        assert [None, None] == harness.ledger.item_states(run_id, [0, 1])
        claim = harness.take()
        assert "a" == claim.item
        assert harness.succeed(claim)
        claim = harness.take()
        assert "b" == claim.item
        assert harness.succeed(claim)

        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state

    def test_one_that_is_lost_again_and_again_fails(self, harness: LedgerHarness, broker: RedisBroker):
        """R20: an item that Redis loses counts an attempt each time, and fails in the end."""
        run_id = harness.submit(["a"], max_attempts=2)
        for _ in range(2):
            harness.take()
            broker.client.delete(*(f"{broker.prefix}run:{run_id}:{part}" for part in ("leases", "claims")))
            harness.ledger.sweep()

        (outcome,) = harness.outcomes(run_id) or []
        assert ("a", ItemState.FAILED, 2) == (outcome.item, outcome.state, outcome.attempts)
        assert outcome.error is not None
        assert ItemLostError.__name__ == outcome.error.type
        assert RunState.FAILED is harness.ledger.run(run_id).state

    def test_one_that_failed_is_not_taken_for_a_lost_one(self, harness: LedgerHarness, broker: RedisBroker):
        """R20: what has ended is not tried again because something else is lost."""
        run_id = harness.submit(["a", "b"], parallel=1)
        harness.fail(harness.take())
        harness.take()
        broker.client.delete(*(f"{broker.prefix}run:{run_id}:{part}" for part in ("leases", "claims")))
        harness.ledger.sweep()
        claim = harness.take()
        assert "b" == claim.item
        harness.succeed(claim)

        ended = harness.ledger.run(run_id)
        assert (RunState.FAILED, 1, 1) == (ended.state, ended.succeeded, ended.failed)

    def test_those_that_nobody_can_find_fail_their_run(self, harness: LedgerHarness, broker: RedisBroker):
        """R20: where even the items are gone, as after an eviction, the run says so and does not succeed."""
        run_id = harness.submit(["a", "b", "c"], parallel=1)
        harness.succeed(harness.take())
        broker.client.delete(*(f"{broker.prefix}run:{run_id}:{part}" for part in ("items", "published")))
        for _ in range(3):
            harness.advance(LEASE_SECONDS + 1)
            harness.ledger.sweep()
            harness.work_off()

        ended = harness.ledger.run(run_id)
        assert RunState.FAILED is ended.state
        assert ended.error is not None
        assert "ItemLostError" == ended.error.type
        assert None is harness.outcomes(run_id, (harness.outcomes(run_id) or [])[-1].position)

    def test_outcomes_that_are_lost_fail_their_run(self, harness: LedgerHarness, broker: RedisBroker):
        """R20: outcomes that nobody can be told of any more keep no run waiting, and make it no success."""
        run_id, epoch = harness.watch(["a", "b"], parallel=1)
        harness.succeed(harness.take())
        broker.client.delete(f"{broker.prefix}run:{run_id}:outcomes")
        assert 1 == harness.ledger.sweep()
        harness.succeed(harness.take())
        assert harness.ledger.acknowledge(run_id, epoch, harness.outcomes(run_id) or [])

        ended = harness.ledger.run(run_id)
        assert (RunState.FAILED, 2) == (ended.state, ended.succeeded)
        assert ended.error is not None
        assert "ItemLostError" == ended.error.type

    def test_who_is_called_back_is_told_of_lost_outcomes(
        self, harness: LedgerHarness, broker: RedisBroker, monkeypatch: pytest.MonkeyPatch
    ):
        """R20: a client whose outcomes are gone does not go back to them for ever."""
        monkeypatch.setattr(coordinator, "_BLOCK_SECONDS", 0.01)
        run_id = harness.submit(["a", "b"], callback=Callback.CLIENT, parallel=1)
        harness.succeed(harness.take())
        stream = f"{broker.prefix}run:{run_id}:outcomes"

        with pytest.raises(LedgerRewoundError):
            coordinator.watch(
                harness.ledger,
                run_id,
                on_outcome=lambda _: None,
                on_idle=lambda: broker.client.delete(stream),
            )

    def test_a_lost_one_of_a_cancelled_run_is_cancelled(self, harness: LedgerHarness, broker: RedisBroker):
        """R20: the counters of a cancelled run add up, whatever Redis has lost of it."""
        run_id = harness.submit(["a", "b", "c"], parallel=1)
        harness.take()
        broker.client.delete(*(f"{broker.prefix}run:{run_id}:{part}" for part in ("leases", "claims")))
        harness.ledger.cancel(run_id)

        ended = harness.ledger.run(run_id)
        assert (RunState.CANCELLED, 3) == (ended.state, ended.cancelled)

    def test_counters_that_are_too_high_fail_their_run(self, harness: LedgerHarness, broker: RedisBroker):
        """R20: counters that do not add up are no success, in either direction."""
        run_id = harness.submit(["a"])
        broker.client.hincrby(f"{broker.prefix}run:{run_id}", "succeeded", 3)
        harness.work_off()
        harness.ledger.sweep()

        assert RunState.FAILED is harness.ledger.run(run_id).state

    def test_more_bytes_than_a_counter_holds_cost_no_item(self, harness: LedgerHarness):
        """R20: a sum that Redis cannot keep does not lose the item that it is about."""
        run_id = harness.submit(["a"])
        claim = harness.take()
        assert harness.ledger.finish(claim, Outcome(item="a", state=ItemState.SUCCEEDED, bytes=2**63))

        ended = harness.ledger.run(run_id)
        assert (RunState.SUCCEEDED, 1, 1) == (
            ended.state,
            ended.succeeded,
            len(harness.outcomes(run_id) or []),
        )

    def test_one_whose_outcome_cannot_be_written_stays_until_it_can(
        self, harness: LedgerHarness, broker: RedisBroker
    ):
        """R20: the end of a lost worker's item is written before the item is taken out of its set."""
        run_id = harness.submit(["a"], max_attempts=1)
        harness.take()
        spoil(broker, run_id, "outcomes")
        harness.advance(LEASE_SECONDS + 1)
        harness.ledger.sweep()
        assert 1 == harness.ledger.run(run_id).claimed
        broker.client.delete(f"{broker.prefix}run:{run_id}:outcomes")
        harness.ledger.sweep()

        (outcome,) = harness.outcomes(run_id) or []
        assert outcome.error is not None
        assert WorkerLostError.__name__ == outcome.error.type


@pytest.mark.parametrize(
    "entry",
    ["{", "null", "7", "{}", '{"until": "soon", "queues": []}', '{"until": 1e18, "queues": 3}'],
)
class TestAWorkersEntry:
    def test_the_others_beat_and_are_counted(self, harness: LedgerHarness, broker: RedisBroker, entry: str):
        """R28: an entry that cannot be read takes no slot from anybody."""
        broker.client.hset(f"{broker.prefix}workers", "host:new", entry)
        harness.staff(3, name="host:2")

        assert 7 == int(broker.client.get(f"{broker.prefix}slots:copy"))
        assert ["host:1", "host:2"] == [worker.name for worker in harness.ledger.heartbeats.workers("copy")]

    def test_work_goes_on(self, harness: LedgerHarness, broker: RedisBroker, entry: str):
        """R28: runs are worked off beside it."""
        broker.client.hset(f"{broker.prefix}workers", "host:new", entry)
        run_id = harness.submit(["a", "b", "c"])
        harness.staff(4)
        harness.work_off()

        assert RunState.SUCCEEDED is harness.ledger.run(run_id).state
