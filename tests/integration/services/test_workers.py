from __future__ import annotations

from functools import partial

import pytest

from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings
from tests.services import ServiceStartError, stagefleet_command
from tests.services.processes import wait_until

COMMAND = partial(stagefleet_command, "worker")
"""As a user starts it."""


def _names(redis_server):
    ledger = RedisLedger.connect(redis_server.url, Settings(redis_url=redis_server.url))
    try:
        return {worker.name.partition("@")[0] for worker in ledger.heartbeats.workers()}
    finally:
        ledger.close()


def test_workers_listen_once_they_are_started_also_those_that_replace_the_killed(redis_server, make_workers):
    workers = make_workers(redis_server.url, processes=2, concurrency=1, command=COMMAND)
    first = workers.pids
    assert {f"worker-{pid}" for pid in first} == _names(redis_server)
    killed = workers.kill_one()
    wait_until(lambda: len(workers.pids) == 2 and killed not in workers.pids, "another process starts")
    workers.wait_until_listening()
    assert {f"worker-{pid}" for pid in workers.pids} <= _names(redis_server)
    last = workers.pids
    workers.stop()
    assert ([0], []) == ([program.returncode for program in workers.programs], workers.pids)
    assert _names(redis_server).isdisjoint(f"worker-{pid}" for pid in last)


def test_workers_that_cannot_start_say_why(redis_server, make_workers):
    with pytest.raises(ServiceStartError, match="LEASE_SECONDS"):
        make_workers(redis_server.url, environment={"STAGEFLEET_RUNS__LEASE_SECONDS": "-1"})
