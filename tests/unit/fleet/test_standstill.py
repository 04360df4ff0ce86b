"""What a client says of a run that stands still, and when it gives one up."""

from __future__ import annotations

import math

import pytest

from stagefleet.errors import NoWorkerError
from stagefleet.runs.models import Callback, ItemState, Outcome, RunSpec, RunState, WaitReason, WorkerInfo

SOURCE, DESTINATION = "src.test/app", "dst.test/app"
LIMITED = WaitReason(host="src.test", text="429 Too Many Requests")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr("stagefleet.fleet.waits._QUIET_SECONDS", 0.0)


@pytest.fixture
def cancel_once_told(fleet, notices, monkeypatch):
    """Ends the run that is followed as soon as the client has said something."""

    def follow(run):
        def note(line):
            notices.append(line)
            fleet.cancel(run.id)

        return note

    return follow


def submit_for_host(ledger, host):
    """A copy to the engine of a host, as its command starts it."""
    spec = RunSpec(operation="copy_stage", options={"hosts": [host]}, callback=Callback.NONE)
    submission = ledger.open(spec)
    ledger.append(submission, [f"a\x1f{host}"])
    ledger.start(submission)
    return submission.run_id


def put_off(ledger, run):
    claim = ledger.claim(run, 0, "worker:1")
    failed = Outcome(item=claim.item, state=ItemState.FAILED)
    assert ledger.finish(claim, failed, retry_after_seconds=600, reason=LIMITED)


def test_who_follows_is_told_for_whom_a_run_waits(fleet, ledger, notices, cancel_once_told):
    """R7: each way to follow a run says for whom it waits, in Python as in the command."""
    ledger.heartbeats.beat(WorkerInfo("worker:1", 4, ("copy",)), seconds=60)
    for limit_seconds in (None, math.inf):
        run = fleet.for_each_copy_stage(SOURCE, DESTINATION, detach=True)
        put_off(ledger, run.id)
        ended = fleet.wait(run.id, on_notice=cancel_once_told(run), no_worker_limit_seconds=limit_seconds)
        assert RunState.CANCELLED is ended.state
    assert 2 == len(notices)
    assert all(line.startswith("1 item waits for src.test (429 Too Many Requests), ") for line in notices)


def test_the_worker_of_a_host_works_on_what_goes_to_its_engine(fleet, ledger, notices, monkeypatch):
    """R14: a worker set aside with `--queues fetch` is no absence of one for `copy`."""
    ledger.heartbeats.beat(WorkerInfo("engine:1", 4, ("fetch", "host.h")), seconds=60)
    run = submit_for_host(ledger, "h")
    looks = []
    workers = ledger.heartbeats.workers

    def count(queue=None):
        looks.append(queue)
        if len(looks) == 20:  # some times longer than the limit
            ledger.cancel(run)
        return workers(queue)

    monkeypatch.setattr(ledger.heartbeats, "workers", count)
    assert RunState.CANCELLED is fleet.wait(run).state
    assert [] == notices


def test_a_run_for_a_host_that_nobody_works_for_is_given_up(fleet, ledger, notices):
    """R14: the workers of other hosts and queues are no help."""
    ledger.heartbeats.beat(WorkerInfo("engine:1", 4, ("copy", "fetch", "host.other")), seconds=60)
    run = submit_for_host(ledger, "h")
    with pytest.raises(NoWorkerError, match=r"'host\.h'"):
        fleet.wait(run)
    assert 1 == len(notices)
    assert RunState.CANCELLED is ledger.run(run).state


def test_who_only_watches_is_told_that_nobody_works_and_ends_nothing(
    fleet, notices, cancel_once_told, monkeypatch
):
    """R14: `runs watch` is no reason for a run to end."""
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, detach=True)
    ended = fleet.wait(run.id, on_notice=cancel_once_told(run), no_worker_limit_seconds=math.inf)
    assert (RunState.CANCELLED, None) == (ended.state, ended.error)
    assert ["no worker listens to the queue 'copy': start one with stagefleet worker"] == notices
