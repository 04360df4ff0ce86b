"""Lists of runs by filter, and what the workers of a run have, on a real Redis."""

from __future__ import annotations

from typing import Any

import pytest

from stagefleet.errors import UsageError
from stagefleet.redis_client import connect_redis
from stagefleet.runs import run_reader as readers
from stagefleet.runs.models import ItemState, ItemTransfer, Outcome, RunSpec, RunState, Submission, WorkerInfo
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.runs.run_reader import RunFilter, RunReader
from stagefleet.settings import RunSettings, Settings

PREFIX = "t:"
SOURCE = 'registry.test:5000/it\'s "a" Ü'


@pytest.fixture
def client(redis_server):
    client: Any = connect_redis(redis_server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def ledger(client, monkeypatch):
    """Open each run in a millisecond of its own: those of one have no order."""
    ledger = RedisLedger(client, prefix=PREFIX, settings=RunSettings())
    open_run = ledger.open

    def open_later(*args: Any, **options: Any) -> Submission:
        began = now_ms(client)
        while now_ms(client) == began:
            pass
        return open_run(*args, **options)

    monkeypatch.setattr(ledger, "open", open_later)
    return ledger


@pytest.fixture
def reader(client):
    return RunReader(client, prefix=PREFIX, settings=Settings())


def now_ms(client: Any) -> int:
    seconds, microseconds = client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def start(ledger: RedisLedger, *items: str, operation: str = "copy_stage", **options: str) -> str:
    submission = ledger.open(RunSpec(operation=operation, options=options, parallel=100))
    ledger.append(submission, items)
    ledger.start(submission)
    return submission.run_id


def end(ledger: RedisLedger, run_id: str, state: ItemState = ItemState.SUCCEEDED) -> None:
    index = 0
    while (claim := ledger.claim(run_id, index, "worker")) is not None:
        ledger.finish(claim, Outcome(item=claim.item, state=state))
        index += 1


def ids_of(reader: RunReader, wanted: RunFilter) -> list[str]:
    return [run.id for run in reader.page(wanted).runs]


def test_a_filter_finds_by_operation_by_storage_and_by_state(ledger, reader):
    copied = start(ledger, "a", source=SOURCE, destination="mirror.test/app")
    deleted = start(ledger, "a", operation="delete_stage", repository="mirror.test/app")
    failed = start(ledger, "a", source="registry.test/other", destination="mirror.test/app")
    empty = start(ledger, source="registry.test/other", destination="copy.test/x")
    end(ledger, failed, ItemState.FAILED)
    opened = ledger.open(RunSpec(operation="copy_stage", options={"source": "new.test/x"})).run_id
    everything = [opened, empty, failed, deleted, copied]
    assert everything == ids_of(reader, RunFilter())
    assert [deleted] == ids_of(reader, RunFilter(operation="delete_stage"))
    assert [] == ids_of(reader, RunFilter(operation="delete"))
    assert [copied] == ids_of(reader, RunFilter(text='it\'s "a" Ü'))
    assert [failed, deleted, copied] == ids_of(reader, RunFilter(text="mirror.test/app"))
    assert [] == ids_of(reader, RunFilter(text="mirror.test/%a"))  # no pattern
    assert [] == ids_of(reader, RunFilter(text="delete_stage"))  # no storage
    assert [failed] == ids_of(reader, RunFilter(states=(RunState.FAILED,)))
    live = RunFilter(states=(RunState.SUBMITTING, RunState.RUNNING))
    assert [opened, deleted, copied] == ids_of(reader, live)
    assert [failed] == ids_of(reader, RunFilter("copy_stage", "registry.test", (RunState.FAILED,)))


def test_pages_follow_one_another_and_new_runs_shift_none(ledger, reader):
    runs = [start(ledger, "a") for _ in range(7)][::-1]
    first = reader.page(RunFilter(), limit=3)
    start(ledger, "a")
    second = reader.page(RunFilter(), first.position, limit=3)
    third = reader.page(RunFilter(), second.position, limit=3)
    assert runs == [run.id for page in (first, second, third) for run in page.runs]
    assert ("", 8) == (third.position, third.total)


def test_a_page_follows_one_whose_last_run_has_expired(client, ledger, reader):
    runs = [start(ledger, "a") for _ in range(5)][::-1]
    for place, run in enumerate(runs):
        client.zadd(f"{PREFIX}runs", {run: 1000 - place})
    first = reader.page(RunFilter(), limit=2)
    client.delete(f"{PREFIX}run:{runs[1]}")
    client.zrem(f"{PREFIX}runs", runs[1])
    assert runs[2:] == [run.id for run in reader.page(RunFilter(), first.position).runs]


def test_an_expired_run_leaves_the_list_and_a_damaged_one_hides_none(client, ledger, reader):
    gone, damaged, whole = (start(ledger, "a") for _ in range(3))
    client.delete(f"{PREFIX}run:{gone}", f"{PREFIX}run:{damaged}")
    client.set(f"{PREFIX}run:{damaged}", "text")
    assert whole in ids_of(reader, RunFilter())
    assert 2 == client.zcard(f"{PREFIX}runs")


def test_a_list_looks_at_a_bounded_number_of_runs(ledger, reader, monkeypatch):
    monkeypatch.setattr(readers, "LOOKED_AT_RUNS", 6)
    monkeypatch.setattr(readers, "_LOOKED_AT_A_CALL", 2)
    rare = start(ledger, "a", source="rare.test/x")
    for _ in range(7):
        start(ledger, "a")
    page = reader.page(RunFilter(text="rare.test"))
    assert ((), 8) == (page.runs, page.total)
    assert [rare] == [run.id for run in reader.page(RunFilter(text="rare.test"), page.position).runs]


@pytest.mark.parametrize("position", ["x", "1 2 3", "1", "1 " + "a" * 65, "1 a\n", "nan(0) a"])
def test_what_is_no_position_is_refused(reader, position):
    with pytest.raises(UsageError, match="position"):
        reader.page(RunFilter(), position)


def test_claimed_items_name_their_workers(ledger, reader):
    run_id = start(ledger, "a", "b\x1fhost-1", "c")
    assert [] == reader.claimed(run_id)
    ledger.claim(run_id, 0, "worker-1@one two")
    ledger.claim(run_id, 1, "worker-2@host-1")
    found = {item.item: item for item in reader.claimed(run_id)}
    assert {"a": "worker-1@one two", "b": "worker-2@host-1"} == {
        name: item.worker for name, item in found.items()
    }
    assert (None, "host-1") == (found["a"].host, found["b"].host)
    run = ledger.run(run_id)
    assert all(run.now_at < item.leased_until <= run.now_at + 60 for item in found.values())


def test_claimed_items_tell_the_bytes_that_their_worker_told(ledger, reader):
    run_id = start(ledger, "large", "small")
    for index in range(2):
        ledger.claim(run_id, index, "worker-1@one")
    moving = (ItemTransfer(run_id, 0, 5, 9), ItemTransfer("0000000000ff", 1, 7, 7))
    ledger.heartbeats.beat(WorkerInfo("worker-1@one", 4, ("copy",), transfers=moving), seconds=60)
    found = {item.item: (item.moved, item.expected) for item in reader.claimed(run_id)}
    assert {"large": (5, 9), "small": (0, 0)} == found


def test_a_page_of_ten_thousand_runs_costs_as_many_commands_as_one_of_a_hundred(client, reader):
    """Each run costs the page a fixed number of reads, and none beside the page costs any."""
    counts = {}
    for runs in (100, 10_000):
        fill(client, runs)
        reader.page(RunFilter())
        client.config_resetstat()
        page = reader.page(RunFilter())
        found = client.info("commandstats")
        assert (50, runs) == (len(page.runs), page.total)
        counts[runs] = {
            name.removeprefix("cmdstat_"): entry["calls"]
            for name, entry in found.items()
            if name not in {"cmdstat_config|resetstat", "cmdstat_info"}
        }
    assert counts[100] == counts[10_000]
    assert 2 == counts[10_000]["evalsha"]
    assert 50 == counts[10_000]["hmget"], "no run beside those of the page is looked at"
    assert 50 == counts[10_000]["hgetall"]


def test_a_rare_run_among_ten_thousand_is_found_in_five_calls(client, ledger, reader):
    rare = start(ledger, "a", source="rare.test/x")
    client.zadd(f"{PREFIX}runs", {rare: 0})
    fill(client, 9_999)
    reader.page(RunFilter(), limit=1)  # Redis knows the scripts
    client.config_resetstat()
    page = reader.page(RunFilter(text="rare.test"))
    found = client.info("commandstats")
    assert [rare] == [run.id for run in page.runs]
    assert 6 == found["cmdstat_evalsha"]["calls"]


def fill(client: Any, count: int) -> None:
    """Write runs as the ledger leaves them, quickly."""
    fields = {
        "state": "succeeded",
        "order": RunSpec(operation="copy_stage").model_dump_json(),
        "subject": "'operation': 'copy_stage'",
        "created_ms": 1_764_000_000_000,
        "total": 0,
    }
    pipe = client.pipeline(transaction=False)
    for number in range(count):
        pipe.hset(f"{PREFIX}run:{number:012x}", mapping=fields)
        pipe.zadd(f"{PREFIX}runs", {f"{number:012x}": 1_764_000_000_000 + number})
    pipe.execute()
