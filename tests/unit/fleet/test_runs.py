from __future__ import annotations

import threading

import pytest

from stagefleet import Outcome, RunState
from stagefleet.errors import RunNotFoundError, UsageError

SOURCE, DESTINATION = "src.test/app", "dst.test/app"


def test_deleting_gives_every_named_stage_a_task_whatever_the_tag_list_says(
    fleet, fake_worker, registries, make_stage
):
    run = fleet.for_each_delete_stage(DESTINATION, [make_stage(1), make_stage(99)])
    assert 2 == run.succeeded
    assert [DESTINATION] == registries.looked_for


def test_deleting_none_named_is_all(fleet, fake_worker):
    assert 5 == fleet.for_each_delete_stage(SOURCE, None).succeeded


def test_a_retry_runs_what_failed_alone(fleet, fake_worker, make_stage):
    fake_worker.failing = {make_stage(2), make_stage(4)}
    failed = fleet.for_each_copy_stage(SOURCE, DESTINATION)
    fake_worker.failing = set()
    fake_worker.done.clear()
    again = fleet.retry(failed.id, parallel=3)
    assert [make_stage(2), make_stage(4)] == fake_worker.done
    assert (failed.id, 3, RunState.SUCCEEDED) == (again.spec.parent, again.spec.parallel, again.state)


def test_a_retry_of_what_succeeded_is_that_run(fleet, fake_worker):
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION)
    assert run.id == fleet.retry(run.id).id


def test_a_run_under_way_cannot_be_retried(fleet):
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, detach=True)
    with pytest.raises(UsageError, match="still running"):
        fleet.retry(run.id)


def test_a_cancelled_run_keeps_what_was_not_done_for_a_retry(fleet):
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, detach=True)
    assert fleet.cancel(run.id)
    ended = fleet.wait(run.id)
    assert (RunState.CANCELLED, 1, 4) == (ended.state, ended.skipped, ended.cancelled)
    assert 4 == fleet.retry(run.id, detach=True).total


def test_a_paused_run_rests_until_it_is_resumed(fleet, fake_worker):
    """Whoever shares its key is attached to it, and does not resume it."""
    resumed = threading.Event()
    fake_worker.on_claim = lambda _: resumed.wait(10)
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, detach=True, idempotency_key="k")
    assert [True, False] == [fleet.pause(run.id), fleet.pause(run.id)]
    again = fleet.for_each_copy_stage(SOURCE, DESTINATION, detach=True, idempotency_key="k")
    assert (run.id, RunState.PAUSED, 4) == (again.id, again.state, again.total - again.done)
    with pytest.raises(UsageError, match="still paused"):
        fleet.retry(run.id)
    assert [True, False] == [fleet.resume(run.id), fleet.resume(run.id)]
    resumed.set()
    assert RunState.SUCCEEDED is fleet.wait(run.id).state
    with pytest.raises(UsageError, match="it is succeeded, so it can be neither paused nor resumed"):
        fleet.pause(run.id)


def test_watching_starts_with_the_first_outcome_and_stops_nothing(fleet, fake_worker):
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION)
    seen: list[Outcome] = []
    fleet.wait(run.id, seen.append)
    assert 5 == len(seen)


def test_an_unknown_run_is_said(fleet):
    for call in (fleet.run, fleet.wait, fleet.cancel, fleet.pause, fleet.resume, fleet.retry):
        with pytest.raises(RunNotFoundError):
            call("nonsense")


def test_the_start_of_a_run_is_logged_by_the_client_that_started_it(fleet, caplog):
    caplog.set_level("INFO", "stagefleet")
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, detach=True, idempotency_key="k")
    assert run.id == fleet.for_each_copy_stage(SOURCE, DESTINATION, detach=True, idempotency_key="k").id

    (started,) = [record.facts for record in caplog.records if record.getMessage().startswith("run_started")]
    assert started == {
        "event": "run_started",
        "action": "start",
        "run": run.id,
        "total": 5,
        "operation": "copy_stage",
        "source": SOURCE,
        "destination": DESTINATION,
    }
