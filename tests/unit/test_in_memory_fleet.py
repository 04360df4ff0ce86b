"""What tests do with a fleet in memory beyond a real one: scripted errors, hosts, recorded callbacks."""

from __future__ import annotations

import json
import threading
from typing import Any, ClassVar

import pytest

from stagefleet import Project, RemoteCallback, Settings
from stagefleet.errors import (
    EngineNotFoundError,
    ForbiddenError,
    HostNotFoundError,
    RateLimitedError,
    StorageStateChangedError,
)
from stagefleet.manifests import Manifest, digest_of
from stagefleet.names import Reference, Repository
from stagefleet.operations import catalog
from stagefleet.operations.copy import CopyOperation
from stagefleet.operations.verify import VerifyOperation
from stagefleet.runs.models import ItemState, Run, RunState
from stagefleet.settings import RunSettings
from stagefleet.storages import verification
from stagefleet.testing import in_memory_fleet, memory_worker

SOURCE, DESTINATION = "registry.test/app", "mirror.test/app"
COPY = CopyOperation(source=Repository.parse(SOURCE), destination=Repository.parse(DESTINATION))
SOURCE_PROJECT = Project("app", Repository.parse(SOURCE))
STAGES = [f"{number:056x}-{1_700_000_000_000 + number}" for number in range(1, 6)]


@pytest.fixture
def fleet():
    with in_memory_fleet(stages={SOURCE: STAGES}, hosts=["ci-1"]) as fleet:
        yield fleet


def listed(fleet, address):
    return [str(stage_id) for stage_id in fleet.stage_ids(address, missing_ok=True)]


def test_a_scripted_error_fails_its_item_and_changes_nothing(fleet):
    fleet.worker.fail(STAGES[1], ForbiddenError("mirror.test: no right to push"))
    outcomes: list[Any] = []
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, None, outcomes.append)
    assert (RunState.FAILED, 4, 1) == (run.state, run.succeeded, run.failed)
    (failed,) = (outcome for outcome in outcomes if outcome.state is ItemState.FAILED)
    assert (STAGES[1], 1, "ForbiddenError", "mirror.test: no right to push") == (
        failed.item,
        failed.attempts,
        failed.error.type,
        failed.error.message,
    )
    assert [STAGES[0], *STAGES[2:]] == listed(fleet, DESTINATION)


def test_an_item_succeeds_after_the_scripted_attempts(fleet):
    fleet.worker.fail(STAGES[1], RateLimitedError("429"), attempts=2)
    outcomes = {}
    fleet.for_each_copy_stage(
        SOURCE, DESTINATION, None, lambda outcome: outcomes.update({outcome.item: outcome})
    )
    assert (ItemState.SUCCEEDED, 3) == (outcomes[STAGES[1]].state, outcomes[STAGES[1]].attempts)


def test_a_retryable_error_uses_up_the_attempts_of_the_settings():
    settings = Settings(runs=RunSettings(max_attempts=4))
    with in_memory_fleet(stages={SOURCE: STAGES[:1]}, settings=settings) as fleet:
        fleet.worker.fail(STAGES[0], RateLimitedError("429"))
        run = fleet.for_each_copy_stage(SOURCE, DESTINATION)
        (failed,) = fleet.failures(run.id)
    assert 4 == failed.attempts


def test_an_error_with_pauses_of_its_own_is_retried_as_often_as_it_has_some(fleet):
    fleet.worker.fail(STAGES[0], StorageStateChangedError("changed"))
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, STAGES[:1])
    (failed,) = fleet.failures(run.id)
    tries = len(StorageStateChangedError.retry_pauses_seconds) + 1
    assert min(tries, run.spec.max_attempts) == failed.attempts


def test_any_exception_may_be_scripted(fleet):
    fleet.worker.fail(STAGES[0], ZeroDivisionError("a bug"))
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, STAGES[:1])
    (failed,) = fleet.failures(run.id)
    assert ("ZeroDivisionError", "a bug") == (failed.error.type, failed.error.message)


@pytest.mark.parametrize("under_key", [False, True])
def test_what_somebody_else_copied_meanwhile_is_skipped_when_a_failed_run_goes_on(fleet, under_key):
    """As in a run of its own, which would find it on the destination's list."""
    fleet.worker.fail(STAGES[1], ZeroDivisionError("a bug"), attempts=1)
    key = "job" if under_key else None
    failed = fleet.for_each_copy_stage(SOURCE, DESTINATION, idempotency_key=key)
    fleet.for_each_copy_stage(SOURCE, DESTINATION, STAGES[1:2])
    if under_key:
        again = fleet.for_each_copy_stage(SOURCE, DESTINATION, idempotency_key=key)
    else:
        again = fleet.retry(failed.id)
    assert (1, 0, 1) == (again.total, again.succeeded, again.skipped)


def test_no_more_than_parallel_items_are_ahead_of_the_callback(fleet):
    ahead: list[int] = []
    called: list[str] = []

    def note(outcome):
        ahead.append(len(listed(fleet, DESTINATION)) - len(called))
        called.append(outcome.item)

    fleet.for_each_copy_stage(SOURCE, DESTINATION, None, note, parallel=2)
    assert STAGES == called
    assert 2 == max(ahead)


def test_nothing_happens_before_somebody_looks(fleet):
    run = fleet.start(COPY)
    assert [] == listed(fleet, DESTINATION)
    assert fleet.cancel(run.id)
    assert (RunState.CANCELLED, 5) == (fleet.run(run.id).state, fleet.run(run.id).cancelled)
    assert [] == listed(fleet, DESTINATION)


def test_each_look_at_a_run_executes_its_next_items(fleet):
    run = fleet.start(COPY, parallel=2)
    assert [2, 4, 5] == [fleet.run(run.id).done for _ in range(3)]
    assert RunState.SUCCEEDED == fleet.run(run.id).state


def test_two_threads_may_wait_for_runs_at_once(fleet):
    runs = [fleet.start(COPY.model_copy(update={"verify": True}), parallel=1) for _ in range(4)]
    ended: list[Run] = []
    threads = [threading.Thread(target=lambda run=run: ended.append(fleet.wait(run))) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [RunState.SUCCEEDED] * 4 == [run.state for run in ended]
    assert 5 == sum(run.succeeded for run in ended)


def test_the_callbacks_of_a_detached_run_are_recorded(fleet):
    callback = RemoteCallback(outcome_url="https://ci.test/outcome", finish_url="https://ci.test/end")
    run = fleet.start(COPY, STAGES[:2], callback, parallel=1)
    assert RunState.SUCCEEDED == fleet.wait(run).state
    *outcomes, end = fleet.worker.remote_calls
    assert STAGES[:2] == [call.data["outcome"]["item"] for call in outcomes]
    assert {"https://ci.test/outcome"} == {call.target for call in outcomes}
    assert ("https://ci.test/end", "succeeded") == (end.target, end.data["summary"]["state"])


def test_a_task_that_gets_outcomes_is_recorded_by_its_name(fleet):
    fleet.wait(fleet.start(COPY, STAGES[:1], RemoteCallback(outcome_task="ci.note@ci")))
    assert [("ci.note@ci", STAGES[0])] == [
        (call.target, call.data["outcome"]["item"]) for call in fleet.worker.remote_calls
    ]


def test_a_fetch_notes_the_use_of_a_stage_on_its_host(fleet):
    outcomes: list[Any] = []
    for _ in range(2):
        fleet.for_each_fetch_stage(SOURCE, STAGES[:1], outcomes.append, hosts=["ci-1"])
    assert ["ci-1", "ci-1"] == [outcome.host for outcome in outcomes]
    assert [ItemState.SUCCEEDED, ItemState.SKIPPED] == [outcome.state for outcome in outcomes]
    assert [f"{SOURCE}:{STAGES[0]}"] == [used.image for used in fleet.hosts.last_used("ci-1")]
    with pytest.raises(HostNotFoundError):
        fleet.for_each_fetch_stage(SOURCE, STAGES[:1], hosts=["elsewhere"])


def test_it_has_no_engine(fleet):
    with pytest.raises(EngineNotFoundError):
        list(fleet.stage_ids("docker-daemon:app"))


def test_stages_come_while_a_test_goes_on(fleet):
    fleet.for_each_copy_stage(SOURCE, DESTINATION)
    fleet.registries.add_stages(SOURCE, ["f" * 56])
    assert (1, 5) == ((run := fleet.for_each_copy_stage(SOURCE, DESTINATION)).succeeded, run.skipped)


def test_the_environment_is_not_read(monkeypatch):
    monkeypatch.setenv("STAGEFLEET_RUNS__PARALLEL", "3")
    monkeypatch.setenv("STAGEFLEET_REDIS_URL", "redis://nowhere.test/")
    with in_memory_fleet() as fleet:
        assert Settings() == fleet.settings
        assert [] == list(fleet.runs())


@pytest.mark.parametrize("name", catalog.OPERATIONS)
def test_the_worker_in_memory_executes_every_operation_of_the_catalog(name):
    assert name in memory_worker._TASKS


def test_an_operation_of_the_catalog_that_the_worker_in_memory_lacks_fails(fleet, monkeypatch):
    monkeypatch.delitem(memory_worker._TASKS, "copy_stage")
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION)
    assert (0, 5) == (run.succeeded, run.failed)
    failed = next(fleet.failures(run.id)).error
    assert ("NotImplementedError", "the worker in memory does not execute copy_stage") == (
        failed.type,
        failed.message,
    )


class OwnOperation(CopyOperation):
    """An operation whose task only a program's own workers have."""

    name: ClassVar[str] = "own_copy"


def test_an_operation_outside_of_the_catalog_succeeds_and_changes_nothing(fleet):
    own = OwnOperation(source=COPY.source, destination=COPY.destination)
    assert 5 == fleet.for_each(own).succeeded
    assert [] == listed(fleet, DESTINATION)


@pytest.mark.parametrize("reject", [False, True])
def test_a_stage_without_a_layer_is_told_and_rejected_where_that_is_asked_for(fleet, monkeypatch, reject):
    monkeypatch.setattr(verification, "SECOND_LOOK_SECONDS", 0)
    stored = fleet.registries.stored(Repository.parse(SOURCE))
    lost = digest_of(STAGES[1].encode())
    del stored.blobs[lost]
    run = fleet.for_each(VerifyOperation(repository=Repository.parse(SOURCE), reject=reject))
    assert (4, 1) == (run.succeeded, run.failed)
    (failed,) = fleet.failures(run.id)
    assert (STAGES[1], "MissingContentError") == (failed.item, failed.error.type)
    assert f"{SOURCE}: the layer {lost} is missing{'; rejected' if reject else ''}" == failed.error.message
    assert (STAGES[1] in listed(fleet, SOURCE)) is not reject


def test_a_blob_with_other_content_is_no_content_of_a_stage(fleet, monkeypatch):
    monkeypatch.setattr(verification, "SECOND_LOOK_SECONDS", 0)
    stored = fleet.registries.stored(Repository.parse(SOURCE))
    stored.blobs[digest_of(STAGES[1].encode())] = b"other"
    (failed,) = fleet.failures(fleet.for_each(VerifyOperation(repository=Repository.parse(SOURCE))).id)
    assert (STAGES[1], "AlteredContentError") == (failed.item, failed.error.type)
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, STAGES[1:2])
    (failed,) = fleet.failures(run.id)
    assert (STAGES[1], "DigestMismatchError") == (failed.item, failed.error.type)


@pytest.fixture
def signature(fleet):
    """A manifest that refers to the first stage."""
    registries, repository = fleet.registries, Repository.parse(SOURCE)
    image = registries.fetch_manifest(repository.tagged(STAGES[0]))
    subject = {"mediaType": image.media_type, "digest": str(image.digest), "size": image.size}
    document = json.loads(image.raw) | {"artifactType": "application/x.signature", "subject": subject}
    signature = Manifest.of(document)
    registries.put_manifest(Reference.of(repository, signature.digest), signature)
    return signature


def test_what_refers_to_a_stage_goes_with_it_where_it_is_asked_for(fleet, signature):
    """In the thread of the test, as everything else: no probe and no wait."""
    outcomes: list[Any] = []
    stored = fleet.registries.stored(Repository.parse(SOURCE))
    fleet.for_each_delete_stage(SOURCE, [STAGES[1]], outcomes.append, referrers=True)
    assert signature.digest in stored.manifests
    fleet.project(SOURCE_PROJECT).for_each_delete_stage([STAGES[0]], outcomes.append, referrers=True)
    assert [{"referrers": 0}, {"referrers": 1}] == [outcome.result for outcome in outcomes]
    assert signature.digest not in stored.manifests
    assert STAGES[2:] == listed(fleet, SOURCE)


@pytest.mark.parametrize("referrers", [False, True])
def test_a_purge_takes_what_refers_to_the_stages_where_it_is_asked_for(fleet, signature, referrers):
    stored = fleet.registries.stored(Repository.parse(SOURCE))
    done = fleet.project(SOURCE_PROJECT).purge(referrers=referrers)
    assert {"succeeded"} == {str(group.run.state) for group in done if group.run is not None}
    assert referrers == (signature.digest not in stored.manifests)
