"""Producers that die in the middle, answers that they never get, and the largest run there may be."""

import json
import random
import signal
import subprocess
import sys

import pytest
import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from stagefleet.bounds import MAX_ITEMS
from stagefleet.fleet.submission import submit
from stagefleet.operations.base import Plan
from stagefleet.runs.models import ItemState, Outcome, RunSpec
from stagefleet.runs.redis_ledger import RedisLedger

COUNT = 5_000
MIB = 1024 * 1024
DIES = """
import os, signal, sys
from stagefleet.runs.models import RunSpec
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings

settings = Settings(runs={"lease_seconds": 3, "renewal_seconds": 1})
ledger = RedisLedger.connect(sys.argv[1], settings)
early = sys.argv[3] == "early"
spec = RunSpec(operation="wait", key=sys.argv[2] or None, fingerprint="same", starts_early=early)
submission = ledger.open(spec)
ledger.append(submission, [f"item-{number}" for number in range(4000)])
print(submission.run_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
MILLION = """
import json, resource, sys
from stagefleet.fleet.submission import submit
from stagefleet.operations.base import Plan
from stagefleet.errors import TooManyItemsError
from stagefleet.bounds import MAX_ITEMS
from stagefleet.runs.models import RunSpec
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import load_settings


class Items:
    def __init__(self, count):
        self.count = count

    def __iter__(self):
        return (f"{number:056x}-{1_700_000_000_000 + number}" for number in range(self.count))


ledger = RedisLedger.connect(sys.argv[1], load_settings())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
spec = RunSpec(operation="wait", parallel=64)
run = submit(lambda: ledger, spec, lambda: Plan(Items(MAX_ITEMS))).run_id
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    submit(lambda: ledger, spec, lambda: Plan(Items(MAX_ITEMS + 1)))
    refused = False
except TooManyItemsError:
    refused = True
print(json.dumps({"run": run, "grown_kib": after - before, "refused": refused}))
"""


def run_python(script, *arguments):
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300, check=False)


@pytest.fixture
def killed(redis_server):
    """A run whose producer was killed in the middle of its submission."""

    def killed(key="", start=""):
        done = run_python(DIES, redis_server.url, key, start)
        assert -signal.SIGKILL == done.returncode
        return done.stdout.strip()

    return killed


def test_a_producer_killed_without_a_key_leaves_a_cancelled_run(workers, fleet, killed):
    workers.begin(processes=1)
    finished, outcomes = fleet.follow(killed())
    assert ("cancelled", 4000, []) == (finished.state, finished.cancelled, outcomes)
    assert finished.error is not None
    assert "CoordinatorLostError" == finished.error.type


def test_a_producer_killed_under_a_key_is_completed_by_the_next_call(workers, fleet, killed, check):
    workers.begin()
    run = killed("the-job")
    spec = RunSpec(operation="wait", key="the-job", fingerprint="same")
    plan = Plan([f"item-{number}" for number in range(600)])
    submission = submit(lambda: fleet.ledger, spec, lambda: plan)
    assert run == submission.run_id
    check(run, 600)


def test_a_producer_killed_after_an_early_start_is_completed_by_the_next_call(workers, fleet, killed, check):
    workers.begin()
    run = killed("the-job", "early")
    spec = RunSpec(operation="wait", key="the-job", fingerprint="same", starts_early=True)
    plan = Plan([f"item-{number}" for number in range(4200)])
    assert run == submit(lambda: fleet.ledger, spec, lambda: plan).run_id
    check(run, 4200)


@pytest.fixture
def lossy(monkeypatch, redis_server, settings):
    """A ledger that never gets one answer in five: Redis has done what was asked, and the link is gone."""
    chance = random.Random(2)
    ours: set[object] = set()
    real = redis.Connection.read_response

    def read_response(self, *arguments, **options):
        answer = real(self, *arguments, **options)
        if self in ours and chance.random() < 0.2:
            self.disconnect()
            raise redis.ConnectionError("the answer is lost")
        return answer

    monkeypatch.setattr(redis.Connection, "read_response", read_response)
    retry = Retry(ExponentialBackoff(base=0.001, cap=0.01), 10)
    client = redis.Redis.from_url(redis_server.url, protocol=2, retry=retry)
    connect = client.connection_pool.make_connection

    def make_connection():
        connection = connect()
        ours.add(connection)
        return connection

    monkeypatch.setattr(client.connection_pool, "make_connection", make_connection)
    yield RedisLedger(client, prefix=settings.key_prefix, settings=settings.runs)
    client.close()


def test_lost_answers_double_nothing(lossy, fleet):
    expected = [f"item-{number}" for number in range(COUNT)]
    run_id = submit(lambda: lossy, RunSpec(operation="wait", parallel=4), lambda: Plan(expected)).run_id
    assert [run_id] == [found.id for found in fleet.ledger.runs()]
    assert COUNT == fleet.ledger.run(run_id).total
    assert expected == [item for _, item in fleet.ledger.leftovers(run_id)]

    for index in range(COUNT // 10):
        claim = lossy.claim(run_id, index, "worker")
        assert claim is not None
        assert (f"item-{index}", 1) == (claim.item, claim.attempt)
        lossy.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED))
    stands = fleet.ledger.run(run_id)
    assert (COUNT // 10, 0) == (stands.succeeded, stands.claimed)
    assert expected[COUNT // 10 :] == [item for _, item in fleet.ledger.leftovers(run_id)]


def test_a_million_items_are_few_bytes_each_and_one_more_is_refused(redis_server, fleet):
    client = redis_server.client()
    empty = client.info("memory")["used_memory"]
    done = run_python(MILLION, redis_server.url)
    assert 0 == done.returncode
    answer = json.loads(done.stdout)
    assert answer["refused"]
    assert answer["grown_kib"] * 1024 < 64 * MIB
    run = fleet.ledger.run(answer["run"])
    assert (MAX_ITEMS, 1) == (run.total, run.published)
    assert fleet.ledger.cancel(run.id)
    assert ("cancelled", MAX_ITEMS) == (fleet.ledger.run(run.id).state, fleet.ledger.run(run.id).cancelled)
    # Two such runs stand there: this one, and the one that was refused when it was full.
    assert (client.info("memory")["used_memory"] - empty) / (2 * MAX_ITEMS) < 1024
