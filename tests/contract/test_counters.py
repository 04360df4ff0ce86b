"""Counters of a fleet, which the ledger on Redis keeps in the steps that it takes anyway."""

from __future__ import annotations

import pytest

from stagefleet.redis_keys import COUNTERS
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, WorkerInfo
from tests.contract.ledgers import LEASE_SECONDS, LedgerHarness, RedisBroker, outcome_of

ITEMS = [f"{number:056x}-{1_700_000_000_000 + number}" for number in range(6)]
MOST_OF_A_KIND = 1000


@pytest.fixture
def harness(broker: RedisBroker) -> LedgerHarness:
    harness = LedgerHarness(broker)
    harness.staff(8)
    return harness


def counted(harness: LedgerHarness) -> dict[str, int]:
    assert isinstance(harness.broker, RedisBroker)
    found = harness.broker.client.hgetall(COUNTERS.of(harness.broker.prefix))
    return {name.decode(): int(number) for name, number in found.items()}


def failure(item: str, kind: str) -> Outcome:
    error = ErrorInfo(type=kind, message="it broke")
    return Outcome(item=item, state=ItemState.FAILED, error=error, seconds=400, attempts=1)


def test_an_item_is_counted_once_by_operation_state_error_and_duration(harness: LedgerHarness):
    run_id = harness.submit(ITEMS[:4])
    claims = [harness.take() for _ in range(4)]
    done = Outcome(item=ITEMS[0], state=ItemState.SUCCEEDED, seconds=0.3, bytes=2**53)
    harness.ledger.finish(claims[0], done)
    harness.ledger.finish(claims[0], done)  # a lost answer
    harness.ledger.finish(claims[1], failure(ITEMS[1], "BrokenStageError"))
    harness.ledger.finish(claims[2], failure(ITEMS[2], "SomebodysError"))
    harness.ledger.finish(claims[3], outcome_of(claims[3], ItemState.SKIPPED))
    assert {
        "items copy_stage succeeded - 0.5": 1,
        "items copy_stage failed BrokenStageError 600": 1,
        "items copy_stage failed other 600": 1,
        "items copy_stage skipped - 0.1": 1,
        "bytes copy_stage": 2**53,
        "runs copy_stage failed": 1,
    } == counted(harness)
    assert harness.ledger.run(run_id).state.is_final


def test_a_retry_is_counted_by_its_error_and_its_item_at_the_end(harness: LedgerHarness):
    harness.submit(ITEMS[:1], max_attempts=2)
    harness.ledger.finish(harness.take(), failure(ITEMS[0], "RateLimitedError"), retry_after_seconds=1)
    assert {"retries copy_stage RateLimitedError 600": 1} == counted(harness)
    harness.advance(2)
    harness.ledger.sweep()
    harness.ledger.finish(harness.take(), failure(ITEMS[0], "RateLimitedError"), retry_after_seconds=1)
    assert 1 == counted(harness)["items copy_stage failed RateLimitedError 600"]


def test_what_a_dead_worker_held_is_counted_as_reaped(harness: LedgerHarness):
    harness.submit(ITEMS[:2], max_attempts=1)
    harness.take()
    harness.take()
    harness.ledger.sweep()
    harness.advance(LEASE_SECONDS + 1)
    harness.ledger.sweep()
    assert {
        "reaped copy_stage": 2,
        "items copy_stage failed WorkerLostError -": 2,
        "runs copy_stage failed": 1,
    } == counted(harness)


def test_every_way_to_a_cancelled_item_is_counted(harness: LedgerHarness):
    decided = [Outcome.without_task(item, ItemState.SKIPPED) for item in ITEMS[4:]]
    run_id = harness.submit(ITEMS[:4], decided, parallel=3)
    back, stopped, dead = harness.take(), harness.take(), harness.take()
    harness.ledger.sweep()
    harness.ledger.cancel(run_id)
    harness.ledger.hand_back(back)
    harness.ledger.finish(stopped, outcome_of(stopped, ItemState.CANCELLED))
    harness.advance(LEASE_SECONDS + 1)
    harness.ledger.sweep()
    assert harness.ledger.run(run_id).cancelled == 4
    assert dead.index == 2
    assert {
        "items copy_stage skipped - -": 2,
        "items copy_stage cancelled - -": 3,
        "items copy_stage cancelled - 0.1": 1,
        "reaped copy_stage": 1,
        "runs copy_stage cancelled": 1,
    } == counted(harness)


def test_an_item_that_ended_as_cancelled_before_its_run_is_counted_once(harness: LedgerHarness):
    run_id = harness.submit(ITEMS[:3], parallel=2)
    stopped = harness.take()
    harness.ledger.finish(stopped, outcome_of(stopped, ItemState.CANCELLED))
    harness.ledger.cancel(run_id)
    assert harness.ledger.run(run_id).cancelled == 3
    assert {
        "items copy_stage cancelled - 0.1": 1,
        "items copy_stage cancelled - -": 2,
        "runs copy_stage cancelled": 1,
    } == counted(harness)


def test_items_that_redis_lost_in_a_cancelled_run_are_counted_at_its_end(harness: LedgerHarness):
    assert isinstance(harness.broker, RedisBroker)
    run_id = harness.submit(ITEMS[:3], parallel=1)
    harness.take()
    harness.ledger.cancel(run_id)
    harness.broker.client.delete(f"{harness.broker.prefix}run:{run_id}:leases")
    harness.ledger.sweep()
    assert 3 == harness.ledger.run(run_id).cancelled
    assert 3 == counted(harness)["items copy_stage cancelled - -"]


def test_a_heartbeat_brings_what_its_worker_has_counted(harness: LedgerHarness):
    worker = WorkerInfo("host:1", 2, ("copy",))
    for _ in range(2):
        harness.ledger.heartbeats.beat(worker, seconds=9, counts={"waits r:5000 429": 2, "lost_leases -": 1})
    assert {"waits r:5000 429": 4, "lost_leases -": 2} == counted(harness)


def test_counters_of_a_kind_are_bounded_and_the_others_go_on(harness: LedgerHarness):
    worker = WorkerInfo("host:1", 2, ("copy",))
    hosts = {f"waits host-{number} 429": 1 for number in range(MOST_OF_A_KIND + 5)}
    harness.ledger.heartbeats.beat(worker, seconds=9, counts=hosts)
    harness.ledger.heartbeats.beat(worker, seconds=9, counts={"waits host-1 429": 1, "reaped copy_stage": 1})
    found = counted(harness)
    assert MOST_OF_A_KIND + 2 >= len(found)
    assert MOST_OF_A_KIND + 6 == sum(number for name, number in found.items() if name.startswith("waits "))
    assert (2, 1) == (found["waits host-1 429"], found["reaped copy_stage"])
    assert found["waits other"]


def test_counters_that_cannot_be_written_fail_no_item(harness: LedgerHarness):
    assert isinstance(harness.broker, RedisBroker)
    harness.broker.client.set(COUNTERS.of(harness.broker.prefix), "of another type")
    run_id = harness.submit(ITEMS[:2])
    assert 2 == harness.work_off()
    assert harness.ledger.run(run_id).state.is_final


def test_a_failover_loses_a_suffix_and_doubles_nothing(harness: LedgerHarness):
    harness.submit(ITEMS[:2])
    claim = harness.take()
    before = harness.snapshot()
    harness.succeed(claim)
    harness.forget_since(before)
    assert {} == counted(harness)
    assert harness.succeed(claim)  # as a worker does, whose answer was lost
    assert 1 == counted(harness)["items copy_stage succeeded - 0.1"]
