"""How many commands Redis runs for an item, those inside scripts included."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stagefleet.runs.models import ItemState, Outcome
from tests.contract.ledgers import LedgerHarness, RedisBroker

ITEMS = [f"{number:056x}-{1_700_000_000_000 + number}" for number in range(100)]
_NOT_OF_SCRIPTS = {"config|resetstat", "info"}


@pytest.fixture
def harness(make_redis: Callable[..., Any]) -> Iterator[LedgerHarness]:
    broker = RedisBroker(make_redis().url)
    harness = LedgerHarness(broker)
    harness.staff(16)
    yield harness
    broker.close()


def commands_of(harness: LedgerHarness, work: Callable[[], object]) -> Counter[str]:
    """The commands that Redis runs meanwhile, by name."""
    assert isinstance(harness.broker, RedisBroker)
    client = harness.broker.client
    client.config_resetstat()
    work()
    found = client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in found.items()}
    return Counter({name: count for name, count in calls.items() if name not in _NOT_OF_SCRIPTS})


def test_a_claim_reads_the_run_once(harness: LedgerHarness):
    run_id = harness.submit(ITEMS, parallel=8)
    harness.take()  # notes the newest claimed message, once in a while
    found = commands_of(harness, lambda: harness.ledger.claim(run_id, 1, "worker"))
    assert {
        "evalsha": 1,
        "time": 1,
        "hmget": 1,
        "zscore": 1,
        "hget": 2,
        "hincrby": 1,
        "hset": 1,
        "zadd": 1,
        "zrem": 1,
        "zcard": 2,
    } == found


def test_a_finish_reads_the_run_once_and_publishes_the_next_item(harness: LedgerHarness):
    run_id = harness.submit(ITEMS, parallel=8)
    harness.succeed(harness.take())
    claim = harness.take()
    found = commands_of(harness, lambda: harness.succeed(claim))
    assert {
        "evalsha": 1,
        "time": 1,
        "hget": 1,
        "hmget": 3,  # the run, its message, and the items to publish
        "hdel": 2,
        "xadd": 1,
        "hincrby": 2,  # the run, and the fleet's counter
        "zrangebyscore": 2,
        "zrem": 1,
        "zcard": 3,
        "get": 1,
        "lpush": 1,
        "zadd": 1,
        "hset": 1,
    } == found
    assert 8 == harness.ledger.run(run_id).published


def test_the_items_of_a_run_that_is_published_whole_need_no_look_at_the_window(harness: LedgerHarness):
    run_id = harness.submit(ITEMS[:8], parallel=8)
    harness.take()
    found = commands_of(harness, lambda: harness.ledger.claim(run_id, 1, "worker"))
    assert (1, 0) == (found["zcard"], found["get"])


def test_outcomes_decided_without_a_task_take_two_commands_each(harness: LedgerHarness):
    submission = harness.open()
    decided = [Outcome.without_task(item, ItemState.SKIPPED) for item in ITEMS]
    found = commands_of(harness, lambda: harness.ledger.append(submission, (), decided))
    assert (len(ITEMS), len(ITEMS) + 1, 2) == (found["xadd"], found["hincrby"], found["hmget"])
