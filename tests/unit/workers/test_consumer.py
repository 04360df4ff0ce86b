"""A worker's consumer on a Redis that it cannot use."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import WorkerShutdown
from celery.worker import state
from celery.worker.consumer import Consumer

from stagefleet.errors import RedisConfigurationError
from workers import consumer as module
from workers.consumer import BatchedEventsConsumer
from workers.process import _stop_consuming

REFUSAL = RedisConfigurationError("Redis at redis:6379 refuses the login")


class Answers(BatchedEventsConsumer):
    """A consumer that is not connected to anything, on a clock of its own."""

    def __init__(self) -> None:
        """Nothing of Celery's is made."""


@pytest.fixture
def answers(monkeypatch):
    """What connecting brings, one after the other; then the connection."""
    waiting: list[Exception] = []

    def connect(_self: Any, connection: Any) -> Any:
        if waiting:
            raise waiting.pop(0)
        return connection

    monkeypatch.setattr(Consumer, "ensure_connected", connect)
    return waiting


@pytest.fixture
def signals(monkeypatch):
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _pid, number: sent.append(number))
    monkeypatch.setattr(state, "should_stop", None)
    return sent


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(at=100.0)

    def sleep(seconds: float) -> None:
        now.at += seconds

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.at, sleep=sleep))
    return now


def test_a_refusal_at_the_start_ends_the_process_at_once(answers, signals, clock):
    """U11: a worker that never worked does not wait for a Redis that refuses its login."""
    answers.append(REFUSAL)
    with pytest.raises(WorkerShutdown) as caught:
        Answers().ensure_connected("connection")
    assert (2, 2, [signal.SIGTERM]) == (caught.value.code, state.should_stop, signals)
    assert 100.0 == clock.at


def test_a_worker_that_has_worked_sits_a_refusal_out_for_a_moment(answers, signals, clock):
    """R8: one bad answer does not end a worker: a Redis that restarts may know its users a moment later."""
    consumer = Answers()
    consumer.ensure_connected("first")
    answers.extend([REFUSAL] * 3)
    assert "connection" == consumer.ensure_connected("connection")
    assert [] == signals


def test_a_refusal_that_stays_ends_a_worker_that_has_worked(answers, signals, clock):
    """U11: a refused login does not get better by waiting."""
    consumer = Answers()
    consumer.ensure_connected("first")
    answers.extend([REFUSAL] * 100)
    with pytest.raises(WorkerShutdown):
        consumer.ensure_connected("connection")
    assert 100 < clock.at <= 111


def test_refusals_long_apart_do_not_add_up(answers, signals, clock):
    """R8: what counts is how long the refusal lasts, not when the first one was."""
    consumer = Answers()
    for _ in range(3):
        consumer.ensure_connected("first")
        answers.append(REFUSAL)
        consumer.ensure_connected("connection")
        clock.at += 60
    assert [] == signals


def test_the_drain_does_not_forget_why_the_process_ends(signals, monkeypatch):
    """U11: the signal that drains a worker leaves the status that it ends with."""
    monkeypatch.setattr(state, "should_stop", 2)
    _stop_consuming()
    assert 2 == state.should_stop
    monkeypatch.setattr(state, "should_stop", None)
    _stop_consuming()
    assert 0 == state.should_stop
