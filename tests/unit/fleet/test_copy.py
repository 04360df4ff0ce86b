from __future__ import annotations

import pytest

from stagefleet import RunState
from stagefleet.errors import (
    InvalidNameError,
    NoWorkerError,
    StagesNotFoundError,
    TooManyItemsError,
    UsageError,
)
from stagefleet.names import parse_address
from stagefleet.operations import base as operations
from stagefleet.operations.copy import CopyOperation

SOURCE, DESTINATION = "src.test/app", "dst.test/app"


def counts(run):
    return run.total, run.succeeded, run.skipped, run.failed, run.cancelled


def test_what_the_destination_lacks_is_copied_and_the_rest_skipped(fleet, fake_worker, make_stage):
    outcomes = {}
    run = fleet.for_each_copy_stage(
        SOURCE, DESTINATION, None, lambda outcome: outcomes.update({outcome.item: str(outcome.state)})
    )
    assert (5, 4, 1, 0, 0) == counts(run)
    assert RunState.SUCCEEDED == run.state
    expected = {make_stage(n): "skipped" if n == 1 else "succeeded" for n in range(5)}
    assert expected == outcomes


def test_named_stages_are_copied_once_each(fleet, fake_worker, make_stage):
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, [make_stage(3), make_stage(2), make_stage(3)])
    assert (2, 2, 0, 0, 0) == counts(run)
    assert [make_stage(3), make_stage(2)] == fake_worker.done


def test_verify_gives_every_stage_a_task_and_tries_the_destinations_login(fleet, fake_worker, registries):
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, verify=True)
    assert (5, 5, 0, 0, 0) == counts(run)
    assert [DESTINATION] == registries.pinged


def test_no_stage_named_is_an_empty_run_and_not_all(fleet):
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, [])
    assert (0, 0, 0, 0, 0) == counts(run)
    assert RunState.SUCCEEDED == run.state


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((SOURCE, SOURCE), UsageError, "are the same"),
        (("nowhere", DESTINATION), InvalidNameError, "names no registry"),
        (("docker-daemon:app", DESTINATION), UsageError, "Docker Engine"),
        ((SOURCE, DESTINATION, ["x"]), InvalidNameError, "no stage id"),
        ((SOURCE, DESTINATION, "a" * 56), UsageError, "one string"),
        ((SOURCE, DESTINATION, ["f" * 56]), StagesNotFoundError, "does not have ffff"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(fleet, ledger, arguments, error, words):
    with pytest.raises(error, match=words):
        fleet.for_each_copy_stage(*arguments)
    assert [] == list(ledger.runs())


def test_many_missing_stages_are_counted_and_only_some_named(fleet):
    missing = [f"{number:056x}" for number in range(1000, 1010)]
    with pytest.raises(StagesNotFoundError, match="and 7 more"):
        fleet.for_each_copy_stage(SOURCE, DESTINATION, missing)


def test_one_item_more_than_a_run_may_have_is_refused_before_anything_is_written(fleet, ledger, monkeypatch):
    monkeypatch.setattr(operations, "MAX_ITEMS", 4)
    with pytest.raises(TooManyItemsError, match="at most 4"):
        fleet.for_each_copy_stage(SOURCE, DESTINATION)
    assert [] == list(ledger.runs())


def test_a_callback_that_raises_stops_the_run_and_is_raised_here(fleet, fake_worker, registries, make_stage):
    registries.stages[SOURCE] = [make_stage(n) for n in range(100)]
    seen = []

    def stop_at_the_fifth(outcome):
        seen.append(outcome.item)
        if len(seen) == 5:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        fleet.for_each_copy_stage(SOURCE, DESTINATION, None, stop_at_the_fifth, parallel=4)
    (run,) = fleet.runs()
    assert RunState.CANCELLED == run.state
    assert "enough" == run.error.message
    assert 5 == len(seen)
    assert len(fake_worker.done) <= 5 + 3


def test_parallel_below_one_means_one(fleet, fake_worker):
    assert 1 == fleet.for_each_copy_stage(SOURCE, DESTINATION, parallel=-3).spec.parallel


def test_a_detached_run_returns_at_once_and_goes_on_alone(fleet):
    run = fleet.for_each_copy_stage(SOURCE, DESTINATION, detach=True)
    assert RunState.RUNNING == run.state
    assert (5, 1, 0) == (run.total, run.skipped, run.succeeded)


def test_a_detached_run_cannot_call_back(fleet, ledger):
    with pytest.raises(UsageError, match="cannot call back"):
        fleet.for_each_copy_stage(SOURCE, DESTINATION, None, print, detach=True)
    assert [] == list(ledger.runs())


@pytest.mark.parametrize("on_outcome", [None, print])
def test_without_a_worker_it_is_said_and_then_given_up(fleet, notices, on_outcome):
    with pytest.raises(NoWorkerError, match="stagefleet worker"):
        fleet.for_each_copy_stage(SOURCE, DESTINATION, None, on_outcome)
    (run,) = fleet.runs()
    assert (RunState.CANCELLED, "NoWorkerError") == (run.state, run.error.type)
    assert 1 == len(notices)
    assert "'copy'" in notices[0]


def test_an_interrupt_cancels_the_run_and_goes_on(fleet, fake_worker):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fleet.for_each_copy_stage(SOURCE, DESTINATION, None, interrupt)
    (run,) = fleet.runs()
    assert "KeyboardInterrupt" == run.error.type


def test_a_plan_says_what_would_be_done_and_writes_nothing(fleet, ledger, make_stage):
    plan = fleet.plan(CopyOperation(source=parse_address(SOURCE), destination=parse_address(DESTINATION)))
    assert ([make_stage(n) for n in (0, 2, 3, 4)], [make_stage(1)]) == (list(plan.items), list(plan.skipped))
    assert [] == list(ledger.runs())
