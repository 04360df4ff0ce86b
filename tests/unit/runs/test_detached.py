"""The coordinator of runs that nobody watches, without workers, receivers and time."""

from __future__ import annotations

import pytest

from stagefleet.errors import CallbackDeclinedError, CallbackError
from stagefleet.runs.models import Callback, RunState
from tests.unit.runs.stage import ITEMS, URL, Stage


@pytest.mark.parametrize(("callback", "target"), [(Callback.WEBHOOK, URL), (Callback.TASK, "acme.note")])
def test_one_coordination_tells_all_that_there_is_and_the_end(callback, target):
    stage = Stage(callback, target)
    stage.deliver()
    assert [*ITEMS, "succeeded"] == stage.receiver.told
    assert RunState.SUCCEEDED is stage.state
    stage.pass_time(1000)
    assert 4 == len(stage.receiver.told)


def test_a_process_that_is_to_end_leaves_the_rest_to_the_next():
    stage = Stage()
    stage.is_stopping = True
    stage.deliver()
    assert [] == stage.receiver.told
    assert 1 == stage.calls
    stage.is_stopping = False
    stage.deliver()
    assert [*ITEMS, "succeeded"] == stage.receiver.told


def test_a_coordination_that_lasts_too_long_goes_to_the_end_of_the_queue():
    stage = Stage()
    stage.receiver.pause = lambda: stage.wait(6)
    stage.deliver()
    assert ["a", "b"] == stage.receiver.told
    assert 1 == stage.calls
    stage.deliver()
    assert [*ITEMS, "succeeded"] == stage.receiver.told


def test_a_failure_is_followed_by_a_pause_that_grows():
    stage = Stage()
    stage.receiver.errors = [CallbackError("503"), CallbackError("503")]
    stage.deliver()
    stage.pass_time(1.9)
    assert 1 == len(stage.receiver.errors), "the first pause is between 2 and 4 s"
    stage.pass_time(2.1)
    assert [] == stage.receiver.errors
    stage.pass_time(3.9)
    assert [] == stage.receiver.told, "the second is between 4 and 8 s"
    stage.pass_time(4.1)
    assert [*ITEMS, "succeeded"] == stage.receiver.told


def test_a_receiver_that_asks_for_time_has_it():
    stage = Stage()
    stage.receiver.errors = [CallbackError("429", retry_after_seconds=60)]
    stage.deliver()
    stage.pass_time(59)
    assert [] == stage.receiver.told
    stage.pass_time(2)
    assert [*ITEMS, "succeeded"] == stage.receiver.told


def test_one_that_stays_away_loses_its_run_and_is_told_so():
    stage = Stage()
    stage.receiver.errors = [CallbackError("503"), CallbackError("503")]
    stage.deliver()
    stage.pass_time(101)
    assert RunState.CANCELLED is stage.state
    error = stage.ledger.run(stage.run_id).error
    assert error is not None
    assert "CallbackLostError" == error.type
    stage.deliver()
    assert ["cancelled"] == stage.receiver.told


def test_one_that_wants_no_more_cancels_its_run():
    stage = Stage()
    stage.receiver.errors = [CallbackDeclinedError("410")]
    stage.deliver()
    assert RunState.CANCELLED is stage.state
    stage.deliver()
    assert ["cancelled"] == stage.receiver.told


def test_an_end_that_nobody_wants_to_hear_is_given_up(monkeypatch):
    stage = Stage()
    tell = stage.receiver.call
    monkeypatch.setattr(
        stage.receiver,
        "call",
        lambda call, lease: tell(call, lease) if call.url == URL else _refuse(),
    )
    stage.deliver()
    assert ITEMS == stage.receiver.told
    assert RunState.SUCCEEDED is stage.state
    stage.pass_time(101)
    stage.pass_time(1000)
    assert 0 == stage.calls
    assert stage.ledger.callbacks.claim(stage.run_id) is None
    assert RunState.SUCCEEDED is stage.state


def _refuse():
    raise CallbackError("503")
