"""The coordinator of runs that nobody watches, without workers, receivers and time."""

from __future__ import annotations

import pytest

from stagefleet.errors import CallbackError, CallbackGoneError
from stagefleet.runs.detached import DetachedCoordinator
from stagefleet.runs.model import Callback, ItemState, Order, Outcome, RunState
from stagefleet.settings import WebhookSettings
from stagefleet.testing import MemoryLedger

ITEMS = ["a", "b", "c"]
URL = "https://ci.test/outcome"
END = "https://ci.test/end"


class Receiver:
    """Notes what it is told; raises what a test wants instead."""

    def __init__(self):
        self.told = []
        self.errors = []
        self.pause = lambda: None

    def call(self, url, webhook_id, kind, data):
        self.pause()
        if self.errors:
            raise self.errors.pop(0)
        self.told.append(
            data["outcome"]["item"] if kind == "stagefleet.outcome" else data["summary"]["state"]
        )
        assert url == (URL if kind == "stagefleet.outcome" else END)
        assert webhook_id.startswith(data["run"])

    def publish(self, target, task_id, arguments):
        assert target == "acme.note"
        assert task_id.startswith(arguments["run"])
        self.told.append(arguments["outcome"]["item"])


class Stage:
    """A ledger whose time a test moves, a run in it whose items have all succeeded, and its coordinator."""

    def __init__(self, callback=Callback.WEBHOOK, target=URL):
        self.now = 0.0
        self.is_stopping = False
        self.ledger = MemoryLedger(clock=lambda: self.now)
        self.receiver = Receiver()
        self.coordinator = DetachedCoordinator(
            self.ledger,
            self.receiver,
            self.receiver.publish,
            WebhookSettings(backoff_seconds=4, give_up_seconds=100),
            stopping=lambda: self.is_stopping,
            clock=lambda: self.now,
        )
        order = Order(operation="copy_stage", callback=callback, callback_target=target, finish_url=END)
        submission = self.ledger.open(order)
        self.run = submission.run
        self.ledger.append(submission, ITEMS)
        self.ledger.start(submission)
        while self.calls < len(self.ledger.broker):
            message = self.ledger.broker.popleft()
            claim = self.ledger.claim(message.run, message.index, "host:1")
            if claim is None:
                self.ledger.broker.append(message)
            else:
                self.ledger.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED))

    @property
    def calls(self):
        return sum(message.index < 0 for message in self.ledger.broker)

    @property
    def state(self):
        return self.ledger.run(self.run).state

    def deliver(self):
        """Deliver each message to a coordinator that waits now."""
        for _ in range(self.calls):
            self.ledger.broker.popleft()
            self.coordinator.coordinate(self.run)

    def wait(self, seconds):
        self.now += seconds

    def pass_time(self, seconds):
        self.wait(seconds)
        self.ledger.sweep()
        self.deliver()


@pytest.mark.parametrize(("callback", "target"), [(Callback.WEBHOOK, URL), (Callback.TASK, "acme.note")])
def test_one_visit_tells_all_that_there_is_and_the_end(callback, target):
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


def test_a_visit_that_lasts_too_long_goes_to_the_end_of_the_queue():
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
    error = stage.ledger.run(stage.run).error
    assert error is not None
    assert "CallbackLostError" == error.type
    stage.deliver()
    assert ["cancelled"] == stage.receiver.told


def test_one_that_wants_no_more_cancels_its_run():
    stage = Stage()
    stage.receiver.errors = [CallbackGoneError("410")]
    stage.deliver()
    assert RunState.CANCELLED is stage.state
    stage.deliver()
    assert ["cancelled"] == stage.receiver.told


def test_an_end_that_nobody_wants_to_hear_is_given_up(monkeypatch):
    stage = Stage()
    tell = stage.receiver.call
    monkeypatch.setattr(
        stage.receiver, "call", lambda *arguments: tell(*arguments) if arguments[0] == URL else _refuse()
    )
    stage.deliver()
    assert ITEMS == stage.receiver.told
    assert RunState.SUCCEEDED is stage.state
    stage.pass_time(101)
    stage.pass_time(1000)
    assert 0 == stage.calls
    assert stage.ledger.attend(stage.run) is None
    assert RunState.SUCCEEDED is stage.state


def _refuse():
    raise CallbackError("503")
