"""Callbacks of the fleet that fail in ways that nobody has thought of."""

from __future__ import annotations

import pytest
import redis
from urllib3.exceptions import LocationParseError

from stagefleet.errors import CallbackError, RedisUnreachableError, SettingsError
from stagefleet.runs.models import Callback, RunState, WaitKind, WaitReason
from tests.unit.runs.stage import GIVE_UP_SECONDS, ITEMS, URL, Stage


class Unspeakable(Exception):  # noqa: N818 - anybody's
    def __str__(self):
        raise ZeroDivisionError


ERRORS = [
    LocationParseError("'a..b', label empty or too long"),
    UnicodeError("label empty or too long"),
    redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    SettingsError("the file cannot be read"),
    RecursionError(),
    KeyError("x"),
    Unspeakable(),
]


def pass_days(stage):
    """Let more time pass than a receiver may stay away, with every coordinator that is called meanwhile."""
    calls = 0
    for _ in range(60):
        stage.wait(10)
        stage.ledger.sweep()
        calls += stage.calls
        stage.deliver()
    return calls


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("callback", "target"), [(Callback.WEBHOOK, URL), (Callback.TASK, "acme.note")])
def test_any_error_of_a_call_counts_pauses_and_gives_up(error, callback, target):
    """R10: no type of error calls the coordinator of a run for ever."""
    stage = Stage(callback, target)
    stage.receiver.errors = [error] * 1000
    stage.deliver()
    (wait,) = stage.ledger.run(stage.run_id).waits
    assert WaitKind.CALLBACK is wait.kind
    assert f"unexpected {type(error).__name__}" in wait.reason.text
    calls = pass_days(stage)
    found = stage.ledger.run(stage.run_id)
    assert RunState.CANCELLED is found.state
    assert found.error is not None
    assert "CallbackLostError" == found.error.type
    assert f"unexpected {type(error).__name__}" in found.error.message
    assert calls < 40
    assert 0 == pass_days(stage), "nobody is called any more"


def test_an_error_that_passes_costs_a_pause(caplog):
    """R10: what was an accident is made up for, and the log has it whole."""
    stage = Stage()
    stage.receiver.errors = [KeyError("x")]
    stage.deliver()
    assert [] == stage.receiver.told
    stage.pass_time(5)
    assert [*ITEMS, "succeeded"] == stage.receiver.told
    assert any(record.exc_info for record in caplog.records)


def test_outcomes_that_cannot_be_read_are_given_up_as_well(monkeypatch):
    """R10: an error before the first call counts like one of the receiver's."""
    stage = Stage()

    def unreadable(*_, **__):
        raise ValueError("another release wrote it")

    monkeypatch.setattr(stage.ledger, "outcomes", unreadable)
    stage.deliver()
    assert pass_days(stage) < 40
    assert RunState.CANCELLED is stage.state


def test_a_ledger_out_of_reach_is_no_failure_of_the_receiver(monkeypatch):
    stage = Stage()
    whole = stage.ledger.outcomes

    def away(*_, **__):
        raise RedisUnreachableError("away")

    monkeypatch.setattr(stage.ledger, "outcomes", away)
    with pytest.raises(RedisUnreachableError):
        stage.deliver()
    monkeypatch.setattr(stage.ledger, "outcomes", whole)
    stage.pass_time(31)
    assert [*ITEMS, "succeeded"] == stage.receiver.told


def test_a_call_that_outlasts_its_lease_is_followed_by_none():
    """R10: a coordinator whose lease is over, and whose renewals got lost, leaves calls to the next."""
    stage = Stage()
    stage.receiver.pause = lambda: stage.wait(28)
    stage.deliver()
    assert [] == stage.receiver.told, "the lease ends the call"
    stage.receiver.pause = lambda: None
    stage.pass_time(31)
    assert [*ITEMS, "succeeded"] == stage.receiver.told


def test_a_receiver_may_ask_for_time_until_it_is_given_up():
    """R7: a `Retry-After` of centuries parks no run: the next attempt is the last."""
    stage = Stage()
    stage.receiver.errors = [CallbackError("429", retry_after_seconds=1e10)] * 9
    stage.deliver()
    found = stage.ledger.run(stage.run_id)
    assert [GIVE_UP_SECONDS] == [wait.until - found.now_at for wait in found.waits]
    stage.pass_time(GIVE_UP_SECONDS)
    assert RunState.CANCELLED is stage.state


def test_a_wait_for_a_receiver_names_its_host_and_what_it_did():
    """R7: whoever follows the run reads for whom it waits."""
    stage = Stage()
    stage.receiver.errors = [CallbackError("the webhook at ci.test:8 answered 503", host="ci.test:8")]
    stage.deliver()
    (wait,) = stage.ledger.run(stage.run_id).waits
    assert (WaitReason(host="ci.test:8", text="answered 503"), 3) == (wait.reason, wait.count)


def test_calls_carry_the_time_of_the_fleet():
    """R38: the clock of a worker that is an hour off tells no receiver the time."""
    stage = Stage()
    stage.wait(5000)
    stage.receiver.pause = lambda: stage.wait(2)
    stage.deliver()
    assert [5000, 5002, 5004, 5006] == stage.receiver.times


def test_a_cancelled_run_does_not_wait_for_a_receiver_that_fails():
    """R7: a cancel calls the coordinator out of its pause, and the next failure ends the run."""
    stage = Stage()
    stage.receiver.errors = [OSError("nobody listens")] * 1000
    stage.deliver()
    assert RunState.RUNNING is stage.state

    assert stage.ledger.cancel(stage.run_id)
    stage.deliver()
    found = stage.ledger.run(stage.run_id)
    assert RunState.CANCELLED is found.state
    assert found.error is not None
    assert "after the run was cancelled" in found.error.message


def test_a_cancelled_run_still_tells_a_receiver_that_answers_again():
    stage = Stage()
    stage.receiver.errors = [OSError("nobody listens")]
    stage.deliver()
    stage.ledger.cancel(stage.run_id)
    stage.deliver()
    assert ITEMS == stage.receiver.told[: len(ITEMS)]
    assert stage.ledger.run(stage.run_id).error is None
