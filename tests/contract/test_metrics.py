"""The metrics of a fleet, as Prometheus' own parser reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stagefleet.redis_keys import COUNTERS
from stagefleet.runs.metrics import METRICS
from stagefleet.runs.metrics_reader import MOST_RUNS, RUNS_A_CALL, FleetMetrics, unreachable_metrics
from stagefleet.runs.models import Callback, ErrorInfo, ItemState, Outcome, WorkerInfo
from stagefleet.runs.versions import __version__
from tests.contract.ledgers import LEASE_SECONDS, LedgerHarness, RedisBroker

ITEMS = [f"{number:056x}-{1_700_000_000_000 + number}" for number in range(10)]
COMMANDS_OF_A_SCRAPE = 8  # the script, the time, the counters, the workers, ...
COMMANDS_OF_A_PART = 3  # of the live runs: the script, the time, the list of them
COMMANDS_OF_A_RUN = 5


@pytest.fixture
def broker(make_redis: Callable[..., Any]) -> Iterator[RedisBroker]:
    made = RedisBroker(make_redis().url)
    yield made
    made.close()


@pytest.fixture
def harness(broker: RedisBroker) -> LedgerHarness:
    return LedgerHarness(broker)


@pytest.fixture
def metrics(broker: RedisBroker) -> FleetMetrics:
    return FleetMetrics(broker.client, prefix=broker.prefix)


def samples_of(text: str) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, but for those of buckets."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def failure(item: str, kind: str = "BrokenStageError") -> Outcome:
    error = ErrorInfo(type=kind, message="it broke")
    return Outcome(item=item, state=ItemState.FAILED, error=error, seconds=400)


def test_items_bytes_attempts_and_runs_are_there_by_operation(harness: LedgerHarness, metrics: FleetMetrics):
    harness.staff(4)
    harness.submit(ITEMS[:3], max_attempts=2)
    first, second, third = (harness.take() for _ in range(3))
    harness.ledger.finish(first, Outcome(item=ITEMS[0], state=ItemState.SUCCEEDED, seconds=2, bytes=5_000))
    harness.ledger.finish(second, failure(ITEMS[1]))
    harness.ledger.finish(third, failure(ITEMS[2], "RateLimitedError"), retry_after_seconds=0)
    harness.ledger.sweep()
    harness.ledger.finish(harness.take(), failure(ITEMS[2], "RateLimitedError"))
    found = samples_of(metrics.read())
    assert 1 == found["stagefleet_items_total", "copy_stage", "succeeded"]
    assert 2 == found["stagefleet_items_total", "copy_stage", "failed"]
    assert 1 == found["stagefleet_failed_items_total", "copy_stage", "BrokenStageError"]
    assert 1 == found["stagefleet_failed_items_total", "copy_stage", "RateLimitedError"]
    assert 1 == found["stagefleet_retries_total", "copy_stage", "RateLimitedError"]
    assert 4 == found["stagefleet_attempts_total", "copy_stage"]
    assert 5_000 == found["stagefleet_sent_bytes_total", "copy_stage"]
    assert 1 == found["stagefleet_runs_total", "copy_stage", "failed"]
    bucket = "stagefleet_attempt_duration_seconds_bucket"
    assert [0, 1, 1, 4, 4] == [
        found[bucket, "copy_stage", bound] for bound in ("1", "2.5", "300", "600", "+Inf")
    ]
    assert 0 == found["stagefleet_items_total", "delete_stage", "failed"]  # a rate needs a first value


def test_live_runs_show_what_waits_and_what_slots_they_can_use(harness: LedgerHarness, metrics: FleetMetrics):
    harness.staff(8)
    harness.submit(ITEMS, parallel=4)
    claim = harness.take()
    harness.ledger.finish(claim, failure(claim.item), retry_after_seconds=3000)
    harness.take()
    harness.submit(ITEMS[:2], operation="delete_stage", parallel=50)
    run_id, _ = harness.watch(
        ITEMS[:2], [Outcome.without_task(ITEMS[3], ItemState.SKIPPED)], operation="verify_stage"
    )
    harness.open(operation="publish_stage")
    harness.submit(ITEMS[:2], operation="fetch_stage")
    harness.ledger.cancel(harness.submit(ITEMS[:2], operation="describe_stage"))
    harness.advance(7)
    found = samples_of(metrics_at(harness, metrics))
    assert (8, 1, 1) == tuple(
        found["stagefleet_items", "copy_stage", state] for state in ("pending", "claimed", "waiting")
    )
    wanted = {
        names[1]: number
        for names, number in found.items()
        if names[0] == "stagefleet_wanted_slots" and number
    }
    assert {
        "copy_stage": 4,
        "delete_stage": 2,
        "verify_stage": 2,
        "publish_stage": 1,
        "fetch_stage": 2,
    } == wanted
    assert (1, 4) == (found["stagefleet_live_runs", "submitting"], found["stagefleet_live_runs", "running"])
    assert 1 == found["stagefleet_pending_callbacks",]
    assert 7 <= found["stagefleet_oldest_unclaimed_seconds", "delete_stage"] < 60
    assert 7 <= found["stagefleet_oldest_run_seconds",] < 60
    assert harness.ledger.run(run_id).skipped == 1


def metrics_at(harness: LedgerHarness, metrics: FleetMetrics) -> str:
    """The metrics at the harness's clock."""
    metrics._scripts.clock_offset_ms = harness.broker._redis_ledger.scripts.clock_offset_ms  # type: ignore[attr-defined]
    return metrics.read()


def test_a_run_that_is_being_cancelled_wants_a_worker_until_its_last_item_has_ended(
    harness: LedgerHarness, metrics: FleetMetrics
):
    harness.staff(4)
    run_id = harness.submit(ITEMS, parallel=4)
    claim = harness.take()
    harness.ledger.cancel(run_id)
    found = samples_of(metrics.read())
    assert (1, 1) == (
        found["stagefleet_live_runs", "cancelling"],
        found["stagefleet_wanted_slots", "copy_stage"],
    )
    assert (0, 1) == tuple(found["stagefleet_items", "copy_stage", state] for state in ("pending", "claimed"))
    harness.succeed(claim)
    assert 0 == samples_of(metrics.read())["stagefleet_wanted_slots", "copy_stage"]


def test_workers_are_counted_by_host_and_release_and_not_by_process(
    harness: LedgerHarness, metrics: FleetMetrics
):
    for number in range(3):
        name = f"worker-{number}@build-1-0a1b2c-{number:06x}"
        harness.ledger.heartbeats.beat(WorkerInfo(name, 4, ("copy", "host.build-1")), seconds=60)
    harness.ledger.heartbeats.beat(WorkerInfo("worker-9@old-0a1b2c-00000f", 4, ("copy",)), seconds=0)
    found = samples_of(metrics.read())
    assert 3 == found["stagefleet_workers", "build-1", __version__]
    assert 1 == sum(names[0] == "stagefleet_workers" for names in found)
    assert (12, 12, 0) == tuple(found["stagefleet_slots", queue] for queue in ("copy", "other", "delete"))


def test_hosts_beyond_a_bound_are_one(harness: LedgerHarness, metrics: FleetMetrics):
    for number in range(150):
        name = f"worker-1@pod-{number}-0a1b2c-{number:06x}"
        harness.ledger.heartbeats.beat(WorkerInfo(name, 1, ("copy",)), seconds=60)
    workers = {n: v for n, v in samples_of(metrics.read()).items() if n[0] == "stagefleet_workers"}
    assert (101, 150, 50) == (
        len(workers),
        sum(workers.values()),
        workers["stagefleet_workers", "other", "other"],
    )


def test_dead_workers_lost_coordinators_and_sweeps_are_there(harness: LedgerHarness, metrics: FleetMetrics):
    harness.staff(4)
    harness.submit(ITEMS[:1], max_attempts=1, callback=Callback.WEBHOOK)
    harness.take()
    harness.ledger.sweep()
    harness.advance(LEASE_SECONDS + 1)
    harness.ledger.sweep()
    found = samples_of(metrics_at(harness, metrics))
    assert 1 == found["stagefleet_up",]
    assert 1 == found["stagefleet_reaped_total", "copy_stage"]
    assert 1 == found["stagefleet_failed_items_total", "copy_stage", "WorkerLostError"]
    assert (1, 1) == (found["stagefleet_coordinations",], found["stagefleet_wanted_slots", "coordinate"])
    assert 0 <= found["stagefleet_last_sweep_seconds",] < 60


def write_live_runs(broker: RedisBroker, count: int, **fields: Any) -> None:
    """Write live runs, each opened a moment after the one before."""
    facts = {"state": "running", "operation": "copy_stage", "total": 9, "parallel": 4, "unacknowledged": 0}
    ended = dict.fromkeys(("succeeded", "failed", "skipped", "cancelled"), 0)
    with broker.client.pipeline(transaction=False) as pipe:
        for number in range(count):
            run = f"{number:012x}"
            pipe.hset(f"{broker.prefix}run:{run}", mapping=facts | ended | {"next": 1} | fields)
            pipe.zadd(f"{broker.prefix}live", {run: number + 1})
            pipe.zadd(f"{broker.prefix}runs", {run: number + 1})
        pipe.execute()


def commands_of(broker: RedisBroker, work: Callable[[], str]) -> tuple[int, str]:
    """How many commands Redis served for some work, and its answer."""
    broker.client.config_resetstat()
    text = work()
    stats = broker.client.info("commandstats")
    return sum(entry["calls"] for name, entry in stats.items() if "config" not in name), text


def test_a_scrape_of_ten_thousand_runs_takes_a_thousand_commands_in_five_calls(
    metrics: FleetMetrics, broker: RedisBroker
):
    write_live_runs(broker, 10_000)
    metrics.read()
    commands, text = commands_of(broker, metrics.read)
    parts = MOST_RUNS // RUNS_A_CALL
    assert COMMANDS_OF_A_SCRAPE + COMMANDS_OF_A_PART * parts + COMMANDS_OF_A_RUN * MOST_RUNS == commands
    assert 1020 == commands
    found = samples_of(text)
    assert (10_000, 40_000) == (
        found["stagefleet_live_runs", "running"],
        found["stagefleet_wanted_slots", "copy_stage"],
    )


def test_of_many_runs_old_ones_and_new_ones_are_looked_at(metrics: FleetMetrics, broker: RedisBroker):
    write_live_runs(broker, 4000)
    for number in range(2000, 4000):
        broker.client.hset(f"{broker.prefix}run:{number:012x}", "paused", 1)
    found = samples_of(metrics.read())
    assert (2000, 2000) == tuple(found["stagefleet_live_runs", state] for state in ("running", "paused"))


def test_each_of_as_many_runs_as_are_looked_at_counts_once(metrics: FleetMetrics, broker: RedisBroker):
    write_live_runs(broker, MOST_RUNS - 1)
    assert MOST_RUNS - 1 == samples_of(metrics.read())["stagefleet_live_runs", "running"]


def test_runs_that_have_not_begun_are_read_with_one_command_each(metrics: FleetMetrics, broker: RedisBroker):
    write_live_runs(broker, RUNS_A_CALL, next=0, state="submitting")
    metrics.read()
    commands, text = commands_of(broker, metrics.read)
    assert COMMANDS_OF_A_SCRAPE + COMMANDS_OF_A_PART + RUNS_A_CALL == commands
    assert RUNS_A_CALL == samples_of(text)["stagefleet_live_runs", "submitting"]


def test_what_workers_count_themselves_is_there(harness: LedgerHarness, metrics: FleetMetrics):
    counts = {
        "registry_attempts r:5000 done": 7,
        "registry_attempts r:5000 retry": 2,
        "refusals r:5000 429": 3,
        "attempt_ms copy_stage": 4500,
        "lost_leases -": 5,
        "waits lock": 6,
        "wait_ms lock": 2500,
    }
    harness.ledger.heartbeats.beat(WorkerInfo("host:1", 2, ("copy",)), seconds=9, counts=counts)
    found = samples_of(metrics.read())
    assert 3 == found["stagefleet_registry_refusals_total", "r:5000", "429"]
    assert 4.5 == found["stagefleet_attempt_duration_seconds_sum", "copy_stage"]
    assert 5 == found["stagefleet_lost_leases_total",]
    assert 6 == found["stagefleet_waits_total", "lock"]
    assert 2.5 == found["stagefleet_wait_seconds_total", "lock"]
    assert (7, 2) == tuple(
        found["stagefleet_registry_attempts_total", "r:5000", end] for end in ("done", "retry")
    )


def test_labels_are_escaped_and_what_another_release_counts_is_left_out(
    harness: LedgerHarness, metrics: FleetMetrics, broker: RedisBroker
):
    strange = 'a"b\\c\nd'
    counters = COUNTERS.of(broker.prefix)
    broker.client.hset(counters, f"refusals {strange} 429", 3)
    broker.client.hset(counters, "refusals other", 4)
    broker.client.hset(counters, "items no_such_operation succeeded - 1", 5)
    for field in ("no_such_kind x", "items", "items copy_stage succeeded - 1 more", ""):
        broker.client.hset(counters, field, 7)
    broker.client.hset(f"{broker.prefix}workers", "broken", "{")
    broker.client.zadd(f"{broker.prefix}live", {"gone": 1})
    found = samples_of(metrics.read())
    assert 3 == found["stagefleet_registry_refusals_total", strange, "429"]
    assert 4 == found["stagefleet_registry_refusals_total", "other", "other"]
    assert 5 == found["stagefleet_items_total", "other", "succeeded"]
    assert 5 == sum(n for names, n in found.items() if names[0] == "stagefleet_items_total")


def test_every_metric_has_its_type_and_help_and_no_other_is_there(
    harness: LedgerHarness, metrics: FleetMetrics, broker: RedisBroker
):
    harness.staff(1)
    harness.submit(ITEMS[:2])
    harness.ledger.finish(harness.take(), failure(ITEMS[0]), retry_after_seconds=9)
    harness.ledger.finish(harness.take(), failure(ITEMS[1]))
    for field in ("refusals r:5000 429", "registry_attempts r:5000 done"):
        broker.client.hset(COUNTERS.of(broker.prefix), field, 3)
    families = {
        family.name + "_total" * (family.type == "counter"): family
        for family in text_string_to_metric_families(metrics.read())
    }
    assert list(METRICS) == list(families)
    for name, metric in METRICS.items():
        assert (metric.type, metric.help) == (families[name].type, families[name].documentation)
        for sample in families[name].samples:
            assert set(metric.labels) == set(sample.labels) - {"le"}


def test_a_fleet_whose_redis_is_away_is_down(broker: RedisBroker):
    assert {("stagefleet_up",): 0} == samples_of(unreachable_metrics())
