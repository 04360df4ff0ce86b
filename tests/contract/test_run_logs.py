"""The end of a run is logged once, by whoever ended it, with its counts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stagefleet.runs.model import ItemState
from tests.contract.twins import LEASE_SECONDS, RedisBroker, Twin, outcome_of, skip_of

COPY = {"source": "a.test/app", "destination": "b.test/app"}

Ends = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def twin(redis_server: Any) -> Iterator[Twin]:
    broker = RedisBroker(redis_server.url)
    yield Twin(broker)
    broker.close()


@pytest.fixture
def ends(caplog: pytest.LogCaptureFixture) -> Ends:
    """Give the facts of the ends that were logged so far."""
    caplog.set_level(logging.INFO, "stagefleet")

    def ends() -> list[dict[str, Any]]:
        facts = [getattr(record, "facts", {}) for record in caplog.records]
        return [fact for fact in facts if fact.get("event") == "run_finished"]

    return ends


def test_the_worker_of_the_last_item_logs_the_end(twin: Twin, ends: Ends):
    run = twin.submit(["a", "b"], [skip_of("c")], operation="copy_stage", options=COPY)
    twin.succeed(twin.take())
    assert [] == ends()
    twin.fail(twin.take())

    (end,) = ends()
    assert 0 <= end.pop("seconds")
    assert end == {
        "event": "run_finished",
        "action": "finish",
        "run": run,
        "operation": "copy_stage",
        **COPY,
        "state": "failed",
        "total": 3,
        "succeeded": 1,
        "failed": 1,
        "skipped": 1,
        "cancelled": 0,
        "bytes": 0,
    }


def test_a_retry_is_no_end(twin: Twin, ends: Ends):
    twin.submit(["a"])
    twin.fail(twin.take(), retry_after_seconds=5)
    assert [] == ends()


def test_an_answer_that_comes_again_is_no_second_end(twin: Twin, ends: Ends):
    twin.submit(["a"])
    claim = twin.take()
    twin.succeed(claim)
    twin.succeed(claim)
    assert 1 == len(ends())


def test_the_client_logs_the_end_of_a_run_without_tasks(twin: Twin, ends: Ends):
    run = twin.submit([], [skip_of("a")])
    assert [("start", run)] == [(end["action"], end["run"]) for end in ends()]


def test_the_client_whose_callback_returns_last_logs_the_end(twin: Twin, ends: Ends):
    run, epoch = twin.watch(["a"])
    twin.succeed(twin.take())
    assert [] == ends()
    twin.ledger.acknowledge(run, epoch, twin.outcomes(run) or [])
    assert ["acknowledge"] == [end["action"] for end in ends()]


def test_who_cancels_logs_the_end(twin: Twin, ends: Ends):
    run = twin.submit(["a", "b"])
    twin.ledger.cancel(run)
    assert [("cancel", "cancelled", 2)] == [(end["action"], end["state"], end["cancelled"]) for end in ends()]


def test_the_worker_that_hands_back_the_last_item_of_a_cancelled_run_logs_the_end(twin: Twin, ends: Ends):
    run = twin.submit(["a"])
    claim = twin.take()
    twin.ledger.cancel(run)
    assert [] == ends()
    twin.ledger.hand_back(claim)
    assert ["hand_back"] == [end["action"] for end in ends()]


def test_the_reaper_logs_the_end_of_a_run_whose_client_vanished(twin: Twin, ends: Ends):
    twin.watch(["a"])
    twin.drop_messages()
    twin.advance(2 * LEASE_SECONDS)
    twin.ledger.sweep()

    (end,) = ends()
    assert ("sweep", "cancelled", "CoordinatorLostError") == (end["action"], end["state"], end["error_type"])


def test_an_end_that_cannot_be_read_back_costs_nothing(twin: Twin, ends: Ends, monkeypatch, caplog):
    run = twin.submit(["a"])
    claim = twin.take()
    with monkeypatch.context() as patch:
        patch.setattr(twin.ledger, "run", lambda run: twin.ledger.__class__.run(twin.ledger, "nowhere"))
        assert twin.ledger.finish(claim, outcome_of(claim, ItemState.SUCCEEDED))

    assert "succeeded" == twin.ledger.run(run).state
    assert [] == ends()
    assert "run_end_not_logged" in caplog.text
