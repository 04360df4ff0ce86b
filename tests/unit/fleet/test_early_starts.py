"""Runs whose first items start before the last are submitted, and clients that go away in the middle."""

from __future__ import annotations

import pytest

from stagefleet import RunState, errors
from stagefleet.fleet import submission
from stagefleet.names import parse_address
from stagefleet.operations.base import Operation
from stagefleet.operations.copy import CopyOperation
from stagefleet.operations.delete import DeleteOperation, PruneOperation
from stagefleet.operations.records import DeleteManagedImageOperation, ReadCustomTagOperation
from stagefleet.project_addresses import parse_repository
from stagefleet.runs.models import WorkerInfo
from stagefleet.runs.versions import WriterVersion, own_version
from tests.contract.ledgers import request_under

SOURCE, DESTINATION = map(parse_address, ("src.test/app", "dst.test/app"))
COPY = CopyOperation(source=SOURCE, destination=DESTINATION)


class ProcessKilledError(BaseException):
    """The client's process is gone."""


@pytest.fixture
def settings(settings):
    """Those of a client whose runs start early."""
    runs = settings.runs.model_copy(update={"start_early": "always"})
    return settings.model_copy(update={"runs": runs})


@pytest.fixture
def dying(ledger, monkeypatch):
    """Lets a client go away after so many appends; it does nothing more then, unless it is interrupted."""
    monkeypatch.setattr(submission, "_ITEMS_A_CALL", 2)
    append = ledger.append

    def dying(appends, error):
        left = iter(range(appends))

        def append_some(*arguments, **options):
            if next(left, None) is None:
                monkeypatch.setattr(ledger, "append", append)
                raise error
            append(*arguments, **options)

        monkeypatch.setattr(ledger, "append", append_some)
        if error is ProcessKilledError:
            monkeypatch.setattr(submission, "_give_up", lambda *_, **__: None)

    return dying


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (COPY, True),
        (ReadCustomTagOperation(repository=SOURCE), True),
        (DeleteOperation(repository=SOURCE), False),
        (PruneOperation(repository=DESTINATION, source=parse_repository(SOURCE)), False),
        (DeleteManagedImageOperation(repository=SOURCE), False),
    ],
)
def test_what_deletes_starts_when_its_list_is_complete(operation: Operation, *, expected: bool):
    assert expected is operation.starts_early


def test_the_first_items_are_done_before_the_last_are_submitted(fleet, ledger, fake_worker, monkeypatch):
    monkeypatch.setattr(submission, "_ITEMS_A_CALL", 1)
    append, done = ledger.append, []

    def append_and_wait(written, *arguments, **options):
        append(written, *arguments, **options)
        with ledger._runs.changed:
            ledger._runs.changed.wait_for(lambda: ledger.run(written.run_id).done == written.total, 30)
        done.append(len(fake_worker.done))

    monkeypatch.setattr(ledger, "append", append_and_wait)
    run = fleet.for_each(COPY)
    assert (RunState.SUCCEEDED, 5) == (run.state, run.total)
    assert [0, 1, 2, 3, 4] == done


def test_a_run_on_request_starts_when_its_list_is_complete(fleet):
    request = {"idempotency_key": "k", "request": request_under("k")}
    assert fleet.start(COPY).spec.starts_early
    assert not fleet.start(COPY, **request).spec.starts_early


KNOWING, OLDER = own_version(), WriterVersion()


@pytest.mark.parametrize(
    ("start_early", "versions", "run", "expected"),
    [
        ("auto", [KNOWING, KNOWING], {}, True),
        ("auto", [KNOWING, OLDER], {}, False),
        ("auto", [WriterVersion("0.0.9", "1.0")], {}, False),
        ("auto", [], {}, False),
        ("auto", [KNOWING], {"idempotency_key": "k"}, False),
        ("never", [KNOWING], {}, False),
        ("always", [OLDER], {"idempotency_key": "k"}, True),
    ],
)
def test_a_long_run_starts_early_by_the_settings_and_where_all_workers_know_how(
    fleet, services, ledger, monkeypatch, start_early, versions, run, *, expected: bool
):
    monkeypatch.setattr(submission, "_ITEMS_A_CALL", 2)
    runs = services.settings.runs.model_copy(update={"start_early": start_early})
    services.settings = services.settings.model_copy(update={"runs": runs})
    for number, version in enumerate(versions):
        ledger.heartbeats.beat(WorkerInfo(f"worker-{number}", 1, ("copy",), version), seconds=60)
    assert expected is fleet.start(COPY, **run).spec.starts_early


def test_a_run_of_one_append_starts_when_it_is_written(fleet, services, ledger):
    runs = services.settings.runs.model_copy(update={"start_early": "auto"})
    services.settings = services.settings.model_copy(update={"runs": runs})
    ledger.heartbeats.beat(WorkerInfo("worker", 1, ("copy",)), seconds=60)
    assert not fleet.start(COPY).spec.starts_early


def test_a_mirror_starts_when_all_of_it_is_written(fleet):
    project = fleet.project(SOURCE)
    runs = project.start_mirror(str(DESTINATION), max_percent=100).runs
    assert [False] * len(runs) == [run.spec.starts_early for run in runs]


def test_the_same_call_completes_what_a_killed_client_left(fleet, ledger, fake_worker, dying, registries):
    """Each stage has one outcome, though those that are there by then are skipped by the new plan."""
    dying(2, ProcessKilledError)
    with pytest.raises(ProcessKilledError):
        fleet.for_each(COPY, idempotency_key="k")
    half = fleet.run_under("k")
    assert (RunState.SUBMITTING, 3) == (half.state, half.total)
    registries.stages[str(DESTINATION)] += registries.stages[str(SOURCE)][2:3]
    ledger._runs.records[half.id].submitter_until = 0
    run = fleet.for_each(COPY, idempotency_key="k")
    assert (half.id, RunState.SUCCEEDED, 5, 5) == (run.id, run.state, run.total, run.done)
    names = [outcome.item for outcome in ledger.outcomes(run.id, "", limit=100, block_seconds=0)]
    assert sorted(registries.stages[str(SOURCE)]) == sorted(names)


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, errors.TooManyItemsError("too many")])
def test_a_client_that_is_interrupted_or_refused_cancels_what_it_submitted(fleet, ledger, dying, key, error):
    dying(2, error)
    with pytest.raises((KeyboardInterrupt, errors.TooManyItemsError)):
        fleet.for_each(COPY, idempotency_key=key)
    (run,) = fleet.runs()
    assert (RunState.CANCELLED, 3, 2) == (run.state, run.total, run.cancelled)
    again = fleet.for_each(COPY, idempotency_key=key, detach=True)
    assert (5, None) == (again.total, again.spec.parent)


def test_a_client_that_lost_its_run_to_another_leaves_it_alone(fleet, dying):
    dying(2, errors.LeaseLostError("another has it"))
    with pytest.raises(errors.LeaseLostError):
        fleet.for_each(COPY, idempotency_key="k")
    assert RunState.SUBMITTING is fleet.run_under("k").state
