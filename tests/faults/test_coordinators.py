"""Coordinators that die, double, or raise: each outcome is called back, and one of them leads."""

import signal
import subprocess
import sys
import threading

import pytest

from stagefleet.errors import CoordinatorLostError
from stagefleet.runs.coordinator import watch
from stagefleet.runs.models import Callback, RunSpec
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import RunSettings, Settings

COUNT = 200
DIES = """
import os, signal, sys
from stagefleet.runs.coordinator import watch
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import load_settings

def call_back(outcome):
    print(outcome.item, flush=True)
    if outcome.item == "item-50":
        os.kill(os.getpid(), signal.SIGKILL)

watch(RedisLedger.connect(sys.argv[1], load_settings()), sys.argv[2], on_outcome=call_back)
"""


@pytest.fixture
def submit(redis_server, cleanup):
    """Submits a run whose coordinator may be away for a minute: a loaded machine is slow to start one."""

    def submit(count, parallel=8, *, lease_seconds=60):
        settings = Settings(runs=RunSettings(lease_seconds=lease_seconds))
        ledger = RedisLedger.connect(redis_server.url, settings)
        cleanup.callback(ledger.close)
        spec = RunSpec(operation="wait", parallel=parallel, callback=Callback.CLIENT)
        submission = ledger.open(spec)
        for first in range(0, count, 2000):
            items = [f"item-{number}" for number in range(first, min(count, first + 2000))]
            ledger.append(submission, items)
        ledger.start(submission)
        return submission.run_id

    return submit


def test_killed_between_callback_and_commit(workers, fleet, submit, redis_server):
    workers.begin()
    run = submit(COUNT)
    command = [sys.executable, "-c", DIES, redis_server.url, run]
    first = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert -signal.SIGKILL == first.returncode
    before, after = first.stdout.split(), []
    finished = watch(fleet.ledger, run, on_outcome=lambda outcome: after.append(outcome.item))
    assert ("succeeded", COUNT) == (finished.state, finished.succeeded)
    assert {f"item-{number}" for number in range(COUNT)} == {*before, *after}
    assert "item-50" in after, "it was called back, and not committed"
    assert len(after) == len(set(after))
    assert len(before) + len(after) - COUNT <= 8, "no more than the window comes twice"


def test_a_second_coordinator_fences_off_the_first(workers, fleet, submit, redis_server, settings):
    workers.begin()
    run = submit(COUNT)
    called, lost = [], []
    half, taken_over = threading.Event(), threading.Event()

    def call_back(outcome):
        called.append(outcome.item)
        if len(called) == COUNT // 2:
            half.set()
            assert taken_over.wait(60)

    def lead():
        try:
            watch(RedisLedger.connect(redis_server.url, settings), run, on_outcome=call_back)
        except CoordinatorLostError as error:
            lost.append(error)

    first = threading.Thread(target=lead)
    first.start()
    assert half.wait(60)
    after = []

    def call_back_too(outcome):
        taken_over.set()
        after.append(outcome.item)

    finished = watch(fleet.ledger, run, on_outcome=call_back_too)
    first.join(60)
    assert ("succeeded", COUNT) == (finished.state, finished.succeeded)
    assert {f"item-{number}" for number in range(COUNT)} == {*called, *after}
    assert len(after) == len(set(after))
    assert len(called) + len(after) - COUNT <= 8, "no more than the window comes twice"
    assert 1 == len(lost), "the first is told"


def test_an_error_far_into_a_hundred_thousand(workers, fleet, submit):
    workers.begin()
    total, stop_at, parallel = 100_000, 2_000, 16
    run = submit(total, parallel)
    called = []

    def call_back(outcome):
        called.append(outcome.item)
        if len(called) == stop_at:
            raise LookupError("no")

    with pytest.raises(LookupError):
        watch(fleet.ledger, run, on_outcome=call_back)
    stands = fleet.ledger.run(run)
    assert stop_at == len(called) == len(set(called))
    assert stop_at <= stands.succeeded <= stop_at - 1 + parallel
    assert ("cancelled", total) == (stands.state, stands.succeeded + stands.cancelled)
    assert stands.error is not None
    assert ("LookupError", "no") == (stands.error.type, stands.error.message)


def test_a_client_that_vanishes_with_its_callback_cancels_the_run(workers, fleet, submit):
    workers.begin()
    run = submit(COUNT, lease_seconds=3)  # and nobody coordinates it
    finished, _ = fleet.follow(run)
    assert "cancelled" == finished.state
    assert finished.error is not None
    assert "CoordinatorLostError" == finished.error.type
    assert finished.succeeded == 8, "the window was never acknowledged"
