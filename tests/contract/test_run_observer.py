"""What a page of a run costs Redis, on one of thousands of items that no worker had."""

from __future__ import annotations

import json
from typing import Any

import pytest

from config.pages import observer as observers
from config.pages.observer import RunObserver
from scripts.bench.pages import fill
from stagefleet.redis_client import connect_redis
from stagefleet.runs.run_reader import RunFilter
from stagefleet.settings import Settings

_OWN = {"config|resetstat", "info", "flushall"}


@pytest.fixture
def client(redis_server):
    client: Any = connect_redis(redis_server.url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def observer(redis_server, client):
    made = RunObserver(redis_server.url, Settings())
    yield made
    made.close()


def commands(client: Any) -> dict[str, int]:
    """The commands since the last reset, and how often each was called, in scripts, too."""
    found = {
        name.removeprefix("cmdstat_"): entry["calls"] for name, entry in client.info("commandstats").items()
    }
    client.config_resetstat()
    return {name: calls for name, calls in found.items() if name not in _OWN}


def test_a_long_run_is_read_once_and_then_costs_three_round_trips(
    redis_server, client, observer, monkeypatch
):
    run_id = fill(redis_server.url, runs=1, items=10_000)
    observer.run(run_id)  # the scripts are loaded
    monkeypatch.setattr(observers, "_READING_SECONDS", 0)
    commands(client)
    has_all, first = observer.figures(run_id)
    assert (False, 1000) == (has_all, json.loads(first)["figures"]["read"])
    assert 1 == commands(client)["xread"], "a look reads one part when its time is over"
    monkeypatch.setattr(observers, "_READING_SECONDS", 600)
    has_all, whole = observer.figures(run_id)
    figures = json.loads(whole)["figures"]
    assert (True, 10_000, 100, 100) == (
        has_all,
        figures["read"],
        figures["all"]["failed"],
        len(figures["failures"]),
    )
    assert len(whole) < 200_000
    assert 10 == commands(client)["xread"], "a thousand outcomes each, and one look for more"
    observer.figures(run_id)
    assert {
        "evalsha": 2,  # the run, and once more as it has no new outcome: it might have expired
        "time": 2,
        "hgetall": 2,
        "zcard": 8,
        "zrange": 4,
        "zscore": 2,
        "xrange": 1,
        "xread": 1,
    } == commands(client)


def test_a_page_of_the_list_reads_its_fifty_runs_and_no_other(redis_server, client, observer):
    fill(redis_server.url, runs=300, items=2000)
    observer.page(RunFilter(), "", 50)
    commands(client)
    shown = json.loads(observer.page(RunFilter(), "", 50))
    assert (50, 300) == (len(shown["runs"]), shown["total"])
    assert {
        "evalsha": 2,
        "time": 2,
        "zcard": 1 + 50 * 4,
        "zrevrange": 1,
        "hmget": 50,
        "hgetall": 50,
        "zrange": 50 * 2,
        "zscore": 50,
    } == commands(client)
