from __future__ import annotations

import pytest

from stagefleet import Fleet, Outcome, RunState
from stagefleet.errors import KeyConflictError, UsageError
from stagefleet.fleet import submission
from stagefleet.names import parse_address
from stagefleet.operations.base import fingerprint
from stagefleet.operations.copy import CopyOperation
from stagefleet.operations.delete import DeleteOperation
from stagefleet.project_addresses import parse_stage_ids
from stagefleet.testing import MemoryLedger

SOURCE, DESTINATION = "src.test/app", "dst.test/app"


def copy(fleet, *arguments, **options):
    return fleet.for_each_copy_stage(SOURCE, DESTINATION, *arguments, idempotency_key="job-7", **options)


def test_the_same_key_gives_the_result_again_and_calls_back_again(fleet, fake_worker):
    first = copy(fleet)
    seen: list[Outcome] = []
    again = copy(fleet, None, seen.append)
    assert first.id == again.id
    assert 5 == len(seen)
    assert 4 == len(fake_worker.done)


def test_the_result_under_a_key_is_given_also_where_the_source_has_changed(
    fleet, fake_worker, registries, make_stage
):
    first = copy(fleet, [make_stage(2)])
    registries.stages.clear()
    assert first.id == copy(fleet, [make_stage(2)]).id


def test_other_arguments_under_a_used_key_are_refused(fleet, fake_worker, make_stage):
    copy(fleet)
    with pytest.raises(KeyConflictError):
        copy(fleet, [make_stage(2)])


def test_a_failed_run_is_gone_on_with_under_its_key(fleet, fake_worker, make_stage):
    fake_worker.failing = {make_stage(3)}
    failed = copy(fleet)
    fake_worker.failing = set()
    again = copy(fleet)
    assert (RunState.FAILED, RunState.SUCCEEDED) == (failed.state, again.state)
    assert (1, 1, failed.id) == (again.total, again.succeeded, again.spec.parent)


def test_a_callback_stops_also_a_run_that_it_only_found(fleet, ledger):
    running = copy(fleet, detach=True)

    def refuse(_):
        raise LookupError("enough")

    with pytest.raises(LookupError):
        copy(fleet, None, refuse)
    assert (RunState.CANCELLED, "enough") == (
        ledger.run(running.id).state,
        ledger.run(running.id).error.message,
    )


def test_a_submission_that_breaks_off_is_cancelled(fleet, ledger, monkeypatch):
    monkeypatch.setattr(ledger, "append", _break)
    with pytest.raises(OSError, match="broken"):
        fleet.for_each_copy_stage(SOURCE, DESTINATION)
    assert [RunState.CANCELLED] == [run.state for run in ledger.runs()]


def test_a_keyed_submission_that_breaks_off_is_left_to_the_next_attempt(fleet, ledger, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "append", _break)
        with pytest.raises(OSError, match="broken"):
            copy(fleet)
    assert [RunState.SUBMITTING] == [run.state for run in ledger.runs()]


def _break(*_, **__):
    raise OSError("broken")


def test_the_next_attempt_completes_a_submission_once_its_lease_is_over(services, settings, monkeypatch):
    now = [1000.0]
    services.ledger = MemoryLedger(settings.runs, clock=lambda: now[0])
    fleet = Fleet(services)
    with monkeypatch.context() as patch:
        patch.setattr(services.ledger, "append", _break)
        with pytest.raises(OSError, match="broken"):
            copy(fleet)

    def wait(_):
        now[0] += settings.runs.lease_seconds

    monkeypatch.setattr(submission, "sleep", wait)
    run = copy(fleet, detach=True)
    assert (RunState.RUNNING, 5, 1) == (run.state, run.total, run.skipped)


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb"])
def test_keys_that_nobody_can_mean_are_refused(fleet, key):
    with pytest.raises(UsageError, match="idempotency key"):
        fleet.for_each_copy_stage(SOURCE, DESTINATION, idempotency_key=key)


def test_a_fingerprint_is_of_the_arguments_and_not_of_their_order(make_stage):
    one, two = make_stage(1), make_stage(2)

    def of(source, destination, items, *, verify=False):
        here, there = parse_address(source), parse_address(destination)
        operation = CopyOperation(source=here, destination=there, verify=verify)
        return fingerprint(operation, parse_stage_ids(items))

    same = {of(SOURCE, DESTINATION, [one, two]), of(SOURCE, DESTINATION, [two, one, two])}
    others = {
        of(SOURCE, DESTINATION, None),
        of(SOURCE, DESTINATION, []),
        of(SOURCE, DESTINATION, [one]),
        of(DESTINATION, SOURCE, [one, two]),
        of(SOURCE, DESTINATION, [one, two], verify=True),
        fingerprint(DeleteOperation.of(parse_address(SOURCE)), [one, two]),
    }
    assert 1 == len(same)
    assert 6 == len(others - same)


def test_a_result_that_is_there_already_is_said_not_to_be_new(fleet, fake_worker, notices):
    first = copy(fleet)
    assert [] == notices
    again = copy(fleet)
    assert first.id == again.id
    (notice,) = notices
    assert notice.startswith(f"nothing was done now: run {first.id} of 20")
    assert notice.endswith(" succeeded under this key, and its result is shown")


def test_a_run_that_is_attached_to_or_gone_on_with_is_not_said_to_be_old(
    fleet, fake_worker, notices, make_stage
):
    fake_worker.failing = {make_stage(3)}
    copy(fleet)
    fake_worker.failing = set()
    copy(fleet)
    assert [] == notices
